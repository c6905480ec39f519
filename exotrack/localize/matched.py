"""The matched filter of a spot: taps, lattice, noise, and the threshold for a given rate of false alarms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from exotrack.tables import F32, F64

COVERED = 2.6
"""Widths of a spot that the kernel covers: what lies beyond holds 0.02 % of the information."""
FINE = 1.1
"""Narrowest spot that is looked for on every second pixel instead of every one, px."""
PIXEL = 1.0 / 12.0
"""Variance of a uniform distribution over a pixel, px²."""
SKEWNESSES = np.linspace(-0.3, 1.5, 7)
"""Skewness of the noise per pixel for which thresholds are tabulated."""


@dataclass(frozen=True)
class MatchedFilter:
    """Gaussian of the spot's width minus the mean of a square: the likelihood-ratio test with unknown local offset.

    Examples
    --------
    >>> matched = MatchedFilter.for_sigma(1.5)
    >>> bool(abs(matched.kernel().sum()) < 1e-6)  # blind to offsets
    True
    >>> round(matched.threshold(0.1, 640 * 480), 1)
    4.9
    """

    sigma: float
    """Width of the spot, px."""
    taps: F32
    """Half of the separable Gaussian, from the centre outwards; the whole sums to one along an axis."""
    box_half: int
    """Half width of the square whose mean is subtracted, px."""
    step: int
    """Distance of the lattice points on which a frame is filtered, px."""

    @classmethod
    def for_sigma(cls, sigma: float) -> Self:
        """Filter for spots of a width in px: Gaussian cut at 2.6 σ, square of half width 5 σ or a little more."""
        step = 1 if sigma < FINE else max(2, int(1.6 * sigma))
        radius = max(3, math.ceil(COVERED * sigma - 0.5))
        radius += 1 - radius % 2
        half = np.diff(ndtr((np.arange(radius + 2) - 0.5) / sigma))  # the share of every pixel, not of its centre
        half /= half[0] + 2.0 * half[1:].sum()
        # The square holds a whole number of lattice cells and a rest: see backends/cpu/filter.py.
        cells = max(3, math.ceil((max(5.0 * sigma, radius) - step + 1) / step))
        return cls(sigma=sigma, taps=half.astype(np.float32), box_half=step * cells + step - 1, step=step)

    @property
    def fit_half(self) -> int:
        """Half width of the fitting window, px: 9 × 9 pixels for σ = 1.2."""
        return max(3, math.ceil(3.1 * self.sigma - 0.5))

    @property
    def seen(self) -> float:
        """Share of its height that a peak shows at the nearest lattice point, where that is farthest away."""
        return math.exp(-(self.step**2) / (8.0 * (self.sigma**2 + PIXEL))) if self.step > 1 else 1.0

    def lattice(self, height: int, width: int) -> tuple[int, int]:
        """Lattice points along y and x."""
        return -(-height // self.step), -(-width // self.step)

    def kernel(self) -> F64:
        """The two-dimensional kernel."""
        line = np.zeros(2 * self.box_half + 1)
        radius = len(self.taps) - 1
        line[self.box_half - radius : self.box_half + radius + 1] = np.concatenate([self.taps[:0:-1], self.taps])
        return np.asarray(np.outer(line, line) - 1.0 / len(line) ** 2)

    def noise_gain(self, height: int, width: int) -> F32:
        """s.d. of the filtered image over that of white noise per pixel, at every lattice point of a frame.

        It is larger near the border, where the outermost pixels stand in for those beyond.
        """
        return _noise_gain(self.sigma, height, width)

    def threshold(self, false_alarms: float, n_pixels: int) -> float:
        """Signal-to-noise ratio that Gaussian noise alone exceeds `false_alarms` times in `n_pixels` pixels.

        The density of maxima of a Gaussian field above a high level u is u exp(−u²/2) λ₂ / (2π)^(3/2), with λ₂ the
        mean squared gradient of the normalised field [1]_. A maximum that lies between pixels is seen lower, by λ₂/2
        times its squared distance from the nearest: at u = 5 this makes a third to a half of the alarms. Simulated
        rates are 1.0 to 1.2 times those asked for, for σ of 0.8 to 3 px and u of 3.5 to 5.

        References
        ----------
        .. [1] Adler, The Geometry of Random Fields (1981), doi:10.1137/1.9780898718980.
        """
        return _threshold(self.sigma, false_alarms / n_pixels)

    def threshold_at(self, false_alarms: float, n_pixels: int, skewness: F64) -> F64:
        """The same for noise of a skewness per pixel: that of photons is skewed, and its tail longer.

        The tail of the filtered noise is that of a weighted sum of shifted Poisson variables of the given skewness,
        by the saddlepoint approximation in its r* form [1]_; the threshold is moved to where this tail has the same
        share.

        Parameters
        ----------
        false_alarms : float
        n_pixels : int
        skewness : float64 array
            Third central moment of the noise per pixel over the third power of its s.d., positive where the tail
            points towards spots; taken as −0.3 or 1.5 beyond these.

        References
        ----------
        .. [1] Barndorff-Nielsen, Biometrika 73, 307 (1986), doi:10.1093/biomet/73.2.307.
        """
        table = _skewed(self.sigma, self.threshold(false_alarms, n_pixels))
        return np.asarray(np.interp(skewness, SKEWNESSES, table))


@lru_cache(maxsize=64)
def _threshold(sigma: float, rate: float) -> float:
    kernel = MatchedFilter.for_sigma(sigma).kernel()
    bend = float((np.diff(kernel, axis=1) ** 2).sum() / (kernel**2).sum())
    offset = (np.arange(12) + 0.5) / 24.0
    height = 1.0 - 0.5 * bend * (offset[:, None] ** 2 + offset**2).ravel()

    def excess(u: float) -> float:
        true = u / height
        return float(np.log(np.mean(true * np.exp(-0.5 * true**2)) * bend / (2.0 * math.pi) ** 1.5 / rate))

    return float(brentq(excess, 1.0, 30.0)) if excess(1.0) > 0.0 else 1.0


@lru_cache(maxsize=64)
def _skewed(sigma: float, threshold: float) -> F64:
    """Thresholds for `SKEWNESSES` that noise exceeds as often as Gaussian noise exceeds `threshold`."""
    kernel = MatchedFilter.for_sigma(sigma).kernel().ravel()
    weight = kernel / math.sqrt((kernel**2).sum())
    wanted = float(log_ndtr(-threshold))

    def tail(t: float, skew: float) -> tuple[float, float]:
        """Level whose saddlepoint is t, and the logarithm of the share above it."""
        grown = np.exp(skew * weight * t)
        level = float((weight * (grown - 1.0)).sum() / skew)
        cumulant = float(((grown - 1.0 - skew * weight * t) / skew**2).sum())
        spread = t * math.sqrt(float((weight**2 * grown).sum()))
        w = math.sqrt(2.0 * (t * level - cumulant))
        return level, float(log_ndtr(-w - math.log(spread / w) / w))

    thresholds = []
    for skew in SKEWNESSES:
        if abs(skew) < 1e-6:
            thresholds.append(threshold)
            continue
        t = brentq(lambda t, s=float(skew): tail(t, s)[1] - wanted, 0.1, 8.0 * threshold, xtol=1e-4)
        thresholds.append(tail(t, float(skew))[0])
    return np.array(thresholds)


def _axis_sums(line: F64, other: F64, length: int, step: int) -> F64:
    """Sum of products of two clamped kernels at every lattice point along an axis of `length` pixels.

    Beyond the border the frame is continued by its outermost pixel, whose weight is therefore that of all beyond.
    """
    half = len(line) // 2
    points = np.arange(0, length, step)
    sums = np.full(len(points), float((line * other).sum()))
    for n in np.flatnonzero((points < half) | (points + half >= length)):
        at = np.clip(points[n] + np.arange(-half, half + 1), 0, length - 1)
        sums[n] = np.bincount(at, line, length) @ np.bincount(at, other, length)
    return sums


@lru_cache(maxsize=32)
def _noise_gain(sigma: float, height: int, width: int) -> F32:
    matched = MatchedFilter.for_sigma(sigma)
    side = 2 * matched.box_half + 1
    pad = matched.box_half - (len(matched.taps) - 1)
    gauss = np.pad(np.concatenate([matched.taps[:0:-1], matched.taps]).astype(np.float64), pad)
    box = np.full(side, 1.0 / side)
    variance = np.zeros(matched.lattice(height, width))
    for one, other, factor in ((gauss, gauss, 1.0), (gauss, box, -2.0), (box, box, 1.0)):
        along_y, along_x = (_axis_sums(one, other, length, matched.step) for length in (height, width))
        variance += factor * np.outer(along_y, along_x)
    gain = np.asarray(np.sqrt(variance), np.float32)
    gain.flags.writeable = False
    return gain
