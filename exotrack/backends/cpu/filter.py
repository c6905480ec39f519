"""The matched filter, fused: one pass over the raw pixels of a frame, a few rows held at a time, no frame-sized copies.

A frame is filtered on a lattice of every `step`-th pixel along y and x: a spot is wide enough to be seen there, and
`detect` interpolates the height of its peak. Rows are split into `step` phases (pixels 0, step, 2 step … then
1, step + 1 …) as they are read, so that every inner loop walks contiguous float32 arrays and vectorizes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from exotrack.tables import F32, Array

FAST = {"contract", "nsz", "arcp"}
"""Floating-point freedoms that cannot hide a NaN or change a result between runs."""


class Rows(NamedTuple):
    """Scratch memory of one filtering thread."""

    ring: F32
    """Latest rows of the frame as float32, shape (power of two, step, lattice width): row v at v & (rows − 1)."""
    gauss: F32
    """Weighted mean of the rows around the current one, padded, shape (step, padded width)."""
    box: F32
    """Sum of the rows of the square around the current one, padded."""
    sums: F32
    """`box` summed over the `step` phases, padded, shape (padded width,)."""


@njit(nogil=True, cache=True)
def make_rows(width: int, radius: int, box_half: int, step: int) -> Rows:
    """Scratch memory for frames of a width."""
    lattice = (width + step - 1) // step
    reach = max(radius, box_half)
    padded = lattice + 2 * (reach // step + 2)
    held = 1
    while held < 2 * reach + step + 1:  # a power of two: row v lies at v & (held − 1), negative ones too
        held *= 2
    return Rows(
        np.empty((held, step, lattice), np.float32),
        np.empty((step, padded), np.float32),
        np.empty((step, padded), np.float32),
        np.empty(padded, np.float32),
    )


# The functions below take whole arrays and row numbers: a slice that is handed on costs as much as a row of arithmetic.


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _split(frame: Array, y: int, pedestal: float, ring: F32, v: int) -> None:
    """Phases of a raw row, the outermost pixel repeated where the width is no multiple of the step."""
    base = np.float32(pedestal)
    row = frame[y]
    step, lattice = ring.shape[1], ring.shape[2]
    for p in range(step):
        phase = ring[v, p]
        count = (len(row) - p + step - 1) // step
        if step == 1:
            for k in range(count):
                phase[k] = np.float32(row[k]) - base
        elif step == 2:
            for k in range(count):
                phase[k] = np.float32(row[2 * k + p]) - base
        else:
            for k in range(count):
                phase[k] = np.float32(row[step * k + p]) - base
        for k in range(count, lattice):
            phase[k] = np.float32(row[len(row) - 1]) - base


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _weigh_rows(ring: F32, y: int, p: int, taps: F32, gauss: F32, pad: int) -> None:
    """Weighted mean of a phase of the rows around row y."""
    mask, width = ring.shape[0] - 1, ring.shape[2]
    a3, a2, a1, c = ring[(y - 3) & mask, p], ring[(y - 2) & mask, p], ring[(y - 1) & mask, p], ring[y & mask, p]
    b1, b2, b3 = ring[(y + 1) & mask, p], ring[(y + 2) & mask, p], ring[(y + 3) & mask, p]
    out = gauss[p, pad : pad + width]
    w0, w1, w2, w3 = taps[0], taps[1], taps[2], taps[3]
    for x in range(width):
        out[x] = w0 * c[x] + w1 * (a1[x] + b1[x]) + w2 * (a2[x] + b2[x]) + w3 * (a3[x] + b3[x])
    for t in range(4, len(taps) - 1, 2):
        a1, a2 = ring[(y - t) & mask, p], ring[(y - t - 1) & mask, p]
        b1, b2 = ring[(y + t) & mask, p], ring[(y + t + 1) & mask, p]
        w1, w2 = taps[t], taps[t + 1]
        for x in range(width):
            out[x] += w1 * (a1[x] + b1[x]) + w2 * (a2[x] + b2[x])


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _weigh_columns(gauss: F32, taps: F32, pad: int, filtered: F32, k: int) -> None:
    """Weighted mean of the columns around each lattice point."""
    step = gauss.shape[0]
    out = filtered[k]
    a3, a2 = gauss[-3 % step, pad + -3 // step :], gauss[-2 % step, pad + -2 // step :]
    a1, c = gauss[-1 % step, pad + -1 // step :], gauss[0, pad:]
    b1, b2 = gauss[1 % step, pad + 1 // step :], gauss[2 % step, pad + 2 // step :]
    b3 = gauss[3 % step, pad + 3 // step :]
    w0, w1, w2, w3 = taps[0], taps[1], taps[2], taps[3]
    for x in range(len(out)):
        out[x] = w0 * c[x] + w1 * (a1[x] + b1[x]) + w2 * (a2[x] + b2[x]) + w3 * (a3[x] + b3[x])
    for t in range(4, len(taps) - 1, 2):
        a1, a2 = gauss[-t % step, pad + -t // step :], gauss[(-t - 1) % step, pad + (-t - 1) // step :]
        b1, b2 = gauss[t % step, pad + t // step :], gauss[(t + 1) % step, pad + (t + 1) // step :]
        w1, w2 = taps[t], taps[t + 1]
        for x in range(len(out)):
            out[x] += w1 * (a1[x] + b1[x]) + w2 * (a2[x] + b2[x])


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _sum_rows(ring: F32, first: int, last: int, box: F32, pad: int) -> None:
    """Sum of the rows first … last."""
    mask, width = ring.shape[0] - 1, ring.shape[2]
    for p in range(ring.shape[1]):
        out = box[p, pad : pad + width]
        for x in range(width):
            out[x] = 0.0
        for y in range(first, last + 1):
            row = ring[y & mask, p]
            for x in range(width):
                out[x] += row[x]


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _move_rows(ring: F32, entering: int, leaving: int, box: F32, pad: int) -> None:
    """`step` rows enter the sum of rows and `step` rows leave it."""
    mask, step, width = ring.shape[0] - 1, ring.shape[1], ring.shape[2]
    for p in range(step):
        out = box[p, pad : pad + width]
        for v in range(0, step - 1, 2):
            enter, leave = ring[(entering + v) & mask, p], ring[(leaving + v) & mask, p]
            enter2, leave2 = ring[(entering + v + 1) & mask, p], ring[(leaving + v + 1) & mask, p]
            for x in range(width):
                out[x] += (enter[x] - leave[x]) + (enter2[x] - leave2[x])
        if step % 2:
            enter, leave = ring[(entering + step - 1) & mask, p], ring[(leaving + step - 1) & mask, p]
            for x in range(width):
                out[x] += enter[x] - leave[x]


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _sum_phases(box: F32, sums: F32) -> None:
    """Whole lattice cells of a row of column sums; a copy of the row where the step is 1."""
    first, second = box[0], box[min(1, box.shape[0] - 1)]
    both = np.float32(box.shape[0] > 1)
    for x in range(len(sums)):
        sums[x] = first[x] + both * second[x]
    for p in range(2, box.shape[0]):
        phase = box[p]
        for x in range(len(sums)):
            sums[x] += phase[x]


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _subtract_square(cells: F32, box: F32, pad: int, box_half: int, filtered: F32, k: int) -> None:
    """Take the mean of the square around each lattice point off.

    The square of 2 box_half + 1 = step (2 m + 1) + step − 1 pixels holds 2 m + 1 whole cells and, before the first of
    them, all but the first of the pixels of another.
    """
    out = filtered[k]
    step = box.shape[0]
    m = box_half // step
    share = np.float32(1.0 / (2 * box_half + 1) ** 2)
    a3, a2, a1, c = cells[pad - 3 :], cells[pad - 2 :], cells[pad - 1 :], cells[pad:]
    b1, b2, b3 = cells[pad + 1 :], cells[pad + 2 :], cells[pad + 3 :]
    for x in range(len(out)):
        out[x] -= share * ((a1[x] + b1[x]) + (a2[x] + b2[x]) + (a3[x] + b3[x]) + c[x])
    for t in range(4, m + 1):
        a1, b1 = cells[pad - t :], cells[pad + t :]
        for x in range(len(out)):
            out[x] -= share * (a1[x] + b1[x])
    for p in range(1, step):
        rest = box[p, pad - m - 1 :]
        for x in range(len(out)):
            out[x] -= share * rest[x]


@njit(nogil=True, cache=True)
def _pad(phases: F32, pad: int) -> None:
    """Continue a row beyond both ends by its outermost pixels."""
    step, padded = phases.shape
    last = padded - pad
    before, after = phases[0, pad], phases[step - 1, last - 1]
    for p in range(step):
        for x in range(pad):
            phases[p, x] = before
            phases[p, last + x] = after


@njit(nogil=True, cache=True)
def filter_row(frame: Array, taps: F32, box_half: int, pedestal: float, rows: Rows, filtered: F32, k: int) -> None:
    """Row `k` of the lattice: weighted mean minus the mean of a square; rows of a frame are asked for in order."""
    height = frame.shape[0]
    ring, gauss, box = rows.ring, rows.gauss, rows.box
    step, mask = ring.shape[1], ring.shape[0] - 1
    reach = max(len(taps) - 1, box_half)
    pad = (gauss.shape[1] - filtered.shape[1]) // 2
    y = k * step
    for v in range(y - reach if k == 0 else y - step + reach + 1, y + reach + 1):
        _split(frame, min(max(v, 0), height - 1), pedestal, ring, v & mask)
    for p in range(step):
        _weigh_rows(ring, y, p, taps, gauss, pad)
    _pad(gauss, pad)
    _weigh_columns(gauss, taps, pad, filtered, k)
    if k == 0:
        _sum_rows(ring, -box_half, box_half, box, pad)
    else:
        _move_rows(ring, y - step + box_half + 1, y - step - box_half, box, pad)
    _pad(box, pad)
    _sum_phases(box, rows.sums)
    _subtract_square(rows.sums, box, pad, box_half, filtered, k)


@njit(nogil=True, cache=True)
def matched_filter(frames: Array, taps: F32, *, box_half: int, step: int, pedestal: float) -> F32:
    """Signal of a bright spot of the filter's width, free of any local offset and slope, on a lattice of pixels.

    Parameters
    ----------
    frames : uint8, uint16 or float32 array, shape (n, height, width)
        Raw frames, DN.
    taps : float32 array, shape (radius + 1,), radius odd and at least 3
        One half of a symmetric kernel of unit sum, from its centre outwards.
    box_half : int
        Half width of the square whose mean is subtracted, px: step · m + step − 1 with m ≥ 3.
    step : int
        Distance of the lattice points, px.
    pedestal : float
        Grey level that is taken off first, DN; it changes nothing but the rounding of float32.

    Returns
    -------
    float32 array, shape (n, ⌈height / step⌉, ⌈width / step⌉), DN
        Weighted mean minus square mean about the pixels (i step, j step). Beyond the border the frame is continued by
        its outermost pixels.
    """
    n, height, width = frames.shape
    rows = make_rows(width, len(taps) - 1, box_half, step)
    out = np.empty((n, (height + step - 1) // step, (width + step - 1) // step), np.float32)
    for i in range(n):
        for k in range(out.shape[1]):
            filter_row(frames[i], taps, box_half, pedestal, rows, out[i], k)
    return out
