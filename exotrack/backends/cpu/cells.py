"""Cells of a square grid over the spots of one frame: neighbours in constant time, whatever the number of spots."""

from __future__ import annotations

from math import floor, sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from exotrack.tables import F64, I64


class Grid(NamedTuple):
    """A grid whose first cell begins at the lowest y and x of the rows it was laid over."""

    y0: float
    x0: float
    per_px: float
    """Cells per px."""
    n_y: int
    n_x: int


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
    n = stop - start
    y0, x0 = y[start:stop].min(), x[start:stop].min()
    height, width = y[start:stop].max() - y0, x[start:stop].max() - x0
    # The last three terms bound the number of cells by a few times the number of rows. Two spots exactly `reach`
    # apart must lie in neighbouring cells whatever the rounding.
    side = 1.000001 * max(reach, sqrt(height * width / n), height / n, width / n)
    per_px = 1.0 / side if side > 0.0 else 1.0
    return Grid(y0, x0, per_px, int(height * per_px) + 1, int(width * per_px) + 1)


@njit(nogil=True, cache=True, error_model="numpy")
def _count(y: F64, x: F64, start: int, stop: int, grid: Grid) -> tuple[I64, I64]:
    """Cell of each row, and the number of rows in each cell at the place behind its own."""
    cell = np.empty(stop - start, np.int64)
    counts = np.zeros(grid.n_y * grid.n_x + 1, np.int64)
    for k in range(stop - start):
        line = int((y[start + k] - grid.y0) * grid.per_px)
        cell[k] = line * grid.n_x + int((x[start + k] - grid.x0) * grid.per_px)
        counts[cell[k] + 1] += 1
    return cell, counts


@njit(nogil=True, cache=True, error_model="numpy")
def sort_into_cells(y: F64, x: F64, start: int, stop: int, reach: float, most: int) -> Cells:
    """Cells at least `reach` wide over the rows from `start` to `stop`, which are one or more.

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
def swamped(y: F64, x: F64, start: int, stop: int, reach: float, most: int) -> tuple[int, npt.NDArray[np.bool_]]:
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
def lines_around(grid: Grid, at_y: float) -> tuple[int, int]:
    """First and one-past-last line of the (up to three) lines of cells around a place."""
    line = floor((at_y - grid.y0) * grid.per_px)
    return max(line - 1, 0), min(line + 2, grid.n_y)


@njit(nogil=True, cache=True, error_model="numpy")
def span(cells: Cells, line: int, at_x: float) -> tuple[int, int]:
    """First and one-past-last place, in cell order, of the (up to three) cells of a line around a place."""
    grid = cells.grid
    column = floor((at_x - grid.x0) * grid.per_px)
    first, last = max(column - 1, 0), min(column + 2, grid.n_x)
    if first >= last:
        return 0, 0
    return cells.heads[line * grid.n_x + first], cells.heads[line * grid.n_x + last]
