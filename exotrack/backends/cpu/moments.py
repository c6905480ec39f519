"""Sums over links from which a collective flow follows by least squares."""

from __future__ import annotations

import numpy as np
from numba import njit

from exotrack.tables import F64, I64


@njit(nogil=True, cache=True, error_model="numpy")
def link_moments(
    y: F64,
    x: F64,
    at_y: F64,
    at_x: F64,
    offsets: I64,
    successor: I64,
    *,
    centre: tuple[float, float],
    unit: float,
    reach: float,
    precision: F64,
) -> tuple[F64, F64]:
    """Normal equations of a flow that changes linearly over the field, frame by frame.

    The displacement of a link is modelled as a + b·u + c·v with u and v the place of its source relative to the
    centre, in units of `unit`. Links count by turns towards one of two halves, which predict each other.

    Parameters
    ----------
    y, x, at_y, at_x : float64 (n,)
        Positions, and where each row is expected in the next frame, px.
    offsets : int64 (n_frames + 1,)
        First row of each frame.
    successor : int64 (n,)
        Row that each is linked to, or -1.
    centre, unit : (float, float), float
        Centre of the field and unit of length, px.
    reach : float
        Distance from the expected position up to which `precision` is tabulated, px.
    precision : float64 (n_bins + 1,)
        Weight of a link at distances from 0 to `reach`, equally spaced, px⁻².

    Returns
    -------
    matrix : float64 (2, n_frames − 1, 3, 3)
    vector : float64 (2, n_frames − 1, 3, 2)
        For the displacements along y and x.
    """
    n_steps = max(len(offsets) - 2, 0)
    matrix, vector = np.zeros((2, n_steps, 3, 3)), np.zeros((2, n_steps, 3, 2))
    half = 0
    scale = (len(precision) - 1) / reach
    basis = np.ones(3)
    for frame in range(matrix.shape[1]):
        for i in range(offsets[frame], offsets[frame + 1]):
            j = successor[i]
            if j < 0:
                continue
            place = np.sqrt((y[j] - at_y[i]) ** 2 + (x[j] - at_x[i]) ** 2) * scale
            k = min(int(place), len(precision) - 2)
            weight = precision[k] + (place - k) * (precision[k + 1] - precision[k])
            basis[1], basis[2] = (y[i] - centre[0]) / unit, (x[i] - centre[1]) / unit
            for a in range(3):
                vector[half, frame, a, 0] += weight * basis[a] * (y[j] - y[i])
                vector[half, frame, a, 1] += weight * basis[a] * (x[j] - x[i])
                for b in range(3):
                    matrix[half, frame, a, b] += weight * basis[a] * basis[b]
            half = 1 - half
    return matrix, vector
