"""Spots in sequence: faint peaks that continue a particle seen in the frame before or after, and spots found twice."""

from __future__ import annotations

import numpy as np
from numba import njit

from exotrack.tables import F32, F64, I32, I64, Mask


@njit(nogil=True, cache=True)
def _row_borders(frame: I32, n_frames: int) -> I64:
    borders = np.zeros(n_frames + 1, np.int64)
    for i in range(len(frame)):
        borders[frame[i] + 1] += 1
    for t in range(n_frames):
        borders[t + 1] += borders[t]
    return borders


@njit(nogil=True, cache=True)
def _near(y: F64, x: F64, kept: Mask, first: int, last: int, at_y: float, at_x: float, reach: float) -> bool:
    """Whether a kept spot of a frame lies within reach; its spots are ordered by y."""
    for j in range(first, last):
        if y[j] - at_y > reach:
            return False
        if kept[j] and (y[j] - at_y) ** 2 + (x[j] - at_x) ** 2 < reach * reach:
            return True
    return False


@njit(nogil=True, cache=True)
def continuations(
    frame: I32, y: F64, x: F64, snr: F32, sure: Mask, n_frames: int, *, reach: float, apart: float
) -> Mask:
    """Faint peaks where a particle of the frame before or after would otherwise be lost.

    Forward and then backward in time: a spot without a kept spot within reach in the next frame takes the highest
    faint peak there, which can be followed in turn. Peaks near a kept spot of their own frame are not taken.

    Parameters
    ----------
    frame : int32 array, shape (k,)
        Frames from 0 in order.
    y, x : float64 arrays, shape (k,)
        Positions, px, ordered by y within a frame.
    snr : float32 array, shape (k,)
        Height of each peak.
    sure : bool array, shape (k,)
        Spots that stand for themselves.
    n_frames : int
    reach : float
        Farthest that a particle is looked for in the next frame, px.
    apart : float
        Least distance of a faint peak from the kept spots of its own frame, px.

    Returns
    -------
    bool array, shape (k,)
        The spots to keep, the sure ones among them.
    """
    kept = sure.copy()
    borders = _row_borders(frame, n_frames)
    for direction in (1, -1):
        for step in range(n_frames - 1):
            t = step if direction == 1 else n_frames - 1 - step
            first, last = borders[t + direction], borders[t + direction + 1]
            for i in range(borders[t], borders[t + 1]):
                if not kept[i] or _near(y, x, kept, first, last, y[i], x[i], reach):
                    continue
                best = -1
                for j in range(first, last):
                    if y[j] - y[i] > reach:
                        break
                    if (
                        not kept[j]
                        and (y[j] - y[i]) ** 2 + (x[j] - x[i]) ** 2 < reach * reach
                        and (best < 0 or snr[j] > snr[best])
                        and not _near(y, x, kept, first, last, y[j], x[j], apart)
                    ):
                        best = j
                if best >= 0:
                    kept[best] = True
    return kept


@njit(nogil=True, cache=True)
def found_twice(frame: I32, y: F64, x: F64, mass: F64, *, apart: float) -> Mask:
    """Spots nearer than `apart` px to a heavier one of the same frame (of equal ones, to an earlier one).

    Parameters
    ----------
    frame : int32 array, shape (k,)
    y, x, mass : float64 arrays, shape (k,)
        Ordered by frame, and within a frame by y.
    apart : float

    Returns
    -------
    bool array, shape (k,)
    """
    twice = np.zeros(len(frame), np.bool_)
    for i in range(len(frame)):
        j = i + 1
        while j < len(frame) and frame[j] == frame[i] and y[j] - y[i] < apart:
            if (y[j] - y[i]) ** 2 + (x[j] - x[i]) ** 2 < apart * apart:
                twice[i if mass[j] > mass[i] else j] = True
            j += 1
    return twice
