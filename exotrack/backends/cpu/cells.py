"""Cells of a square grid over the spots of one frame: neighbours in constant time, whatever the number of spots."""

from __future__ import annotations

from math import floor
from typing import NamedTuple

import numpy as np
from numba import njit

from exotrack.tables import F64, I64, Mask

MOST_SPANS = 6
"""Runs of rows that the cells around a place are made of: three lines, each in two parts where the grid wraps."""


class Grid(NamedTuple):
    """A grid whose first cell begins at the lowest y and x of the rows it was laid over.

    A box that would have many more cells than there are rows is wrapped: lines and columns count modulo `n_y` and
    `n_x`, so that far places share a cell. Distances tell their rows apart.
    """

    y0: float
    x0: float
    per_px: float
    """Cells per px."""
    n_y: int
    n_x: int
    wraps_y: bool
    wraps_x: bool


class Cells(NamedTuple):
    """Rows of one frame, sorted into cells; neighbouring cells of one line follow one another."""

    grid: Grid
    heads: I64
    """Where each cell begins in `rows`, row-major, with one more entry at the end."""
    rows: I64
    """Row numbers, cell by cell, increasing within a cell."""
    y: F64
    """Positions of these rows."""
    x: F64


@njit(nogil=True, cache=True, error_model="numpy")
def _lay_grid(y: F64, x: F64, start: int, stop: int, reach: float) -> Grid:
    y0, x0 = y[start:stop].min(), x[start:stop].min()
    # Two spots exactly `reach` apart must lie in neighbouring cells whatever the rounding.
    per_px = 1.0 / (1.000001 * reach)
    lines = floor((y[start:stop].max() - y0) * per_px) + 1.0
    columns = floor((x[start:stop].max() - x0) * per_px) + 1.0
    most = 4.0 * (stop - start) + 64.0
    n_y, n_x = lines, columns
    if lines * columns > most:
        side = floor(most**0.5)
        n_y = min(lines, max(side, floor(most / columns)))
        n_x = min(columns, max(side, floor(most / lines)))
    return Grid(y0, x0, per_px, int(n_y), int(n_x), n_y < lines, n_x < columns)


@njit(nogil=True, cache=True, error_model="numpy")
def _count(y: F64, x: F64, start: int, stop: int, grid: Grid) -> tuple[I64, I64]:
    """Cell of each row, and the number of rows in each cell at the place behind its own."""
    cell = np.empty(stop - start, np.int64)
    counts = np.zeros(grid.n_y * grid.n_x + 1, np.int64)
    for k in range(stop - start):
        line, column = int((y[start + k] - grid.y0) * grid.per_px), int((x[start + k] - grid.x0) * grid.per_px)
        if grid.wraps_y:
            line %= grid.n_y
        if grid.wraps_x:
            column %= grid.n_x
        cell[k] = line * grid.n_x + column
        counts[cell[k] + 1] += 1
    return cell, counts


@njit(nogil=True, cache=True, error_model="numpy")
def sort_into_cells(y: F64, x: F64, start: int, stop: int, reach: float, most: int) -> Cells:
    """Cells as wide as `reach` over the rows from `start` to `stop`, which are one or more.

    Rows of cells that hold more than `most` are left out: so many spots in one place cannot be told apart, and they
    would cost the square of their number.
    """
    grid = _lay_grid(y, x, start, stop, reach)
    cell, heads = _count(y, x, start, stop, grid)
    for k in range(1, len(heads)):
        heads[k] = heads[k - 1] + (heads[k] if heads[k] <= most else 0)
    filled = heads[:-1].copy()
    rows = np.empty(heads[-1], np.int64)
    sorted_y, sorted_x = np.empty(heads[-1]), np.empty(heads[-1])
    for k in range(stop - start):
        at = filled[cell[k]]
        if at < heads[cell[k] + 1]:
            rows[at], sorted_y[at], sorted_x[at] = start + k, y[start + k], x[start + k]
            filled[cell[k]] = at + 1
    return Cells(grid, heads, rows, sorted_y, sorted_x)


@njit(nogil=True, cache=True, error_model="numpy")
def swamped(y: F64, x: F64, start: int, stop: int, reach: float, most: int) -> tuple[int, Mask]:
    """Number of cells with more than `most` of the rows from `start` to `stop`, and the rows in them."""
    crowd = np.zeros(stop - start, np.bool_)
    if stop - start <= most:
        return 0, crowd
    cell, counts = _count(y, x, start, stop, _lay_grid(y, x, start, stop, reach))
    n_cells = 0
    for k in range(1, len(counts)):
        n_cells += counts[k] > most
    if n_cells > 0:
        for k in range(stop - start):
            crowd[k] = counts[cell[k] + 1] > most
    return n_cells, crowd


@njit(nogil=True, cache=True, error_model="numpy")
def find_spans(cells: Cells, at_y: float, at_x: float, spans: I64) -> int:
    """Write the runs of places, in cell order, of the 3 × 3 cells around a place, and return their number.

    `spans`, int64 (MOST_SPANS, 2), receives first and one-past-last place of each run. Together they hold every row
    within the `reach` of the cells once; the caller tests the distance.
    """
    grid = cells.grid
    line, column = floor((at_y - grid.y0) * grid.per_px), floor((at_x - grid.x0) * grid.per_px)
    n = 0
    for above in range(line - 1, line + 2):
        if grid.wraps_y:
            base = (above % grid.n_y) * grid.n_x
        elif 0 <= above < grid.n_y:
            base = above * grid.n_x
        else:
            continue
        first, last = column - 1, column + 2
        if grid.wraps_x:
            first %= grid.n_x
            last = first + 3
            if last > grid.n_x:
                spans[n, 0], spans[n, 1] = cells.heads[base], cells.heads[base + last - grid.n_x]
                n += 1
        first, last = max(first, 0), min(last, grid.n_x)
        if first < last:
            spans[n, 0], spans[n, 1] = cells.heads[base + first], cells.heads[base + last]
            n += 1
    return n
