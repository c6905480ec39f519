"""What does not move in a stack of frames: stray light, glare, dust and adsorbed particles."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from numba import njit

from exotrack.tables import F32, I64, Array


def still_background(frames: Array, picked: I64, *, rows: tuple[int, int]) -> F32:
    """Robust temporal mean of every pixel: the mean of the central third of its values.

    A median of integers is an integer and leaves contour lines of one grey level on a sloped background; the mean of
    the central third is as robust against passing particles and free of them.

    Parameters
    ----------
    frames : uint8, uint16 or float32 array, shape (n, height, width)
    picked : int64 array, shape (m,), m ≥ 3
        Frames to use, spread over the time for which the background is wanted.
    rows : tuple of int
        First row, and the row behind the last one.

    Returns
    -------
    float32 array, shape (rows[1] − rows[0], width), in the units of the frames.
    """
    m = len(picked)
    mean: F32 = _central_mean(frames, picked, rows, _sorting_network(m), m // 3, m - m // 3)
    return mean


@cache
def _sorting_network(n: int) -> npt.NDArray[np.int64]:
    """Comparators (low, high) that sort n values: Batcher's merge-exchange (Knuth, TAOCP vol. 3, algorithm 5.2.2M)."""
    pairs: list[tuple[int, int]] = []
    top = 1 << max((n - 1).bit_length() - 1, 0)
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


STRIP = 512
"""Pixels of a row that are sorted together: the values of all frames stay in the nearest cache."""


@njit(nogil=True, cache=True)
def _exchange(values: Array, low: int, high: int) -> None:
    """Put the smaller of each two values into one row and the larger into the other: SIMD minimum and maximum."""
    lower, upper = values[low], values[high]
    for x in range(len(lower)):
        a, b = lower[x], upper[x]
        lower[x] = a if a < b else b
        upper[x] = b if a < b else a


@njit(nogil=True, cache=True)
def _central_mean(frames: Array, picked: I64, rows: tuple[int, int], network: I64, first: int, last: int) -> F32:
    width = frames.shape[2]
    m = len(picked)
    result = np.empty((rows[1] - rows[0], width), np.float32)
    values = np.empty((m, STRIP), frames.dtype)
    total = np.empty(STRIP, np.float32)
    scale = np.float32(1.0 / (last - first))
    for y in range(rows[0], rows[1]):
        for left in range(0, width, STRIP):
            count = min(STRIP, width - left)
            for i in range(m):
                source, target = frames[picked[i], y, left : left + count], values[i]
                for x in range(count):
                    target[x] = source[x]
                for x in range(count, STRIP):
                    target[x] = 0
            for c in range(len(network)):
                _exchange(values, network[c, 0], network[c, 1])
            total[:] = 0.0
            for i in range(first, last):
                row = values[i]
                for x in range(STRIP):
                    total[x] += np.float32(row[x])
            for x in range(count):
                result[y - rows[0], left + x] = total[x] * scale
    return result
