"""The decay of the modes of a video in its structure function: rings of modes, the model, its fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft

from exotrack.tables import F64, I64, Mask

LEAST_RINGS = 5
_LOWEST_RING = 6  # in units of 2π/L: below it a mode is as wide as its distance from zero
_MOST_Q = 4.0  # µm⁻¹: hardly any optics for these particles carries more
_NYQUIST_SHARE = 0.75
_LEAST_DECAY, _MOST_DECAY = 0.05, 1.0  # Γ·Δt, so that the decay is neither over at once nor lost among the lags
_REACH = 4.0  # Γ·τ up to which a curve is fitted
_LEAST_LAGS = 6
_ROUNDS = 5  # of choosing rings and fitting them; the last changed D by less than 0.1 % in simulated videos
_LEAST_SIGNAL = 0.05  # share of the plateau of D(q, τ) that moves; below it a ring is noise
# Exchange through the faces of a depth h raises the D of a ring as 1/q where the light ends abruptly and as 1/q² where
# it fades: −1.5 leaves +0.2 % and −0.6 % at h = 10 µm and 100 nm, where −2 leaves +1.5 % and 0, and −1 −3 % and −2 %.
_EXCHANGE_POWER = -1.5
_WIDE: F64 = np.geomspace(0.02, 100.0, 86)  # µm²/s
_NEAR: F64 = np.exp(0.02 * np.arange(-40, 41))  # relative to the diffusion coefficient so far


@dataclass(frozen=True)
class Rings:
    """Rings of modes, and what ring and window make of the squared wave numbers in them."""

    index: I64
    """As `structure_function` takes it."""
    q: F64
    """Root mean square wave number, µm⁻¹."""
    square_mean: F64
    """Mean of the squared wave numbers that decay in a ring, µm⁻²."""
    square_variance: F64


def rings_of(shape: Sequence[int], pixel_um: float) -> Rings:
    """Rings as wide as the resolution 2π/L of an image of `shape`, L its shorter side; none if it is too small."""
    height, width = shape
    y = (2.0 * np.pi / pixel_um * fft.fftfreq(height))[:, None]
    x = (2.0 * np.pi / pixel_um * np.arange(width // 2 + 1) / width)[None, :]
    q = np.hypot(y, x)
    step = 2.0 * np.pi / (min(height, width) * pixel_um)
    most = min(_MOST_Q, _NYQUIST_SHARE * np.pi / pixel_um)
    n_rings = max(int(most / step + 0.5) - _LOWEST_RING, 0)  # whole rings below the largest wave number
    index = np.rint(q / step).astype(np.int64) - _LOWEST_RING
    index[(index < 0) | (index >= n_rings)] = -1
    kept = index >= 0
    ring = index[kept]
    weight = np.broadcast_to(np.where((x == 0) | (2 * np.arange(width // 2 + 1) == width), 1.0, 2.0), q.shape)[kept]
    total = np.bincount(ring, weight, n_rings)
    first, second = np.zeros(n_rings), np.zeros(n_rings)
    # A Hann window spreads the power of a plane wave over three modes along each axis, as 1 : 4 : 1.
    for side_y, share_y in ((-1, 1 / 6), (0, 2 / 3), (1, 1 / 6)):
        for side_x, share_x in ((-1, 1 / 6), (0, 2 / 3), (1, 1 / 6)):
            along_y = y + side_y * 2.0 * np.pi / (height * pixel_um)
            along_x = x + side_x * 2.0 * np.pi / (width * pixel_um)
            square = (along_y**2 + along_x**2)[kept]
            first += share_y * share_x * np.bincount(ring, weight * square, n_rings) / total
            second += share_y * share_x * np.bincount(ring, weight * square**2, n_rings) / total
    root = np.sqrt(np.bincount(ring, weight * q[kept] ** 2, n_rings) / total)
    return Rings(index, root, first, second - first**2)


def overlap(moved: F64, lags: int, shape: Sequence[int]) -> F64:
    """Share of the windowed power that the flow leaves in the window, for lags 1 to `lags`: a Hann window's
    autocorrelation at the displacements over each lag, in the mean over time.
    """
    share = np.ones(lags)
    for lag in range(1, lags + 1):
        away = np.minimum(np.abs(moved[lag:] - moved[:-lag]) / np.asarray(shape, np.float64), 1.0)
        each = (1.0 - away) * (2.0 + np.cos(2.0 * np.pi * away)) / 3.0 + np.sin(2.0 * np.pi * away) / (2.0 * np.pi)
        share[lag - 1] = np.mean(each[:, 0] * each[:, 1])
    return share


@dataclass(frozen=True)
class Fits:
    """Free fits of all rings, arrays of shape (n_rings,)."""

    diffusion: F64
    amplitude: F64
    offset: F64


@dataclass(frozen=True)
class Combined:
    """What the rings say together."""

    diffusion: float
    exchange: float
    """Relative excess of the rate of decay at 1 µm⁻¹."""
    fits: Fits
    used: Mask


class Decay:
    """Structure functions of one diffusion coefficient, and their fit to the rings of a video."""

    def __init__(self, rings: Rings, interval_s: float, overlap: F64) -> None:
        self.rings = rings
        self.interval_s = interval_s
        self.overlap = overlap

    def first_guess(self, curve: F64) -> float:
        """Diffusion coefficient that explains most of the variance over all lags of all rings together."""
        grid = np.broadcast_to(_WIDE[:, None], (len(_WIDE), len(curve)))
        misfit, _, _ = self._profile(curve, np.ones_like(curve), grid)
        # The logarithm keeps rings of much power from deciding alone, and those of mere noise from having a say.
        return float(_WIDE[np.argmin(np.sum(np.log(np.maximum(misfit, 1e-300)), axis=1))])

    def settle(self, curve: F64, guess: float) -> Combined | None:
        """Fit the rings that suit the diffusion coefficient found so far, until that has settled."""
        diffusion = guess
        for _ in range(_ROUNDS):
            fits = self.fit(curve, diffusion)
            decay = diffusion * self.rings.square_mean * self.interval_s
            signal = fits.amplitude > _LEAST_SIGNAL * (fits.amplitude + fits.offset)
            used = (decay >= _LEAST_DECAY) & (decay <= _MOST_DECAY) & signal & np.isfinite(fits.diffusion)
            if np.count_nonzero(used) < LEAST_RINGS:
                return None
            diffusion, excess = self.combine(fits, used)
            if not diffusion > 0.0:
                return None
        return Combined(diffusion, excess / diffusion, fits, used)

    def combine(self, fits: Fits, used: Mask) -> tuple[float, float]:
        """D and c ≥ 0 of ring values D + c·q^−1.5, by least squares with weights q²."""
        rows = used & np.isfinite(fits.diffusion)
        if np.count_nonzero(rows) < 2:
            return float("nan"), 0.0
        weight, excess = self.rings.q[rows] ** 2, self.rings.q[rows] ** _EXCHANGE_POWER
        d, centre = fits.diffusion[rows], np.average(excess, weights=weight)
        slope = float(weight @ ((excess - centre) * d) / (weight @ (excess - centre) ** 2))
        slope = max(slope, 0.0)
        return float(np.average(d, weights=weight) - slope * centre), slope

    def fit(self, curve: F64, near: float) -> Fits:
        """A, B and D of every ring, D within a factor of two or so; NaN where it is at the end of that range."""
        decay = near * self.rings.square_mean * self.interval_s
        last = np.maximum(np.ceil(_REACH / decay), _LEAST_LAGS)
        weight = (np.arange(1, curve.shape[1] + 1) <= last[:, None]).astype(np.float64)
        grid = np.broadcast_to((near * _NEAR)[:, None], (len(_NEAR), len(curve)))
        misfit, amplitude, offset = self._profile(curve, weight, grid)
        ring = np.arange(len(curve))
        best = misfit.argmin(axis=0)
        inside = np.clip(best, 1, len(_NEAR) - 2)
        left, middle, right = (misfit[inside + side, ring] for side in (-1, 0, 1))
        shift = np.clip(0.5 * (left - right) / np.maximum(left + right - 2.0 * middle, 1e-300), -0.5, 0.5)
        diffusion = near * np.exp(np.log(_NEAR[inside]) + shift * np.log(_NEAR[1] / _NEAR[0]))
        return Fits(np.where(best == inside, diffusion, np.nan), amplitude[best, ring], offset[best, ring])

    def _profile(self, curve: F64, weight: F64, diffusion: F64) -> tuple[F64, F64, F64]:
        """Misfit, A and B for trial diffusion coefficients, all of shape (n_trials, n_rings)."""
        lag = self.interval_s * np.arange(1, curve.shape[1] + 1)
        mean, variance = self.rings.square_mean[:, None], self.rings.square_variance[:, None]
        at = np.minimum(diffusion[..., None] * lag, mean / variance)  # the cumulants turn round where all has decayed
        change = 1.0 - np.exp(0.5 * variance * at**2 - mean * at) * self.overlap
        w = weight / weight.sum(axis=1, keepdims=True)
        mean_x, mean_y = np.einsum("gkt,kt->gk", change, w), np.sum(w * curve, axis=1)
        centred = change - mean_x[..., None]
        spread = np.einsum("gkt,gkt,kt->gk", centred, centred, w)
        shared = np.einsum("gkt,kt->gk", centred, w * (curve - mean_y[:, None]))
        amplitude = shared / np.maximum(spread, 1e-300)
        misfit = np.sum(w * (curve - mean_y[:, None]) ** 2, axis=1) - amplitude * shared
        return np.maximum(misfit, 0.0), amplitude, mean_y - amplitude * mean_x
