"""Statistics of the distances between spots: what linking learns from before it links anything."""

from __future__ import annotations

import numpy as np
from numba import njit

from exotrack.backends.cpu.cells import MOST_SPANS, Cells, find_spans, sort_into_cells
from exotrack.tables import F64, I64, Mask

MOST_IN_CELL = 1000
"""Spots in a square as wide as the reach beyond which they are not counted: the time stays within bounds."""


def displacement_histogram(y: F64, x: F64, pairs: I64, *, most: int, reach: float, bins: int) -> I64:
    """Count displacements from spots of one frame to all spots of another, in two dimensions.

    Parameters
    ----------
    y, x : float64 (n,)
        Positions, px.
    pairs : int64 (n_pairs, 4)
        Pairs of frames to pool: first and one-past-last row of the sources, then of the targets; none is empty.
    most : int
        Sources of a pair that are heard: where there are twice as many or more, every second and so on.
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
    _count_displacements(y, x, pairs, most, reach, counts)
    return counts


def distance_histogram(y: F64, x: F64, at_y: F64, at_x: F64, pairs: I64, *, reach: float, bins: int) -> I64:
    """Count all distances from a spot of one frame to a spot of another, from where the former is expected.

    Parameters
    ----------
    y, x, pairs
        As in `displacement_histogram`. A pair may join a frame to itself; a spot is then no neighbour of itself.
    at_y, at_x : float64 (n,)
        Where each row, as a source, is expected, px.
    reach : float
        Largest distance that is counted, px.
    bins : int
        Number of bins; bin k holds distances from reach · (k/bins)² to reach · ((k+1)/bins)².

    Returns
    -------
    int64 (bins,)
    """
    counts = np.zeros(bins, np.int64)
    _count_distances(y, x, at_y, at_x, pairs, reach, counts)
    return counts


@njit(nogil=True, cache=True, error_model="numpy")
def crowded(y: F64, x: F64, frames: I64, close: Mask, *, reach: float) -> None:
    """Tell which spots have another spot of their own frame nearer than `reach`.

    Parameters
    ----------
    y, x : float64 (n,)
        Positions, px, grouped by frame.
    frames : int64 (n_frames, 2)
        First and one-past-last row of each frame; frames may be handled in any order, in parts, and at the same time.
    close : bool (n,)
        Written for the rows of these frames; true also where more than `MOST_IN_CELL` spots lie in the nine squares of
        that width around a spot.
    reach : float
        Distance, px.
    """
    spans = np.empty((MOST_SPANS, 2), np.int64)
    for frame in range(len(frames)):
        start, stop = frames[frame, 0], frames[frame, 1]
        if stop - start < 2:
            continue
        cells = sort_into_cells(y, x, start, stop, reach, stop - start)
        for i in range(start, stop):
            close[i] = _has_neighbour(cells, y[i], x[i], i, reach, spans)


@njit(nogil=True, cache=True, error_model="numpy")
def _count_displacements(y: F64, x: F64, pairs: I64, most: int, reach: float, counts: I64) -> None:
    bins = counts.shape[0]
    scale = bins / (2.0 * reach)
    spans = np.empty((MOST_SPANS, 2), np.int64)
    for p in range(len(pairs)):
        cells = sort_into_cells(y, x, pairs[p, 2], pairs[p, 3], reach, MOST_IN_CELL)
        for i in range(pairs[p, 0], pairs[p, 1], max((pairs[p, 1] - pairs[p, 0]) // most, 1)):
            for run in range(find_spans(cells, y[i], x[i], spans)):
                for k in range(spans[run, 0], spans[run, 1]):
                    row = (cells.y[k] - y[i] + reach) * scale
                    column = (cells.x[k] - x[i] + reach) * scale
                    if 0.0 <= row < bins and 0.0 <= column < bins:
                        counts[int(row), int(column)] += 1


@njit(nogil=True, cache=True, error_model="numpy")
def _count_distances(y: F64, x: F64, at_y: F64, at_x: F64, pairs: I64, reach: float, counts: I64) -> None:
    bins = len(counts)
    spans = np.empty((MOST_SPANS, 2), np.int64)
    for p in range(len(pairs)):
        cells = sort_into_cells(y, x, pairs[p, 2], pairs[p, 3], reach, MOST_IN_CELL)
        for i in range(pairs[p, 0], pairs[p, 1]):
            for run in range(find_spans(cells, at_y[i], at_x[i], spans)):
                for k in range(spans[run, 0], spans[run, 1]):
                    square = (cells.y[k] - at_y[i]) ** 2 + (cells.x[k] - at_x[i]) ** 2
                    if square < reach * reach and cells.rows[k] != i:
                        counts[min(int(np.sqrt(np.sqrt(square) / reach) * bins), bins - 1)] += 1


@njit(nogil=True, cache=True, error_model="numpy")
def _has_neighbour(cells: Cells, at_y: float, at_x: float, itself: int, reach: float, spans: I64) -> bool:
    """Whether a row lies nearer than `reach`; nine cells with more than `MOST_IN_CELL` rows count without a look."""
    runs = find_spans(cells, at_y, at_x, spans)
    n = 0
    for run in range(runs):
        n += spans[run, 1] - spans[run, 0]
    if n > MOST_IN_CELL:
        return True
    for run in range(runs):
        for k in range(spans[run, 0], spans[run, 1]):
            square = (cells.y[k] - at_y) ** 2 + (cells.x[k] - at_x) ** 2
            if square < reach * reach and cells.rows[k] != itself:
                return True
    return False
