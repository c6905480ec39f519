"""What does not move in a stack of frames: stray light, glare, dust and adsorbed particles."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from numba import njit

from exotrack.tables import F32, Array


def still_background(samples: Array) -> F32:
    """Robust temporal mean of every pixel: the mean of the central third of its values.

    A median of integers is an integer and leaves contour lines of one grey level on a sloped background; the mean of
    the central third is as robust against passing particles and free of them.

    Parameters
    ----------
    samples : uint8, uint16 or float32 array, shape (n, height, width)
        Frames spread over the time for which the background is wanted; n ≥ 3.

    Returns
    -------
    float32 array, shape (height, width), in the units of the samples.
    """
    n = len(samples)
    mean: F32 = _central_mean(np.ascontiguousarray(samples), _sorting_network(n), n // 3, n - n // 3)
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


@njit(nogil=True, cache=True)
def _central_mean(samples: Array, network: Array, first: int, last: int) -> F32:
    n, height, width = samples.shape
    result = np.empty((height, width), np.float32)
    row = np.empty((n, width), samples.dtype)
    scale = np.float32(1.0 / (last - first))
    for y in range(height):
        for i in range(n):
            row[i] = samples[i, y]
        for c in range(len(network)):
            low = row[network[c, 0]]
            high = row[network[c, 1]]
            for x in range(width):  # compare-exchange of whole rows: SIMD minimum and maximum
                a, b = low[x], high[x]
                low[x] = a if a < b else b
                high[x] = b if a < b else a
        total = np.zeros(width, np.float32)
        for i in range(first, last):
            for x in range(width):
                total[x] += np.float32(row[i, x])
        for x in range(width):
            result[y, x] = total[x] * scale
    return result
