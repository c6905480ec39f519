"""How much each spatial frequency of a video changes over time: the image structure function of DDM."""

from __future__ import annotations

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
    return change_of_modes(np, fft, frames, ring, moved_px, spans, lags)


def change_of_modes(arrays: Any, fft: Any, frames: Any, ring: I64, moved_px: F64, spans: I64, lags: int) -> F64:
    """`structure_function` with arrays and transforms of two modules: NumPy and SciPy, or CuPy on a device."""
    flat = np.flatnonzero(ring >= 0)
    flat = flat[np.argsort(ring.ravel()[flat], kind="stable")]
    first = np.searchsorted(ring.ravel()[flat], np.arange(int(ring.max()) + 2))
    width = frames.shape[2]
    row, column = np.divmod(flat, ring.shape[1])
    # The real transform holds one of each pair of conjugate modes, but both where the pair lies in one column.
    weight = arrays.asarray(np.where((column == 0) | (2 * column == width), 1.0, 2.0))
    modes = _modes(arrays, fft, frames, arrays.asarray(flat))
    turn_y, turn_x = np.fft.fftfreq(ring.shape[0])[row], column / width
    result = np.empty((len(spans), len(first) - 1, lags))
    for k in range(len(first) - 1):
        own = slice(first[k], first[k + 1])
        turn, moved = arrays.asarray(np.stack([turn_y[own], turn_x[own]], axis=1)), arrays.asarray(moved_px.T)
        phase = turn[:, :1] * moved[:1] + turn[:, 1:] * moved[1:]
        still = modes[own] * arrays.exp(2j * np.pi * phase)
        for s, (start, stop) in enumerate(spans):
            change = _mean_change(arrays, fft, still[:, start:stop], weight[own], lags)
            result[s, k] = change if isinstance(change, np.ndarray) else change.get()
    return result


def _modes(arrays: Any, fft: Any, frames: Any, flat: Any) -> Any:
    """Modes of the windowed frames without their mean image, complex64, shape (n_modes, n_frames)."""
    n_frames, height, width = frames.shape
    mean = frames.mean(axis=0, dtype=np.float64)
    window = np.outer(hann(height), hann(width))
    window = arrays.asarray(window / np.sqrt(np.sum(window**2)))
    modes = arrays.empty((len(flat), n_frames), np.complex64)
    for start in range(0, n_frames, _FRAMES_AT_ONCE):
        images = ((frames[start : start + _FRAMES_AT_ONCE] - mean) * window).astype(np.float32)
        spectra = fft.rfft2(images)
        modes[:, start : start + len(images)] = spectra.reshape(len(images), -1)[:, flat].T
    return modes


def hann(n: int) -> F64:
    """Hann window over n pixels whose zeros lie one half pixel outside them, shape (n,)."""
    window: F64 = np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2
    return window


def _mean_change(arrays: Any, fft: Any, modes: Any, weight: Any, lags: int) -> Any:
    """Weighted mean over modes of ⟨|F(t + τ) − F(t)|²⟩, shape (lags,); `modes` has shape (n_modes, n)."""
    n = modes.shape[1]
    centred = modes - modes.mean(axis=1, keepdims=True)
    spectrum = fft.fft(centred, next_fast_len(2 * n), axis=1)
    power = weight @ (spectrum.real**2 + spectrum.imag**2)
    product = fft.ifft(power).real[1 : lags + 1]
    energy = arrays.cumsum(weight @ (centred.real**2 + centred.imag**2))
    energy = arrays.concatenate([arrays.zeros(1), energy])
    lag = arrays.arange(1, lags + 1)
    both = energy[n - lag] + energy[n] - energy[lag]
    return (both - 2.0 * product) / (weight.sum() * (n - lag))
