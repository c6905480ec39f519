"""The part of a video that DDM looks at, and a movie in which every detection shines alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from exotrack.errors import InputError
from exotrack.tables import F32, I64

MOST_FRAMES: Final = 512
MOST_PX: Final = 256
"""Frames, and side in px, that bound the memory: 134 MB of float32 at most."""
_REACH = 5.0  # widths beyond which a spot sends no light; 4e-6 of its height is lost


def region(shape: tuple[int, int, int], cuts: Sequence[int] = ()) -> tuple[slice, slice, slice]:
    """Frames, rows and columns of a video that `ddm` looks at.

    Parameters
    ----------
    shape : tuple of int
        Frames, height and width of the video.
    cuts : sequence of int
        Frames at which a new position begins, as in `Acquisition`.

    Returns
    -------
    tuple of slice
        The longest stretch without a cut, the first of equally long ones, and of it the first 512 frames; the
        central 256×256 px, or less where the video is smaller.

    Examples
    --------
    >>> region((900, 480, 640), cuts=(100,))
    (slice(100, 612, None), slice(112, 368, None), slice(192, 448, None))
    """
    borders = [0, *sorted({cut for cut in cuts if 0 < cut < shape[0]}), shape[0]]
    start, stop = max(pairwise(borders), key=lambda span: span[1] - span[0])
    low = [(side - min(side, MOST_PX)) // 2 for side in shape[1:]]
    rows, columns = (slice(at, at + min(side, MOST_PX)) for at, side in zip(low, shape[1:], strict=True))
    return slice(start, min(stop, start + MOST_FRAMES)), rows, columns


def rendered(
    frames_shape: tuple[int, int, int],
    y: npt.ArrayLike,
    x: npt.ArrayLike,
    frame: npt.ArrayLike,
    sigma_px: float,
    *,
    cuts: Sequence[int] = (),
) -> F32:
    """Movie of detections as Gaussians of height one: DDM of it weights all particles alike.

    Parameters
    ----------
    frames_shape : tuple of int
        Frames, height and width of the video in which they were detected.
    y, x : array, shape (n,)
        Positions, px.
    frame : int array, shape (n,)
        Frame of each, in any order.
    sigma_px : float
        s.d. of the Gaussians, px; the width of the real spots suits, below one pixel they are sampled too coarsely.
    cuts : sequence of int
        Frames at which a new position begins.

    Returns
    -------
    float32 array
        The `region` of the video, at most 512 frames of 256×256 px; zero where nothing is.

    Raises
    ------
    InputError
        For columns of different lengths, positions that are not finite, or a width below half a pixel.

    Examples
    --------
    >>> movie = rendered((2, 8, 9), y=[4.0], x=[5.0], frame=[1], sigma_px=1.0)
    >>> movie.shape, float(movie[0].max()), float(movie[1, 4, 5])
    ((2, 8, 9), 0.0, 1.0)
    """
    at_y, at_x, at_frame = np.asarray(y, np.float64), np.asarray(x, np.float64), np.asarray(frame, np.int64)
    if not (at_y.ndim == 1 and at_y.shape == at_x.shape == at_frame.shape):
        raise InputError(f"y, x and frame have shapes {at_y.shape}, {at_x.shape}, {at_frame.shape}; give equal columns")
    if not (np.all(np.isfinite(at_y)) and np.all(np.isfinite(at_x))):
        raise InputError("y or x hold positions that are not finite; leave those rows out")
    if not sigma_px >= 0.5:
        raise InputError(f"sigma_px = {sigma_px!r}: the Gaussians need a width of half a pixel or more")
    time, rows, columns = region(frames_shape, cuts)
    movie = np.zeros((time.stop - time.start, rows.stop - rows.start, columns.stop - columns.start), np.float32)
    order = np.argsort(at_frame, kind="stable")
    first = np.searchsorted(at_frame[order], np.arange(time.start, time.stop + 1))
    grid_y, grid_x = np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop)
    # One thread: the products are small, and the sums must not depend on the number of threads.
    with threadpool_limits(limits=1, user_api="blas"):
        for k, image in enumerate(movie):
            own = order[first[k] : first[k + 1]]
            image[:] = _profiles(grid_y, at_y[own], sigma_px).T @ _profiles(grid_x, at_x[own], sigma_px)
    return movie


def _profiles(grid: I64, at: npt.NDArray[np.float64], sigma: float) -> F32:
    """Gaussian of height one of each position along one axis, shape (n, pixels)."""
    away = np.abs(grid - at[:, None]) / sigma
    profile: F32 = np.where(away <= _REACH, np.exp(-0.5 * np.minimum(away, _REACH) ** 2), 0.0).astype(np.float32)
    return profile
