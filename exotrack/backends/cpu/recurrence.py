"""Places where spots are found again and again."""

from __future__ import annotations

import numpy as np
from numba import njit

from exotrack.tables import F64, I64

MOST_AROUND = 1000
"""Spots beside a place that are looked at: so many in a strip of a pixel are no image of particles."""


@njit(nogil=True, cache=True, error_model="numpy")
def recurrences(
    y: F64, x: F64, offsets: I64, sections: I64, frames: I64, lags: I64, *, radius: float, least: int
) -> I64:
    """Count in how many of some frames before and behind a spot is found again at the same place.

    Parameters
    ----------
    y, x : float64 (n,)
        Positions, px, ordered by frame, then y.
    offsets : int64 (n_frames + 1,)
        First row of each frame.
    sections : int64 (n_frames,)
        Uninterrupted piece of video that each frame belongs to; others are not looked into.
    frames : int64 (n,)
        Frames whose spots are looked for.
    lags : int64 (n_lags,)
        Frames to look into, relative to that of the spot.
    radius : float
        Distance, px, within which a spot is at the same place.
    least : int
        Two at least. A spot for which fewer frames than this exist is not looked for, and one that is missed in the
        first two frames is given up.

    Returns
    -------
    int64 (n, 2)
        How often each spot was found again, and in how many frames it was looked for; zero in other frames.
    """
    found = np.zeros((len(y), 2), np.int64)
    n_frames = len(sections)
    for frame in frames:
        others = np.empty(len(lags), np.int64)
        n = 0
        for lag in lags:
            other = frame + lag
            if 0 <= other < n_frames and sections[other] == sections[frame] and offsets[other] < offsets[other + 1]:
                others[n] = other
                n += 1
        if n < least:
            continue
        # Rows come in the order of y, and so do the places where the first two searches begin.
        first, second = offsets[others[0]], offsets[others[1]]
        for i in range(offsets[frame], offsets[frame + 1]):
            while first < offsets[others[0] + 1] and y[first] < y[i] - radius:
                first += 1
            while second < offsets[others[1] + 1] and y[second] < y[i] - radius:
                second += 1
            found[i, 0] = _is_there(y, x, first, offsets[others[0] + 1], y[i], x[i], radius)
            found[i, 0] += _is_there(y, x, second, offsets[others[1] + 1], y[i], x[i], radius)
            found[i, 1] = 2
            if found[i, 0] == 0:
                continue
            for k in range(2, n):
                stop = offsets[others[k] + 1]
                found[i, 0] += _is_there(
                    y, x, _first(y, offsets[others[k]], stop, y[i] - radius), stop, y[i], x[i], radius
                )
                found[i, 1] += 1
    return found


@njit(nogil=True, cache=True, error_model="numpy")
def _first(y: F64, start: int, stop: int, lowest: float) -> int:
    """First row that is not below some y; rows are ordered by y."""
    while start < stop:
        middle = (start + stop) // 2
        if y[middle] < lowest:
            start = middle + 1
        else:
            stop = middle
    return start


@njit(nogil=True, cache=True, error_model="numpy")
def _is_there(y: F64, x: F64, start: int, stop: int, at_y: float, at_x: float, radius: float) -> bool:
    """Whether a row lies within the radius of a place; rows are ordered by y and begin where it does."""
    for k in range(start, min(stop, start + MOST_AROUND)):
        if y[k] > at_y + radius:
            return False
        if (y[k] - at_y) ** 2 + (x[k] - at_x) ** 2 < radius * radius:
            return True
    return False
