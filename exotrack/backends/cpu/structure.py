"""How much each spatial frequency of a video changes over time: the image structure function of DDM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy import fft
from scipy.fft import next_fast_len

from exotrack.tables import F64, I64, Array

_FRAMES_AT_ONCE: Final = 16  # images in flight: 256² px take 4 MB as they are and 4 MB as modes


def structure_function(frames: Array, ring: I64, moved_px: F64, spans: I64, *, lags: int) -> F64:
    """Mean squared change of the Fourier modes of a video, over time lags and averaged over rings of modes.

    D(q, τ) = ⟨|Î(q, t + τ) − Î(q, t)|²⟩ over t, of images under a Hann window that hides their borders. The mean image
    is taken off beforehand, so that what rests in it does not count even where a flow is followed.

    Parameters
    ----------
    frames : array, shape (n_frames, height, width)
        Images of any real type.
    ring : int64 array, shape (height, width // 2 + 1)
        Ring of each mode of the real transform, −1 where a mode is left out; rings are numbered from 0 without gaps.
    moved_px : float64 array, shape (n_frames, 2)
        Displacement of the scene along y and x up to each frame, px: the phase of each mode is turned back by it.
    spans : int64 array, shape (n_spans, 2)
        First and one-past-last frame of each stretch that is evaluated for itself, each longer than `lags`.
    lags : int
        Largest time lag, frames.

    Returns
    -------
    float64 array, shape (n_spans, n_rings, lags)
        D for lags 1 to `lags`, in grey levels squared per pixel: white noise of variance v gives 2 v at every q. Modes
        of a ring count equally, those that the real transform leaves out as well.

    Notes
    -----
    The correlation over time is that of Wiener and Khinchin with zeros to twice the length, in float64, of modes whose
    mean is taken off: D at short lags is a small difference of large numbers.

    References
    ----------
    Cerbino & Trappe, Phys. Rev. Lett. 100, 188102 (2008), doi:10.1103/PhysRevLett.100.188102.
    """
    mean = frames.mean(axis=0, dtype=np.float64)
    every = Arrays(np, fft, frames=_FRAMES_AT_ONCE, modes=ring.size)
    result: F64 = change_of_modes(
        every, lambda first, last: frames[first:last] - mean, frames.shape, ring, moved_px, spans, lags
    )
    return result


@dataclass(frozen=True)
class Arrays:
    """A module of arrays, one of Fourier transforms of them, and how much is held at a time."""

    module: Any
    fft: Any
    frames: int
    """Images that are transformed together."""
    modes: int
    """Modes of a ring that are correlated together."""


def change_of_modes(
    use: Arrays,
    images: Callable[[int, int], Any],
    shape: tuple[int, ...],
    ring: I64,
    moved_px: F64,
    spans: I64,
    lags: int,
) -> Any:
    """`structure_function` with arrays of a module: NumPy, or CuPy on a device.

    `images` gives the frames from a first to a last one, less the mean of all; `shape` is that of all. The result is an
    array of the module.
    """
    arrays = use.module
    flat = np.flatnonzero(ring >= 0)
    flat = flat[np.argsort(ring.ravel()[flat], kind="stable")]
    first = np.searchsorted(ring.ravel()[flat], np.arange(int(ring.max()) + 2))
    row, column = np.divmod(flat, ring.shape[1])
    # The real transform holds one of each pair of conjugate modes, but both where the pair lies in one column.
    weight = np.where((column == 0) | (2 * column == shape[2]), 1.0, 2.0)
    modes = _modes(use, images, shape, arrays.asarray(flat))
    turn = arrays.asarray(np.stack([np.fft.fftfreq(ring.shape[0])[row], column / shape[2]], axis=1))
    moved, counts = arrays.asarray(moved_px.T), arrays.asarray(weight)
    result = arrays.empty((len(spans), len(first) - 1, lags), np.float64)
    for k in range(len(first) - 1):
        sums: list[Any] = [(0.0, 0.0)] * len(spans)
        for left in range(first[k], first[k + 1], use.modes):
            own = slice(left, min(left + use.modes, first[k + 1]))
            phase = turn[own, :1] * moved[:1] + turn[own, 1:] * moved[1:]
            still = modes[own] * arrays.exp(2j * np.pi * phase)
            for s, (start, stop) in enumerate(spans):
                power, energy = _correlated(use.fft, still[:, start:stop], counts[own])
                sums[s] = (sums[s][0] + power, sums[s][1] + energy)
        for s, (power, energy) in enumerate(sums):
            result[s, k] = _mean_change(use, power, energy, weight[first[k] : first[k + 1]].sum(), lags)
    return result


def _modes(use: Arrays, images: Callable[[int, int], Any], shape: tuple[int, ...], flat: Any) -> Any:
    """Modes of the windowed images, complex64, shape (n_modes, n_frames)."""
    n_frames, height, width = shape
    window = np.outer(hann(height), hann(width))
    window = use.module.asarray(window / np.sqrt(np.sum(window**2)))
    modes = use.module.empty((len(flat), n_frames), np.complex64)
    for first in range(0, n_frames, use.frames):
        last = min(first + use.frames, n_frames)
        spectra = use.fft.rfft2((images(first, last) * window).astype(np.float32))
        modes[:, first:last] = spectra.reshape(last - first, -1)[:, flat].T
    return modes


def hann(n: int) -> F64:
    """Hann window over n pixels whose zeros lie one half pixel outside them, shape (n,)."""
    window: F64 = np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2
    return window


def _correlated(fft: Any, modes: Any, weight: Any) -> tuple[Any, Any]:
    """Weighted sums over modes: of their power spectra over time, padded to twice the time, and of |F(t)|²."""
    centred = modes - modes.mean(axis=1, keepdims=True)
    spectrum = fft.fft(centred, next_fast_len(2 * modes.shape[1]), axis=1)
    return weight @ (spectrum.real**2 + spectrum.imag**2), weight @ (centred.real**2 + centred.imag**2)


def _mean_change(use: Arrays, power: Any, energy: Any, weight: float, lags: int) -> Any:
    """Weighted mean over modes of ⟨|F(t + τ) − F(t)|²⟩ from the sums of `_correlated`, shape (lags,)."""
    arrays, n = use.module, len(energy)
    product = use.fft.ifft(power).real[1 : lags + 1]
    total = arrays.concatenate([arrays.zeros(1), arrays.cumsum(energy)])
    lag = arrays.arange(1, lags + 1)
    both = total[n - lag] + total[n] - total[lag]
    return (both - 2.0 * product) / (weight * (n - lag))
