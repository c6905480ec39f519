"""Five equations with five unknowns, solved in place: the step of a fit and the variances of its result."""

from __future__ import annotations

import math

from numba import njit

from exotrack.tables import F64

PARAMETERS = 5
"""y, x, amplitude, offset, squared width."""


@njit(nogil=True, cache=True, error_model="numpy")
def factor(matrix: F64, lower: F64) -> bool:
    """Cholesky factor of a symmetric matrix given by its lower triangle, reciprocals on its diagonal; False if none."""
    for i in range(PARAMETERS):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            if i == j:
                if not total > 1e-5 * matrix[i, i]:
                    return False
                lower[i, i] = 1.0 / math.sqrt(total)
            else:
                lower[i, j] = total * lower[j, j]
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def solve(lower: F64, vector: F64) -> None:
    """Solve for a vector, in its place."""
    for i in range(PARAMETERS):
        for k in range(i):
            vector[i] -= lower[i, k] * vector[k]
        vector[i] *= lower[i, i]
    for i in range(PARAMETERS - 1, -1, -1):
        for k in range(i + 1, PARAMETERS):
            vector[i] -= lower[k, i] * vector[k]
        vector[i] *= lower[i, i]


@njit(nogil=True, cache=True, error_model="numpy")
def variance_of(lower: F64, c: int, column: F64) -> float:
    """Diagonal element `c` of the inverse of the factored matrix."""
    column[c] = lower[c, c]
    norm = column[c] * column[c]
    for i in range(c + 1, PARAMETERS):
        total = 0.0
        for k in range(c, i):
            total -= lower[i, k] * column[k]
        column[i] = total * lower[i, i]
        norm += column[i] * column[i]
    return float(norm)
