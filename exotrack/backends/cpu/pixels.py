"""The pixels of a fitting window: their values and variances, and the light of a spot on them."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from exotrack.tables import F32, F64, Array

BLIND = np.float32(1e30)
"""Variance of a pixel that is left out."""


@njit(nogil=True, cache=True)
def nearest(place: float, length: int) -> int:
    """Pixel nearest to a place, within an axis of a length."""
    return min(max(round(place), 0), length - 1)


@njit(nogil=True, cache=True, error_model="numpy")
def gather(
    image: Array, background: F32, variance: F32, row: int, column: int, half: int, sign: float, saturation: float,
    data: F32, weight: F32,
) -> bool:  # fmt: skip
    """Pixels of a window and their variances; whether any of them is clipped."""
    height, width = image.shape
    side = 2 * half + 1
    s, limit = np.float32(sign), np.float32(saturation)
    top, left = row - half, column - half
    highest = np.float32(0.0)
    if top >= 0 and left >= 0 and top + side <= height and left + side <= width:
        for i in range(side):
            raw, still = image[top + i, left : left + side], background[top + i, left : left + side]
            noise = variance[top + i, left : left + side]
            for j in range(side):
                value = np.float32(raw[j])
                highest = max(highest, value)
                data[i * side + j] = s * (value - still[j])
                weight[i * side + j] = noise[j]
    else:
        for i in range(side):
            for j in range(side):
                v, u, p = top + i, left + j, i * side + j
                if 0 <= v < height and 0 <= u < width:
                    value = np.float32(image[v, u])
                    highest = max(highest, value)
                    data[p] = s * (value - background[v, u])
                    weight[p] = variance[v, u]
                else:
                    data[p] = np.float32(0.0)
                    weight[p] = BLIND
    return bool(highest >= limit)


@njit(nogil=True, cache=True, error_model="numpy")
def leave_out_clipped(image: Array, row: int, column: int, half: int, saturation: float, weight: F32) -> bool:
    """Leave out the clipped pixels of a window; whether any of them is within half of it."""
    height, width = image.shape
    side = 2 * half + 1
    near = False
    for v in range(max(row - half, 0), min(row + half + 1, height)):
        for u in range(max(column - half, 0), min(column + half + 1, width)):
            if image[v, u] >= saturation:
                weight[(v - row + half) * side + u - column + half] = BLIND
                near = near or 4 * ((v - row) ** 2 + (u - column) ** 2) <= half * half
    return near


@njit(nogil=True, cache=True)
def count(weight: F32) -> np.int32:
    """Pixels that are not left out."""
    used = np.int32(0)
    for p in range(len(weight)):
        used += np.int32(weight[p] < BLIND)
    return used


@njit(nogil=True, cache=True, error_model="numpy")
def profile(centre: float, variance: float, line: F32) -> None:
    """exp(−(m − centre)² / 2 variance) for m = −half … half, by recurrence from the middle outwards."""
    half = len(line) // 2
    step = math.exp(-0.5 / variance)
    tilt = math.exp(centre / variance)
    right = left = math.exp(-0.5 * centre * centre / variance)
    line[half] = right
    up, down = step * tilt, step / tilt
    square = step * step
    for m in range(1, half + 1):
        right *= up
        left *= down
        line[half + m] = right
        line[half - m] = left
        up *= square
        down *= square


@njit(nogil=True, cache=True, error_model="numpy")
def outer(gy: F32, gx: F32, shape: F32) -> None:
    """Image of a spot from its profiles along y and x."""
    side = len(gy)
    for i in range(side):
        height = gy[i]
        row = shape[i * side : (i + 1) * side]
        for j in range(side):
            row[j] = height * gx[j]


@njit(nogil=True, cache=True, error_model="numpy")
def remove(
    other: F64, row: int, column: int, gain: float, gy: F32, gx: F32, shape: F32, data: F32, weight: F32
) -> None:
    """Subtract the fitted light of another spot from a window, and add its shot noise to the variances."""
    profile(other[0] - row, other[4], gy)
    profile(other[1] - column, other[4], gx)
    outer(gy, gx, shape)
    amplitude, growth = np.float32(other[2]), np.float32(gain)
    for p in range(len(data)):
        light = amplitude * shape[p]
        data[p] -= light
        weight[p] += growth * light
