"""The box of a plane of counts that chance explains worst."""

from __future__ import annotations

import numpy as np
from numba import njit

from exotrack.tables import F64, I64


def densest_box(counts: I64, chance: F64, sides: tuple[int, ...]) -> tuple[float, int, int, int]:
    """Square box with the most surprising excess over chance, by the logarithm of a likelihood ratio.

    Parameters
    ----------
    counts : int64 (bins, bins)
    chance : float64 (bins, bins)
        Probability of each bin by chance.
    sides : tuple of int
        Sides, in bins, of the boxes tried.

    Returns
    -------
    surprise : float
        inside · ln(inside/expected) − inside + expected of the best box; 0 where no box exceeds chance.
    row, column, side : int
        Its first bin along each axis, and its side; 0 where there is none.
    """
    surprise, row, column, side = _search(counts, chance, np.asarray(sides, np.int64))
    return float(surprise), int(row), int(column), int(side)


@njit(nogil=True, cache=True, error_model="numpy")
def _search(counts: I64, chance: F64, sides: I64) -> tuple[float, int, int, int]:
    bins = len(counts)
    corner, share = np.zeros((bins + 1, bins + 1)), np.zeros((bins + 1, bins + 1))
    for i in range(bins):
        for j in range(bins):
            corner[i + 1, j + 1] = counts[i, j] + corner[i, j + 1] + corner[i + 1, j] - corner[i, j]
            share[i + 1, j + 1] = chance[i, j] + share[i, j + 1] + share[i + 1, j] - share[i, j]
    total = corner[bins, bins]
    surprise, row, column, best_side = 0.0, 0, 0, 0
    for side in sides:
        for i in range(bins - side + 1):
            for j in range(bins - side + 1):
                k, m = i + side, j + side
                inside = corner[k, m] - corner[i, m] - corner[k, j] + corner[i, j]
                p = share[k, m] - share[i, m] - share[k, j] + share[i, j]
                expected = (total - inside + 1.0) * p / (1.0 - p)
                # The logarithm is taken only where its bound by ln(1 + e) ≤ e may win.
                if inside <= expected or (inside - expected) ** 2 <= surprise * expected:
                    continue
                excess = inside * np.log(max(inside, 1.0) / expected) - inside + expected
                if excess > surprise:
                    surprise, row, column, best_side = excess, i, j, side
    return surprise, row, column, best_side
