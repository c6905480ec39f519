"""From expected light to grey levels: shot noise, read noise, gain, offset, rounding, clipping."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy import stats

from exotrack.simulate.specification import Simulation

Floats = npt.NDArray[np.float64]

LEVELS = 256
"""Most expected counts for which the Poisson distribution is tabulated."""
GUIDE = 256
"""Equal parts of the unit interval from which the search in a tabulated distribution starts."""
TAIL_SD = 9.0
"""Half-width of a tabulated distribution in s.d.; what lies outside has a probability below 10⁻¹⁷ or so."""


def uneven_background(spec: Simulation) -> Floats:
    """Expected background photoelectrons per pixel, shape `frame_shape`: a tilt along x and a bow along y."""
    height, width = spec.frame_shape
    v = np.linspace(-1.0, 1.0, height)[:, None]
    u = np.linspace(-1.0, 1.0, width)[None, :]
    bow = v**2 - np.mean(v**2)
    return np.asarray(spec.background_e * (1.0 + spec.unevenness * (u - bow) / 3.0))


@njit(nogil=True, cache=True, error_model="numpy")
def _small_poisson(mean: float, rng: np.random.Generator) -> int:
    if mean > 8.0:
        return int(rng.poisson(mean))
    u = rng.random()
    if u < 1.0 - mean:  # exp(−mean) ≥ 1 − mean: almost always nothing, without computing the exponential
        return 0
    count, term = 0, math.exp(-mean)
    total = term
    while u > total and term > 1e-18:
        count += 1
        term *= mean / count
        total += term
    return count


@njit(nogil=True, cache=True, error_model="numpy")
def _expose(
    expected: Floats,
    levels: Floats,
    first: npt.NDArray[np.int64],
    cumulative: Floats,
    guide: npt.NDArray[np.int64],
    gain: float,
    offset: float,
    read_noise: float,
    rng: np.random.Generator,
    frame: Any,
    maximum: float,
) -> None:
    # A Poisson variate is the sum of one of the nearest tabulated mean below it and one of the small rest: exact, and
    # several times quicker than drawing from scratch at every pixel.
    spacing = levels[1] - levels[0] if len(levels) > 1 else 1.0
    for row in range(expected.shape[0]):
        for column in range(expected.shape[1]):
            mean = max(expected[row, column], 0.0)
            count = 0
            if mean >= levels[0]:
                level = min(int((mean - levels[0]) / spacing), len(levels) - 1)
                u = rng.random()
                entry = guide[level, int(u * GUIDE)]
                while cumulative[level, entry] < u:
                    entry += 1
                count = first[level] + entry
                mean = max(mean - levels[level], 0.0)
            if mean > 0.0:
                count += _small_poisson(mean, rng)
            electrons = count + read_noise * rng.standard_normal()
            # Truncation rounds here, because nothing below zero is left.
            frame[row, column] = int(min(max(offset + gain * electrons + 0.5, 0.0), maximum))


class Camera:
    """Turns expected photoelectrons into frames.

    Parameters
    ----------
    spec : Simulation
        Gain, offset, noise, bit depth and background.
    rng : numpy.random.Generator
        Drawn from pixel by pixel, frame by frame.
    """

    def __init__(self, spec: Simulation, rng: np.random.Generator) -> None:
        self._spec = spec
        self._rng = rng
        background = uneven_background(spec)
        low, high = float(background.min()), float(background.max())
        n_levels = min(LEVELS, 1 + math.ceil(2.0 * (high - low)))
        self._levels = np.linspace(low, high, n_levels)
        width = math.ceil(2.0 * TAIL_SD * (math.sqrt(high) + 2.0))
        self._first = np.maximum(np.floor(self._levels - TAIL_SD * (np.sqrt(self._levels) + 1.0)), 0.0).astype(np.int64)
        self._cumulative = np.empty((n_levels, width))
        self._guide = np.empty((n_levels, GUIDE), np.int64)
        for i, level in enumerate(self._levels):
            self._cumulative[i] = stats.poisson.cdf(self._first[i] + np.arange(width), level)
            self._cumulative[i, -1] = 1.0
            self._guide[i] = np.searchsorted(self._cumulative[i], np.arange(GUIDE) / GUIDE)

    def expose(self, expected: Floats) -> npt.NDArray[Any]:
        """One frame of expected photoelectrons, shape (height, width); negative ones count as none."""
        spec = self._spec
        frame = np.empty(expected.shape, spec.dtype)
        _expose(
            expected,
            self._levels,
            self._first,
            self._cumulative,
            self._guide,
            spec.gain_dn,
            spec.offset_dn,
            spec.read_noise_e,
            self._rng,
            frame,
            float(2**spec.bit_depth - 1),
        )
        return frame
