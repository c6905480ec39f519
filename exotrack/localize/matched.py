"""The matched filter of a spot: its taps, its noise, and the threshold for a given rate of false alarms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from scipy.ndimage import maximum_filter, median_filter
from scipy.optimize import brentq
from scipy.special import ndtr

from exotrack.tables import F32, F64, Array

TILE = 32
"""Side of the tiles on which noise is measured, px."""
ROUNDING_NOISE = math.sqrt(1.0 / 12.0)
"""s.d. of rounding to whole grey levels, the least noise that an integer image can have, DN."""


@dataclass(frozen=True)
class MatchedFilter:
    """Gaussian of the spot's width minus the mean of a square: the likelihood-ratio test with unknown local offset.

    Examples
    --------
    >>> matched = MatchedFilter.for_sigma(1.5)
    >>> bool(abs(matched.kernel().sum()) < 1e-6)  # blind to offsets
    True
    >>> round(matched.threshold(0.1, 640 * 480), 1)
    5.0
    """

    sigma: float
    """Width of the spot, px."""
    taps: F32
    """Half of the separable Gaussian, from the centre outwards; the whole sums to one along an axis."""
    box_half: int
    """Half width of the square whose mean is subtracted, px."""

    @classmethod
    def for_sigma(cls, sigma: float) -> Self:
        """Filter for spots of a width in px: Gaussian cut at 4 σ, square of half width 5 σ."""
        radius = max(math.ceil(4.0 * sigma), 2)
        half = np.diff(ndtr((np.arange(radius + 2) - 0.5) / sigma))  # the share of every pixel, not of its centre
        half /= half[0] + 2.0 * half[1:].sum()
        return cls(sigma=sigma, taps=half.astype(np.float32), box_half=max(math.ceil(5.0 * sigma), radius))

    @property
    def peak_half(self) -> int:
        """Half width of the neighbourhood in which a peak must be the largest value, px."""
        return max(1, round(1.5 * self.sigma))

    @property
    def fit_half(self) -> int:
        """Half width of the fitting window, px: 9 × 9 pixels for σ = 1.2."""
        return max(3, math.ceil(3.0 * self.sigma))

    def kernel(self) -> F64:
        """The two-dimensional kernel."""
        line = np.zeros(2 * self.box_half + 1)
        radius = len(self.taps) - 1
        line[self.box_half - radius : self.box_half + radius + 1] = np.concatenate([self.taps[:0:-1], self.taps])
        return np.asarray(np.outer(line, line) - 1.0 / len(line) ** 2)

    def noise_gain(self, height: int, width: int) -> F32:
        """s.d. of the filtered image over that of white noise per pixel, at every pixel of a frame.

        It is larger near the border, where the outermost pixels stand in for those beyond.
        """
        return _noise_gain(self.sigma, height, width)

    def threshold(self, false_alarms: float, n_pixels: int) -> float:
        """Signal-to-noise ratio that noise alone exceeds `false_alarms` times in `n_pixels` pixels.

        The density of maxima of a Gaussian field above a high level u is u exp(−u²/2) λ₂ / (2π)^(3/2), with λ₂ the
        mean squared gradient of the normalised field [1]_. It counts 14–54 % too many at u of 3.5 to 4.5 (fewer
        maxima are seen on a pixel grid), so that the rate asked for is not exceeded.

        References
        ----------
        .. [1] Adler, The Geometry of Random Fields (1981), doi:10.1137/1.9780898718980.
        """
        kernel = self.kernel()
        along_x = float((np.diff(kernel, axis=1) ** 2).sum() / (kernel**2).sum())
        wanted = false_alarms / n_pixels

        def excess(u: float) -> float:
            return math.log(u) - 0.5 * u * u + math.log(along_x) - 1.5 * math.log(2.0 * math.pi) - math.log(wanted)

        return float(brentq(excess, 1.0, 40.0)) if excess(1.0) > 0.0 else 1.0


CLIP = 3.5
"""Noise s.d. beyond which a place is left out of the noise, together with its surroundings."""
CLIPPINGS = 3
"""Times that this is repeated; in sparse fields two suffice."""


def pixel_noise(filtered: F32, matched: MatchedFilter) -> F32:
    """s.d. of the noise per pixel that explains filtered frames, from the median absolute deviation on tiles.

    The deviation is taken about zero, not about the median: the filter removes any offset. The surroundings of
    whatever stands out by four s.d. are left out in a second pass, since spots that cover a fifth of a tile would
    make its noise a third too large. Noise follows the illumination and varies smoothly, a cluster of particles does
    not: a median over 5 × 5 tiles removes what dim particles add locally.

    Parameters
    ----------
    filtered : float32 array, shape (n, height, width)
        Output of the matched filter, DN.
    matched : MatchedFilter
        The filter.

    Returns
    -------
    float32 array, shape (height, width), DN; bilinear between the centres of tiles of about 32 × 32 px, and at least
    the noise of rounding to whole grey levels.
    """
    _, height, width = filtered.shape
    ys, xs = _edges(height), _edges(width)
    gain = matched.noise_gain(height, width)
    deviation = np.abs(filtered) / gain
    spread = 2 * math.ceil(2.5 * matched.sigma) + 1
    highest = maximum_filter(filtered / gain, size=(1, spread, spread))
    noise = _smooth_map(deviation, None, ys, xs)
    for _ in range(CLIPPINGS):
        noise = _smooth_map(deviation, highest < CLIP * noise, ys, xs)
    return noise


def _smooth_map(deviation: Array, quiet: Array | None, ys: Array, xs: Array) -> F32:
    """Scaled median deviation of the quiet pixels of each tile (of all where fewer than a quarter are), smoothed."""
    tiles = np.empty((len(ys) - 1, len(xs) - 1))
    for i in range(len(ys) - 1):
        for j in range(len(xs) - 1):
            block = np.s_[:, ys[i] : ys[i + 1], xs[j] : xs[j + 1]]
            values = deviation[block]
            if quiet is not None and quiet[block].mean() >= 0.25:
                values = values[quiet[block]]
            tiles[i, j] = 1.4826 * np.median(values)
    tiles = np.maximum(median_filter(tiles, size=5, mode="nearest"), ROUNDING_NOISE)
    return np.asarray(_interpolation(ys) @ tiles @ _interpolation(xs).T, np.float32)


def _edges(length: int) -> Array:
    return np.linspace(0, length, max(1, round(length / TILE)) + 1).round().astype(np.int64)


def _interpolation(edges: Array) -> F64:
    """Matrix that interpolates values at tile centres linearly to every pixel, constant beyond the outermost."""
    centres = 0.5 * (edges[1:] + edges[:-1] - 1)
    unit = np.eye(len(centres))
    return np.stack([np.interp(np.arange(edges[-1]), centres, row) for row in unit], axis=1)


def _clamped(line: Array, length: int) -> F64:
    """Matrix of a one-dimensional correlation over `length` pixels, those beyond the border being the outermost."""
    half = len(line) // 2
    matrix = np.zeros((length, length))
    pixels = np.arange(length)
    for offset, weight in zip(range(-half, half + 1), line, strict=True):
        np.add.at(matrix, (pixels, np.clip(pixels + offset, 0, length - 1)), weight)
    return matrix


@lru_cache(maxsize=32)
def _noise_gain(sigma: float, height: int, width: int) -> F32:
    matched = MatchedFilter.for_sigma(sigma)
    factors = []
    for length in (height, width):
        gauss = _clamped(np.concatenate([matched.taps[:0:-1], matched.taps]), length)
        box = _clamped(np.full(2 * matched.box_half + 1, 1.0 / (2 * matched.box_half + 1)), length)
        factors.append(((gauss * gauss).sum(axis=1), (gauss * box).sum(axis=1), (box * box).sum(axis=1)))
    (gg_y, gb_y, bb_y), (gg_x, gb_x, bb_x) = factors
    variance = np.outer(gg_y, gg_x) - 2.0 * np.outer(gb_y, gb_x) + np.outer(bb_y, bb_x)
    gain = np.asarray(np.sqrt(variance), np.float32)
    gain.flags.writeable = False
    return gain
