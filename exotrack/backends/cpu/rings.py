"""Centres of rings, the images of particles far out of focus, by radial symmetry."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from exotrack.tables import F32, F64, I32, Array

HOLLOW = 0.8
"""A spot whose middle is darker than this share of its brightest circle is a ring."""


@njit(nogil=True, cache=True, error_model="numpy")
def radial_symmetry(
    frames: Array, background: F32, frame: I32, y: F64, x: F64, *, sign: float, half: int
) -> tuple[F64, npt.NDArray[np.bool_]]:
    """Point to which the gradients of the image around a place point, and whether the place is the middle of a ring.

    Each gradient defines a line; the centre is the point with the least sum of squared distances from all lines,
    weighted by the squared gradient over the distance from the centroid of the gradients [1]_.

    Parameters
    ----------
    frames, background, sign
        As in `refine`.
    frame, y, x : arrays, shape (k,)
        Places to start from, px.
    half : int
        Half width of the window, px: it has to hold the ring.

    Returns
    -------
    values : float64 array, shape (4, k)
        y, x and their standard errors, px, from the scatter of the lines about the centre; simulated rings scatter by
        0.95 to 1.0 of them. Infinite errors where the window leaves the frame or the image is flat.
    ring : bool array, shape (k,)
        The mean of the middle is less than `HOLLOW` times that of the brightest circle around it.

    References
    ----------
    .. [1] Parthasarathy, Nat. Methods 9, 724 (2012), doi:10.1038/nmeth.2071.
    """
    n_spots = len(frame)
    height, width = frames.shape[1], frames.shape[2]
    side = 2 * half + 1
    values = np.empty((4, n_spots))
    ring = np.zeros(n_spots, np.bool_)
    data = np.empty((side, side))
    steep_y, steep_x = np.empty((side - 1, side - 1)), np.empty((side - 1, side - 1))
    for k in range(n_spots):
        row, column = round(y[k]), round(x[k])
        values[0, k], values[1, k], values[2, k], values[3, k] = y[k], x[k], np.inf, np.inf
        if row < half or column < half or row + half >= height or column + half >= width:
            continue
        for i in range(side):
            for j in range(side):
                v, u = row + i - half, column + j - half
                data[i, j] = sign * (np.float64(frames[frame[k], v, u]) - background[v, u])
        _gradients(data, steep_y, steep_x)
        cy, cx, ey, ex = _centre(steep_y, steep_x)
        if not (abs(cy) < half and abs(cx) < half):
            continue
        values[0, k], values[1, k], values[2, k], values[3, k] = row + cy, column + cx, ey, ex
        ring[k] = _is_hollow(data, cy, cx)
    return values, ring


@njit(nogil=True, cache=True, error_model="numpy")
def _gradients(data: F64, steep_y: F64, steep_x: F64) -> None:
    """Gradients at the corners between pixels, each the mean of 3 × 3 neighbours."""
    n = len(steep_y)
    raw_y, raw_x = np.empty((n, n)), np.empty((n, n))
    for i in range(n):
        for j in range(n):
            falling, rising = data[i + 1, j + 1] - data[i, j], data[i + 1, j] - data[i, j + 1]
            raw_y[i, j], raw_x[i, j] = 0.5 * (falling + rising), 0.5 * (falling - rising)
    for i in range(n):
        for j in range(n):
            total_y = total_x = 0.0
            count = 0
            for v in range(max(i - 1, 0), min(i + 2, n)):
                for u in range(max(j - 1, 0), min(j + 2, n)):
                    total_y += raw_y[v, u]
                    total_x += raw_x[v, u]
                    count += 1
            steep_y[i, j], steep_x[i, j] = total_y / count, total_x / count


@njit(nogil=True, cache=True, error_model="numpy")
def _centre(steep_y: F64, steep_x: F64) -> tuple[float, float, float, float]:
    """Weighted least-squares meeting point of the lines along all gradients, relative to the middle, with errors."""
    n = len(steep_y)
    middle = 0.5 * (n - 1)
    total = at_y = at_x = 0.0
    for i in range(n):
        for j in range(n):
            square = steep_y[i, j] ** 2 + steep_x[i, j] ** 2
            total += square
            at_y += square * (i - middle)
            at_x += square * (j - middle)
    if not total > 0.0:
        return 0.0, 0.0, np.inf, np.inf
    at_y, at_x = at_y / total, at_x / total
    yy = yx = xx = by = bx = 0.0
    cy = cx = squares = 0.0
    for sweep in range(2):  # first the centre, then the scatter of the lines about it
        for i in range(n):
            for j in range(n):
                square = steep_y[i, j] ** 2 + steep_x[i, j] ** 2
                if square == 0.0:
                    continue
                v, u = i - middle, j - middle
                weight = square / max(math.hypot(v - at_y, u - at_x), 0.5)
                across_y, across_x = -steep_x[i, j] / math.sqrt(square), steep_y[i, j] / math.sqrt(square)
                offset = across_y * v + across_x * u
                if sweep == 0:
                    yy += weight * across_y * across_y
                    yx += weight * across_y * across_x
                    xx += weight * across_x * across_x
                    by += weight * across_y * offset
                    bx += weight * across_x * offset
                else:
                    squares += (weight * (across_y * cy + across_x * cx - offset)) ** 2
        if sweep == 0:
            determinant = yy * xx - yx * yx
            if not determinant > 0.0:
                return 0.0, 0.0, np.inf, np.inf
            cy, cx = (xx * by - yx * bx) / determinant, (yy * bx - yx * by) / determinant
    scatter = math.sqrt(squares)
    return cy, cx, scatter / yy, scatter / xx


@njit(nogil=True, cache=True, error_model="numpy")
def _is_hollow(data: F64, cy: float, cx: float) -> bool:
    """Whether the mean over the innermost pixels is well below that of the brightest circle, above that of the rim."""
    half = len(data) // 2
    total, count = np.zeros(half + 1), np.zeros(half + 1)
    for i in range(len(data)):
        for j in range(len(data)):
            r = round(math.hypot(i - half - cy, j - half - cx))
            if r <= half:
                total[r] += data[i, j]
                count[r] += 1.0
    mean = total / np.maximum(count, 1.0)
    inner = (total[0] + total[1]) / max(count[0] + count[1], 1.0)
    rim = mean[half]
    highest = rim
    for r in range(2, half):
        highest = max(highest, mean[r])
    return bool(inner - rim < HOLLOW * (highest - rim))
