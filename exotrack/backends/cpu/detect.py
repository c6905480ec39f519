"""Matched filter and local maxima: where the spots are, to the nearest pixel and by a log-quadratic seed."""

from __future__ import annotations

import numpy as np
from numba import njit

from exotrack.tables import F32, I32, I64, Array


@njit(nogil=True, cache=True)
def _subtract_padded(frame: Array, background: F32, sign: float, pad: int, out: F32) -> None:
    """sign × (frame − background), with the border repeated over `pad` pixels on every side."""
    height, width = frame.shape
    s = np.float32(sign)
    for y in range(height):
        row = out[pad + y]
        for x in range(width):
            row[pad + x] = s * (np.float32(frame[y, x]) - background[y, x])
        for x in range(pad):
            row[x] = row[pad]
            row[pad + width + x] = row[pad + width - 1]
    for y in range(pad):
        out[y] = out[pad]
        out[pad + height + y] = out[pad + height - 1]


@njit(nogil=True, cache=True, fastmath={"contract"})
def _filter_padded(padded: F32, taps: F32, box_half: int, out: F32) -> None:
    """Gaussian mean minus box mean around every pixel of the unpadded frame."""
    height, width = out.shape
    pad = (padded.shape[0] - height) // 2
    full = padded.shape[1]
    radius = len(taps) - 1
    column = np.empty(full, np.float32)
    box = np.zeros(full, np.float64)
    area = np.float32(1.0 / (2 * box_half + 1) ** 2)
    for y in range(pad - box_half, pad + box_half):
        for x in range(full):
            box[x] += padded[y, x]
    for y in range(height):
        c = y + pad
        entering = padded[c + box_half]
        for x in range(full):
            box[x] += entering[x]
        centre = padded[c]
        for x in range(full):
            column[x] = taps[0] * centre[x]
        for t in range(1, radius + 1):
            above, below, weight = padded[c - t], padded[c + t], taps[t]
            for x in range(full):
                column[x] += weight * (above[x] + below[x])
        row = out[y]
        for x in range(width):
            row[x] = taps[0] * column[pad + x]
        for t in range(1, radius + 1):
            weight = taps[t]
            for x in range(width):
                row[x] += weight * (column[pad + x - t] + column[pad + x + t])
        total = 0.0
        for x in range(pad - box_half, pad + box_half):
            total += box[x]
        for x in range(width):
            total += box[pad + x + box_half]
            row[x] -= np.float32(total) * area
            total -= box[pad + x - box_half]
        leaving = padded[c - box_half]
        for x in range(full):
            box[x] -= leaving[x]


@njit(nogil=True, cache=True)
def matched_filter(frames: Array, background: F32, taps: F32, *, box_half: int, sign: float) -> F32:
    """Signal of a spot of the filter's width at every pixel, free of any local offset and slope.

    Parameters
    ----------
    frames : uint8, uint16 or float32 array, shape (n, height, width)
    background : float32 array, shape (height, width)
        Still background, in DN; zeros for none.
    taps : float32 array, shape (radius + 1,)
        One half of a symmetric kernel of unit sum, from its centre outwards.
    box_half : int
        Half width of the square whose mean is subtracted; at least the radius of the kernel.
    sign : float
        1 for bright spots, −1 for dark ones.

    Returns
    -------
    float32 array, shape (n, height, width), DN: Gaussian mean minus box mean. Beyond the border the frame is continued
    by its outermost pixels.
    """
    n, height, width = frames.shape
    pad = max(box_half, len(taps) - 1)
    padded = np.empty((height + 2 * pad, width + 2 * pad), np.float32)
    out = np.empty((n, height, width), np.float32)
    for i in range(n):
        _subtract_padded(frames[i], background, sign, pad, padded)
        _filter_padded(padded, taps, box_half, out[i])
    return out


@njit(nogil=True, cache=True)
def _is_peak(snr: F32, y: int, x: int, half: int) -> bool:
    """Whether the pixel is the maximum of its neighbourhood; of equal ones the first in reading order."""
    height, width = snr.shape
    value = snr[y, x]
    for v in range(max(y - half, 0), min(y + half + 1, height)):
        for u in range(max(x - half, 0), min(x + half + 1, width)):
            other = snr[v, u]
            if other > value or (other == value and (v < y or (v == y and u < x))):
                return False
    return True


@njit(nogil=True, cache=True)
def _normalise(row: F32, inverse_noise: F32, threshold: float) -> np.int32:
    """Divide a filtered row by its noise, and count the pixels above the threshold (most rows have none)."""
    limit = np.float32(threshold)
    above = np.int32(0)
    for x in range(len(row)):
        row[x] *= inverse_noise[x]
        above += np.int32(row[x] > limit)
    return above


@njit(nogil=True, cache=True)
def _peaks_of_row(snr: F32, y: int, threshold: float, half: int, columns: I64) -> int:
    """Columns of the peaks of a row, written to `columns`, and their number."""
    found = 0
    row = snr[y]
    for x in range(len(row)):
        if row[x] > threshold and _is_peak(snr, y, x, half):
            columns[found] = x
            found += 1
    return found


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
def _log_quadratic(snr: F32, y: int, x: int) -> tuple[float, float]:
    """Offset of the maximum of a quadratic fitted to the logarithm of the 3 × 3 pixels around a peak, px."""
    height, width = snr.shape
    if y == 0 or x == 0 or y == height - 1 or x == width - 1:
        return 0.0, 0.0
    patch = np.empty((3, 3))
    floor = 1e-3 * snr[y, x]
    for a in range(3):
        for b in range(3):
            patch[a, b] = np.log(max(snr[y + a - 1, x + b - 1], floor))
    gx = gy = hxx = hyy = 0.0
    for a in range(3):
        gx += (patch[a, 2] - patch[a, 0]) / 6.0
        gy += (patch[2, a] - patch[0, a]) / 6.0
        hxx += (patch[a, 2] + patch[a, 0] - 2.0 * patch[a, 1]) / 3.0
        hyy += (patch[2, a] + patch[0, a] - 2.0 * patch[1, a]) / 3.0
    hxy = (patch[2, 2] + patch[0, 0] - patch[0, 2] - patch[2, 0]) / 4.0
    determinant = hxx * hyy - hxy * hxy
    if determinant <= 0.0 or hxx >= 0.0:
        return 0.0, 0.0
    dx = -(hyy * gx - hxy * gy) / determinant
    dy = -(hxx * gy - hxy * gx) / determinant
    if abs(dx) > 1.0 or abs(dy) > 1.0:
        return 0.0, 0.0
    return dy, dx


@njit(nogil=True, cache=True)
def detect(
    frames: Array,
    background: F32,
    inverse_noise: F32,
    taps: F32,
    *,
    box_half: int,
    sign: float,
    threshold: float,
    peak_half: int,
) -> tuple[I32, F32, F32, F32]:
    """Spots of a stack of frames: maxima of the matched filter above a signal-to-noise ratio.

    Parameters
    ----------
    frames, background, taps, box_half, sign
        As in `matched_filter`.
    inverse_noise : float32 array, shape (height, width)
        One over the s.d. of the filtered noise, 1/DN.
    threshold : float
        Smallest ratio of filtered signal to filtered noise.
    peak_half : int
        A spot is the largest value within this many pixels along y and x.

    Returns
    -------
    frame : int32 array, shape (k,)
        Index in `frames`; spots are ordered by frame, then row, then column of their peak.
    y, x : float32 arrays, shape (k,)
        Log-quadratic seeds, px.
    snr : float32 array, shape (k,)
        Filtered signal over filtered noise at the peak.
    """
    n, height, width = frames.shape
    pad = max(box_half, len(taps) - 1)
    padded = np.empty((height + 2 * pad, width + 2 * pad), np.float32)
    filtered = np.empty((height, width), np.float32)
    above = np.empty(height, np.int64)
    columns = np.empty(width, np.int64)
    frame_of = np.empty(256, np.int32)
    values = np.empty((3, 256), np.float32)
    count = 0
    for i in range(n):
        _subtract_padded(frames[i], background, sign, pad, padded)
        _filter_padded(padded, taps, box_half, filtered)
        for y in range(height):
            above[y] = _normalise(filtered[y], inverse_noise[y], threshold)
        for y in range(height):
            if above[y] == 0:
                continue
            found = _peaks_of_row(filtered, y, np.float32(threshold), peak_half, columns)
            while count + found > len(frame_of):
                frame_of, values = _grown(frame_of, values)
            for x in columns[:found]:
                dy, dx = _log_quadratic(filtered, y, x)
                frame_of[count] = i
                values[0, count] = y + dy
                values[1, count] = x + dx
                values[2, count] = filtered[y, x]
                count += 1
    return (
        frame_of[:count].copy(),
        values[0, :count].copy(),
        values[1, :count].copy(),
        values[2, :count].copy(),
    )
