"""Statistics of pixels: how bright frames are, how noisy their tiles, how skewed the noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from exotrack.tables import F32, F64, I32, I64, Array

ROWS = 32
"""Rows of a frame that are looked at to tell how bright it is."""
BINS = 512
"""Classes of the histogram from which a median is read."""


@njit(nogil=True, cache=True, error_model="numpy")
def frame_levels(frames: Array, limit: float) -> F64:
    """Mean, lowest and highest grey level of each frame and the share of its pixels at `limit` or above.

    Parameters
    ----------
    frames : uint8, uint16 or float32 array, shape (n, height, width)
    limit : float
        Grey level at which a pixel counts as clipped, DN.

    Returns
    -------
    float64 array, shape (n, 4), from about `ROWS` rows spread over each frame.
    """
    n, height, width = frames.shape
    stride = max(height // ROWS, 1)
    levels = np.empty((n, 4))
    for i in range(n):
        total = 0.0
        low, high, clipped, rows = frames[i, 0, 0], frames[i, 0, 0], 0, 0
        for y in range(stride // 2, height, stride):
            row = frames[i, y]
            part = np.float32(0.0)
            lowest, highest = row[0], row[0]
            for x in range(width):
                lowest = min(lowest, row[x])
                highest = max(highest, row[x])
            for x in range(0, width, 4):
                part += np.float32(row[x])
            if highest >= limit:
                for x in range(width):
                    clipped += row[x] >= limit
            low, high = min(low, lowest), max(high, highest)
            total += float(part)
            rows += 1
        levels[i, 0] = total / (rows * ((width + 3) // 4))
        levels[i, 1], levels[i, 2] = low, high
        levels[i, 3] = clipped / (rows * width)
    return levels


@njit(nogil=True, cache=True, error_model="numpy")
def tile_noise(filtered: F32, inverse_gain: F32, quiet: npt.NDArray[np.bool_], ys: I64, xs: I64) -> F64:
    """Scaled median of the absolute values of each tile of filtered frames, over those that are quiet.

    Parameters
    ----------
    filtered : float32 array, shape (n, height, width)
        Output of `matched_filter`, DN.
    inverse_gain : float32 array, shape (height, width)
        s.d. of white noise per pixel over that of its filtered image.
    quiet : bool array, shape (n, height, width)
        Values that count; where fewer than a quarter of a tile's are, all do.
    ys, xs : int64 arrays
        Borders of the tiles along y and x.

    Returns
    -------
    float64 array, shape (len(ys) − 1, len(xs) − 1)
        1.4826 times the median absolute value per tile, over the gain: the s.d. of normal noise per pixel. Every other
        value is used, in a chequerboard: neighbours tell much the same.
    """
    n = filtered.shape[0]
    tiles = np.zeros((len(ys) - 1, len(xs) - 1))
    counts = np.empty(BINS + 1, np.int64)
    for a in range(len(ys) - 1):
        for b in range(len(xs) - 1):
            left, right = xs[b], xs[b + 1]
            total, number, size = 0.0, 0, 0
            for i in range(n):
                for y in range(ys[a], ys[a + 1]):
                    first = left + ((left + y + i) & 1)
                    part = np.float32(0.0)
                    for x in range(first, right, 2):
                        part += abs(filtered[i, y, x]) * inverse_gain[y, x]
                        number += quiet[i, y, x]
                        size += 1
                    total += float(part)
            everything = 4 * number < size
            # The median of a half-normal variable is 0.85 of its mean: the bins reach to three times the latter.
            scale = np.float32(BINS * size / (3.0 * total)) if total > 0.0 else np.float32(0.0)
            counts[:] = 0
            for i in range(n):
                for y in range(ys[a], ys[a + 1]):
                    for x in range(left + ((left + y + i) & 1), right, 2):
                        if everything or quiet[i, y, x]:
                            counts[min(int(abs(filtered[i, y, x]) * inverse_gain[y, x] * scale), BINS)] += 1
            half = 0.5 * (size if everything else number)
            below, bin_ = 0, 0
            while bin_ < BINS and below + counts[bin_] < half:
                below += counts[bin_]
                bin_ += 1
            if scale > 0.0:
                tiles[a, b] = 1.4826 * (bin_ + (half - below) / max(counts[bin_], 1)) / scale
    return tiles


@njit(nogil=True, cache=True, error_model="numpy")
def quieten(filtered: F32, limit: F32, radius: int, quiet: npt.NDArray[np.bool_]) -> None:
    """Take the surroundings of whatever exceeds a limit out of what counts as quiet, in place.

    Parameters
    ----------
    filtered : float32 array, shape (n, height, width)
        DN, positive for spots.
    limit : float32 array, shape (height, width)
        DN.
    radius : int
        Half width of the square around a point above the limit.
    quiet : bool array, shape (n, height, width)
    """
    n, height, width = filtered.shape
    for i in range(n):
        for y in range(height):
            above = 0
            for x in range(width):
                above += filtered[i, y, x] > limit[y, x]
            if above == 0:
                continue
            for x in range(width):
                if filtered[i, y, x] > limit[y, x]:
                    for v in range(max(y - radius, 0), min(y + radius + 1, height)):
                        for u in range(max(x - radius, 0), min(x + radius + 1, width)):
                            quiet[i, v, u] = False


@njit(nogil=True, cache=True, error_model="numpy")
def noise_cumulants(
    frames: Array, quiet: npt.NDArray[np.bool_], *, step: int, spacing: int
) -> tuple[float, float, int]:
    """Second and third cumulant of the noise per pixel, from quiet places.

    Parameters
    ----------
    frames : uint8, uint16 or float32 array, shape (n, height, width)
    quiet : bool array, shape (n, ⌈height / step⌉, ⌈width / step⌉)
        Lattice points far from any spot.
    step : int
        Distance of the lattice points, px.
    spacing : int
        Distance of the pixels that are compared with the one in their middle, px: whatever is locally linear cancels.

    Returns
    -------
    variance, third : float
        DN² and DN³; 0 where nothing is quiet.
    n : int
        Triplets that were used.

    Notes
    -----
    Of three independent pixels, a − (b + c)/2 has 3/2 of the variance and 3/4 of the third cumulant of one.
    """
    n, _, width = frames.shape
    second = third = 0.0
    count = 0
    for i in range(n):
        for k in range(0, quiet.shape[1], 2):
            y = k * step
            for j in range(0, quiet.shape[2], 2):
                x = j * step
                if not quiet[i, k, j] or x < spacing or x + spacing >= width:
                    continue
                left, right = (x - spacing) // step, (x + spacing) // step
                if quiet[i, k, left] and quiet[i, k, right]:
                    middle = np.float64(frames[i, y, x])
                    d = middle - 0.5 * (np.float64(frames[i, y, x - spacing]) + np.float64(frames[i, y, x + spacing]))
                    second += d * d
                    third += d * d * d
                    count += 1
    if count == 0:
        return 0.0, 0.0, 0
    return second / count / 1.5, third / count / 0.75, count


@njit(nogil=True, cache=True, error_model="numpy")
def residuals(
    frames: Array, background: F32, frame: I32, values: F64, *, sign: float, gain: float, half: int, most: int
) -> tuple[F64, F64]:
    """Squared residual and fitted signal at the pixels around fitted spots.

    Parameters
    ----------
    frames, background, sign, gain, half
        As in `refine`, which gave the values.
    frame : int32 array, shape (k,)
    values : float64 array, shape (9, k)
        From `refine`; spots whose window leaves the frame are passed over.
    most : int
        Spots that are used at the most.

    Returns
    -------
    squares, signal : float64 arrays, shape (n,)
        DN² and DN. Each square is enlarged by what the fit of five parameters took from it, which is most in the middle
        of a spot: its leverage.
    """
    _, height, width = frames.shape
    side = 2 * half + 1
    room = min(len(frame), most) * side * side
    squares, signal = np.empty(room), np.empty(room)
    slopes = np.empty((side * side, 5))
    left_over, light, spread = np.empty(side * side), np.empty(side * side), np.empty(side * side)
    count = 0
    for k in range(min(len(frame), most)):
        cy, cx, mass, offset, sigma = values[0, k], values[1, k], values[2, k], values[3, k], values[5, k]
        top, left = round(cy) - half, round(cx) - half
        if top < 0 or left < 0 or top + side > height or left + side > width:
            continue
        variance = sigma * sigma + 1.0 / 12.0
        peak = mass / (2.0 * np.pi * variance)
        for i in range(side):
            for j in range(side):
                p = i * side + j
                dy, dx = top + i - cy, left + j - cx
                share = np.exp(-0.5 * (dy * dy + dx * dx) / variance)
                seen = sign * (np.float64(frames[frame[k], top + i, left + j]) - background[top + i, left + j])
                light[p] = peak * share
                left_over[p] = seen - offset - light[p]
                spread[p] = np.sqrt(values[4, k] ** 2 + gain * max(light[p], 0.0))
                slopes[p, 0], slopes[p, 1], slopes[p, 2] = share * dy, share * dx, share
                slopes[p, 3], slopes[p, 4] = 1.0, share * (dy * dy + dx * dx)
                slopes[p] /= spread[p]
        inverse = np.linalg.inv(slopes.T @ slopes)
        for p in range(side * side):
            leverage = 0.0
            for a in range(5):
                for b in range(5):
                    leverage += slopes[p, a] * inverse[a, b] * slopes[p, b]
            squares[count] = left_over[p] ** 2 / max(1.0 - leverage, 0.1)
            signal[count] = light[p]
            count += 1
    return squares[:count], signal[:count]


@njit(nogil=True, cache=True, error_model="numpy")
def without_spots(frames: Array, frame: I32, values: F64, *, sign: float) -> F32:
    """Frames from which the light of fitted spots is taken away.

    Parameters
    ----------
    frames : uint8, uint16 or float32 array, shape (n, height, width)
    frame : int32 array, shape (k,)
    values : float64 array, shape (9, k)
        From `refine`.
    sign : float
        1 for bright spots, −1 for dark ones.

    Returns
    -------
    float32 array of the same shape, DN; each spot reaches to four of its widths.
    """
    _, height, width = frames.shape
    result = frames.astype(np.float32)
    for k in range(len(frame)):
        cy, cx, sigma = values[0, k], values[1, k], values[5, k]
        variance = sigma * sigma + 1.0 / 12.0
        peak = sign * values[2, k] / (2.0 * np.pi * variance)
        reach = int(np.ceil(4.0 * np.sqrt(variance)))
        for y in range(max(round(cy) - reach, 0), min(round(cy) + reach + 1, height)):
            across = peak * np.exp(-0.5 * (y - cy) ** 2 / variance)
            for x in range(max(round(cx) - reach, 0), min(round(cx) + reach + 1, width)):
                result[frame[k], y, x] -= np.float32(across * np.exp(-0.5 * (x - cx) ** 2 / variance))
    return result
