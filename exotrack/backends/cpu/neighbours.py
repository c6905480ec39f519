"""Statistics of the distances between spots: what linking learns from before it links anything."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from exotrack.backends.cpu.cells import candidates, sort_into_cells
from exotrack.tables import F64, I64


def displacement_histogram(y: F64, x: F64, pairs: I64, *, reach: float, bins: int) -> I64:
    """Count all displacements from a spot of one frame to a spot of another, in two dimensions.

    Parameters
    ----------
    y, x : float64 (n,)
        Positions, px.
    pairs : int64 (n_pairs, 4)
        Pairs of frames to pool: first and one-past-last row of the sources, then of the targets; none is empty.
    reach : float
        Half the side of the square of displacements that are counted, px.
    bins : int
        Bins along each axis of that square.

    Returns
    -------
    int64 (bins, bins)
        Counts by displacement along y, then x, from -reach to +reach.
    """
    counts = np.zeros((bins, bins), np.int64)
    _count_displacements(y, x, pairs, reach, counts)
    return counts


def distance_histogram(y: F64, x: F64, pairs: I64, flow: F64, *, reach: float, bins: int) -> I64:
    """Count all distances from a spot of one frame to a spot of another, after subtraction of the flow.

    Parameters
    ----------
    y, x, pairs
        As in `displacement_histogram`. A pair may join a frame to itself; a spot is then no neighbour of itself.
    flow : float64 (n_pairs, 2)
        Displacement along y and x that is subtracted in each pair, px.
    reach : float
        Largest distance that is counted, px.
    bins : int
        Number of bins; bin k holds distances from reach · (k/bins)² to reach · ((k+1)/bins)².

    Returns
    -------
    int64 (bins,)
    """
    counts = np.zeros(bins, np.int64)
    _count_distances(y, x, pairs, flow, reach, counts)
    return counts


def crowded(y: F64, x: F64, offsets: I64, *, reach: float) -> npt.NDArray[np.bool_]:
    """Tell which spots have another spot of their own frame nearer than `reach`.

    Parameters
    ----------
    y, x : float64 (n,)
        Positions, px, grouped by frame.
    offsets : int64 (n_frames + 1,)
        Rows where each frame begins.
    reach : float
        Distance, px.

    Returns
    -------
    bool (n,)
    """
    close = np.zeros(len(y), np.bool_)
    _mark_crowded(y, x, offsets, reach, close)
    return close


@njit(nogil=True, cache=True, error_model="numpy")
def _count_displacements(y: F64, x: F64, pairs: I64, reach: float, counts: I64) -> None:
    bins = counts.shape[0]
    scale = bins / (2.0 * reach)
    for p in range(len(pairs)):
        cells = sort_into_cells(y, x, pairs[p, 2], pairs[p, 3], reach)
        found = np.empty(pairs[p, 3] - pairs[p, 2], np.int64)
        for i in range(pairs[p, 0], pairs[p, 1]):
            for k in range(candidates(cells, y[i], x[i], found)):
                row = np.floor((y[found[k]] - y[i] + reach) * scale)
                col = np.floor((x[found[k]] - x[i] + reach) * scale)
                if 0 <= row < bins and 0 <= col < bins:
                    counts[int(row), int(col)] += 1


@njit(nogil=True, cache=True, error_model="numpy")
def _count_distances(y: F64, x: F64, pairs: I64, flow: F64, reach: float, counts: I64) -> None:
    bins = len(counts)
    for p in range(len(pairs)):
        cells = sort_into_cells(y, x, pairs[p, 2], pairs[p, 3], reach)
        found = np.empty(pairs[p, 3] - pairs[p, 2], np.int64)
        for i in range(pairs[p, 0], pairs[p, 1]):
            at_y, at_x = y[i] + flow[p, 0], x[i] + flow[p, 1]
            for k in range(candidates(cells, at_y, at_x, found)):
                j = found[k]
                distance = np.hypot(y[j] - at_y, x[j] - at_x)
                if j != i and distance < reach:
                    counts[min(int(np.sqrt(distance / reach) * bins), bins - 1)] += 1


@njit(nogil=True, cache=True, error_model="numpy")
def _mark_crowded(y: F64, x: F64, offsets: I64, reach: float, close: npt.NDArray[np.bool_]) -> None:
    for frame in range(len(offsets) - 1):
        start, stop = offsets[frame], offsets[frame + 1]
        if stop - start < 2:
            continue
        cells = sort_into_cells(y, x, start, stop, reach)
        found = np.empty(stop - start, np.int64)
        for i in range(start, stop):
            for k in range(candidates(cells, y[i], x[i], found)):
                j = found[k]
                if j != i and np.hypot(y[j] - y[i], x[j] - x[i]) < reach:
                    close[i] = True
                    break
