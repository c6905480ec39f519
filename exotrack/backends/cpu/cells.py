"""Cells of a square grid over the spots of one frame: neighbours in constant time, whatever the number of spots."""

from __future__ import annotations

from math import floor, sqrt
from typing import NamedTuple

import numpy as np
from numba import njit

from exotrack.tables import F64, I64


class Cells(NamedTuple):
    """Rows of one frame, sorted into square cells."""

    y0: float
    x0: float
    side: float
    n_y: int
    n_x: int
    heads: I64
    """Where each cell begins in `rows`, row-major, with one more entry at the end."""
    rows: I64
    """Row numbers, cell by cell, increasing within a cell."""


@njit(nogil=True, cache=True, error_model="numpy")
def sort_into_cells(y: F64, x: F64, start: int, stop: int, reach: float) -> Cells:
    """Cells at least `reach` wide over the rows from `start` to `stop`, which are one or more."""
    n = stop - start
    y0, x0 = y[start:stop].min(), x[start:stop].min()
    height, width = y[start:stop].max() - y0, x[start:stop].max() - x0
    # The last three terms bound the number of cells by a few times the number of rows.
    side = max(reach, sqrt(height * width / n), height / n, width / n)
    if side == 0.0:
        side = 1.0
    n_y, n_x = int(height / side) + 1, int(width / side) + 1
    heads = np.zeros(n_y * n_x + 1, np.int64)
    cell = np.empty(n, np.int64)
    for k in range(n):
        cell[k] = int((y[start + k] - y0) / side) * n_x + int((x[start + k] - x0) / side)
        heads[cell[k] + 1] += 1
    heads = np.cumsum(heads)
    filled = heads[:-1].copy()
    rows = np.empty(n, np.int64)
    for k in range(n):
        rows[filled[cell[k]]] = start + k
        filled[cell[k]] += 1
    return Cells(y0, x0, side, n_y, n_x, heads, rows)


@njit(nogil=True, cache=True, error_model="numpy")
def candidates(cells: Cells, at_y: float, at_x: float, found: I64) -> int:
    """Write the rows of the 3 × 3 cells around a point into `found` and return their number.

    They include every row within the `reach` of the cells; the caller tests the distance.
    """
    row, col = floor((at_y - cells.y0) / cells.side), floor((at_x - cells.x0) / cells.side)
    n = 0
    for i in range(max(row - 1, 0), min(row + 2, cells.n_y)):
        for j in range(max(col - 1, 0), min(col + 2, cells.n_x)):
            for k in range(cells.heads[i * cells.n_x + j], cells.heads[i * cells.n_x + j + 1]):
                found[n] = cells.rows[k]
                n += 1
    return n
