"""Local maxima of the matched filter: where the spots are, to a fraction of a pixel, and how far they stand out."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from exotrack.backends.cpu.filter import FAST, filter_row, make_rows
from exotrack.tables import F32, I32, Array

PLAIN = 1.6
"""A lattice point this much above the limit is a spot wherever between the points its peak may lie."""
CHUNK = 128
"""Lattice points that are compared with the limit at a time: most chunks hold none above it."""


@njit(nogil=True, cache=True, error_model="numpy")
def _above(filtered: F32, limit: F32, k: int, bright: bool, columns: I32) -> int:
    """Columns of a row that exceed the limit (fall below it, for dark spots), and their number."""
    width = filtered.shape[1]
    found = 0
    for first in range(0, width, CHUNK):
        values, bound = filtered[k, first : first + CHUNK], limit[k, first : first + CHUNK]
        beyond = np.int32(0)
        if bright:
            for x in range(len(values)):
                beyond += np.int32(values[x] > bound[x])
        else:
            for x in range(len(values)):
                beyond += np.int32(values[x] < bound[x])
        if beyond == 0:
            continue
        for x in range(len(values)):
            if values[x] > bound[x] if bright else values[x] < bound[x]:
                columns[found] = first + x
                found += 1
    return found


@njit(nogil=True, cache=True, error_model="numpy")
def _is_peak(filtered: F32, level: F32, inverse_noise: F32, sign: float, k: int, j: int) -> bool:
    """Whether a lattice point is the largest of its 3 × 3 neighbourhood; of equal ones the first in reading order."""
    height, width = filtered.shape
    value = (sign * filtered[k, j] - level[k, j]) * inverse_noise[k, j]
    for v in range(max(k - 1, 0), min(k + 2, height)):
        for u in range(max(j - 1, 0), min(j + 2, width)):
            other = (sign * filtered[v, u] - level[v, u]) * inverse_noise[v, u]
            if other > value or (other == value and (v < k or (v == k and u < j))):
                return False
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def _copy(frame: Array, top: int, left: int, pedestal: float, pixels: F32) -> None:
    """A square of a frame; beyond the border, the outermost pixels."""
    height, width = frame.shape
    side = len(pixels)
    base = np.float32(pedestal)
    if top >= 0 and left >= 0 and top + side <= height and left + side <= width:
        for v in range(side):
            source, target = frame[top + v, left : left + side], pixels[v]
            for u in range(side):
                target[u] = np.float32(source[u]) - base
    else:
        for v in range(side):
            source, target = frame[min(max(top + v, 0), height - 1)], pixels[v]
            for u in range(side):
                target[u] = np.float32(source[min(max(left + u, 0), width - 1)]) - base


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _move(entering: F32, leaving: F32, out: F32) -> None:
    for u in range(len(out)):
        out[u] += entering[u] - leaving[u]


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _weigh(a: F32, b: F32, weight: float, out: F32) -> None:
    w = np.float32(weight)
    for u in range(len(out)):
        out[u] += w * (a[u] + b[u])


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _evaluate(pixels: F32, half: int, taps: F32, box_half: int, gauss: F32, box: F32, nothing: F32, patch: F32) -> None:
    """The matched filter at the (2 half + 1)² pixels in the middle of a square, as `matched_filter` defines it."""
    radius = len(taps) - 1
    side = 2 * half + 1
    middle = len(pixels) // 2
    area = np.float32(1.0 / (2 * box_half + 1) ** 2)
    box[:] = 0.0
    for v in range(middle - half - box_half, middle - half + box_half + 1):
        _weigh(pixels[v], nothing, 1.0, box)
    for a in range(side):
        row = middle - half + a
        if a:
            _move(pixels[row + box_half], pixels[row - box_half - 1], box)
        gauss[:] = 0.0
        _weigh(pixels[row], nothing, taps[0], gauss)
        for t in range(1, radius + 1):
            _weigh(pixels[row - t], pixels[row + t], taps[t], gauss)
        around = np.float32(0.0)
        for u in range(middle - half - box_half, middle - half + box_half + 1):
            around += box[u]
        for b in range(side):
            column = middle - half + b
            total = taps[0] * gauss[column]
            for t in range(1, radius + 1):
                total += taps[t] * (gauss[column - t] + gauss[column + t])
            patch[a, b] = total - area * around
            if b + 1 < side:
                around += box[column + box_half + 1] - box[column - box_half]


@njit(nogil=True, cache=True, error_model="numpy")
def _parabola(before: float, centre: float, after: float) -> float:
    """Offset of the top of a parabola through the logarithms of a peak and its neighbours, in their distance."""
    floor = 0.02 * centre
    lower, middle, upper = math.log(max(before, floor)), math.log(centre), math.log(max(after, floor))
    bend = 2.0 * middle - lower - upper
    return min(max(0.5 * (upper - lower) / bend, -0.5), 0.5) if bend > 1e-6 else 0.0


@njit(nogil=True, cache=True)
def _grown(frame: I32, values: F32) -> tuple[I32, F32]:
    """Copies with twice the room."""
    n = len(frame)
    more_frames = np.empty(2 * n, np.int32)
    more_frames[:n] = frame
    more_values = np.empty((len(values), 2 * n), np.float32)
    more_values[:, :n] = values
    return more_frames, more_values


@njit(nogil=True, cache=True)
def detect(
    frames: Array,
    level: F32,
    inverse_noise: F32,
    limit: F32,
    taps: F32,
    *,
    box_half: int,
    step: int,
    sign: float,
    pedestal: float,
) -> tuple[I32, F32, F32, F32]:
    """Spots of a stack of frames: maxima of the matched filter above a signal-to-noise ratio.

    Parameters
    ----------
    frames, taps, box_half, step, pedestal
        As in `matched_filter`.
    level : float32 array, shape (⌈height / step⌉, ⌈width / step⌉)
        Filtered still background times `sign`, DN.
    inverse_noise : float32 array of the same shape
        One over the s.d. of the filtered noise, 1/DN.
    limit : float32 array of the same shape
        A lattice point is looked at where the filtered frame, times `sign`, exceeds this, DN.
    sign : float
        1 for bright spots, −1 for dark ones.

    Returns
    -------
    frame : int32 array, shape (k,)
        Index in `frames`; spots are ordered by frame, then row, then column of their lattice point.
    y, x : float32 arrays, shape (k,)
        Top of the peak by a log-parabola along each axis, px.
    snr : float32 array, shape (k,)
        Filtered signal over the s.d. of the filtered noise: at the highest pixel within half a step of the lattice
        point; for a peak that stands out plainly, at the lattice point itself.

    Notes
    -----
    A lattice point is a candidate where it is the largest of its 3 × 3 neighbours. A peak that lies between lattice
    points is lower at each of them: `limit` has to allow for it, and where the lattice does not decide, the filter is
    evaluated at every pixel.
    """
    n, height, width = frames.shape
    rows = make_rows(width, len(taps) - 1, box_half, step)
    lattice_height, lattice_width = level.shape
    filtered = np.empty((lattice_height, lattice_width), np.float32)
    bound = (limit * np.float32(sign)).astype(np.float32)
    half = step // 2 + 1
    patch = np.empty((2 * half + 1, 2 * half + 1), np.float32)
    middle = half + max(box_half, len(taps) - 1)
    pixels = np.empty((2 * middle + 1, 2 * middle + 1), np.float32)
    gauss, box = np.empty(2 * middle + 1, np.float32), np.empty(2 * middle + 1, np.float32)
    nothing = np.zeros(2 * middle + 1, np.float32)
    bright = sign > 0.0
    columns = np.empty(lattice_width, np.int32)
    frame_of = np.empty(256, np.int32)
    values = np.empty((3, 256), np.float32)
    count = 0
    for i in range(n):
        for k in range(lattice_height):
            filter_row(frames[i], taps, box_half, pedestal, rows, filtered, k)
        for k in range(lattice_height):
            for j in columns[: _above(filtered, bound, k, bright, columns)]:
                if not _is_peak(filtered, level, inverse_noise, sign, k, j):
                    continue
                if count == len(frame_of):
                    frame_of, values = _grown(frame_of, values)
                base = level[k, j]
                signal = np.float32(sign) * filtered[k, j] - base
                inner = 0 < k < lattice_height - 1 and 0 < j < lattice_width - 1
                if inner and signal > PLAIN * (limit[k, j] - base):
                    before, after = sign * filtered[k - 1, j] - base, sign * filtered[k + 1, j] - base
                    dy = _parabola(before, signal, after)
                    before, after = sign * filtered[k, j - 1] - base, sign * filtered[k, j + 1] - base
                    dx = _parabola(before, signal, after)
                    values[0, count] = (k + dy) * step
                    values[1, count] = (j + dx) * step
                    values[2, count] = signal * inverse_noise[k, j]
                else:
                    _copy(frames[i], k * step - middle, j * step - middle, pedestal, pixels)
                    _evaluate(pixels, half, taps, box_half, gauss, box, nothing, patch)
                    signal, a, b = np.float32(-np.inf), half, half
                    for v in range(1, 2 * half):
                        for u in range(1, 2 * half):
                            height_here = np.float32(sign) * patch[v, u] - base
                            inside = 0 <= k * step + v - half < height and 0 <= j * step + u - half < width
                            if height_here > signal and inside:
                                signal, a, b = height_here, v, u
                    dy = _parabola(sign * patch[a - 1, b] - base, signal, sign * patch[a + 1, b] - base)
                    dx = _parabola(sign * patch[a, b - 1] - base, signal, sign * patch[a, b + 1] - base)
                    values[0, count] = k * step + a - half + dy
                    values[1, count] = j * step + b - half + dx
                    values[2, count] = signal * inverse_noise[k, j]
                frame_of[count] = i
                count += 1
    return (
        frame_of[:count].copy(),
        values[0, :count].copy(),
        values[1, :count].copy(),
        values[2, :count].copy(),
    )
