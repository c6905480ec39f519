"""Maximum-likelihood position, mass, width and background of each spot, with errors from the Fisher matrix."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from exotrack.tables import F32, F64, I32, U16, Array

SATURATED, EDGE, CROWDED, SEED_ONLY = 1, 2, 4, 8
ITERATIONS = 12
NEIGHBOURS = 8
ROOT_TWO = math.sqrt(2.0)
ROOT_TWO_PI = math.sqrt(2.0 * math.pi)


@njit(nogil=True, cache=True)
def _axis(first: int, count: int, centre: float, sigma: float, value: F64, by_centre: F64, by_sigma: F64) -> None:
    """Share of a Gaussian in each of `count` pixels of one axis, and its derivatives by centre and width."""
    edge = (first - 0.5 - centre) / sigma
    left_erf = math.erf(edge / ROOT_TWO)
    left_pdf = math.exp(-0.5 * edge * edge) / ROOT_TWO_PI
    for i in range(count):
        right = edge + 1.0 / sigma
        right_erf = math.erf(right / ROOT_TWO)
        right_pdf = math.exp(-0.5 * right * right) / ROOT_TWO_PI
        value[i] = 0.5 * (right_erf - left_erf)
        by_centre[i] = (left_pdf - right_pdf) / sigma
        by_sigma[i] = (edge * left_pdf - right * right_pdf) / sigma
        edge, left_erf, left_pdf = right, right_erf, right_pdf


@njit(nogil=True, cache=True)
def _solve(matrix: F64, vector: F64, inverse_diagonal: F64) -> bool:
    """Solve matrix · s = vector in place of vector, and give the diagonal of the inverse; False if not positive."""
    n = len(vector)
    lower = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            if i == j:
                if total <= 1e-12 * matrix[i, i] or not total > 0.0:
                    return False
                lower[i, i] = math.sqrt(total)
            else:
                lower[i, j] = total / lower[j, j]
    for i in range(n):
        for k in range(i):
            vector[i] -= lower[i, k] * vector[k]
        vector[i] /= lower[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            vector[i] -= lower[k, i] * vector[k]
        vector[i] /= lower[i, i]
    column = np.empty(n)
    for c in range(n):
        norm = 0.0
        for i in range(c, n):
            total = 1.0 if i == c else 0.0
            for k in range(c, i):
                total -= lower[i, k] * column[k]
            column[i] = total / lower[i, i]
            norm += column[i] * column[i]
        inverse_diagonal[c] = norm
    return True


@njit(nogil=True, cache=True)
def _neighbours(k: int, frame: I32, y: F32, x: F32, reach: float, out: F64) -> int:
    """Positions of up to `NEIGHBOURS` other seeds of the same frame within `reach` along y and x."""
    found = 0
    for step in (-1, 1):
        j = k + step
        # Seeds are ordered by the row of their peak, which a seed leaves by at most one pixel.
        while 0 <= j < len(frame) and frame[j] == frame[k] and abs(y[j] - y[k]) <= reach + 2.0:
            if abs(y[j] - y[k]) <= reach and abs(x[j] - x[k]) <= reach and found < NEIGHBOURS:
                out[found, 0] = y[j]
                out[found, 1] = x[j]
                found += 1
            j += step
    return found


@njit(nogil=True, cache=True)
def refine(
    frames: Array,
    background: F32,
    noise: F32,
    frame: I32,
    y: F32,
    x: F32,
    *,
    sign: float,
    sigma: float,
    gain: float,
    half: int,
    saturation: float,
) -> tuple[F64, U16]:
    """Fit a pixel-integrated Gaussian on a constant to the neighbourhood of every seed.

    Fisher scoring on the likelihood of noise with variance noise² + gain × signal: for gain 1 and noise² equal to the
    background this is the Poisson likelihood [1]_, for gain 0 least squares. Pixels nearer to another seed and
    saturated ones are left out.

    Parameters
    ----------
    frames, background
        As in `detect`.
    noise : float32 array, shape (height, width)
        s.d. of the background noise per pixel, DN.
    frame, y, x : arrays, shape (k,)
        Seeds from `detect`, in its order.
    sign : float
        1 for bright spots, −1 for dark ones.
    sigma : float
        Width to start from, px; the fitted width stays between 0.4 and 4 times it.
    gain : float
        Growth of the variance with the signal, DN.
    half : int
        Half width of the fitting window, px.
    saturation : float
        Pixels at or above it are clipped; inf for none.

    Returns
    -------
    values : float64 array, shape (9, k)
        y, x [px], mass [DN], background above the still one [DN], noise [DN], width [px], error of y, error of x [px],
        sum of squared normalised residuals per degree of freedom. A centre that is fitted outside the frame is given
        as it is: the peak at the border was the flank of a particle beyond it.
    flag : uint16 array, shape (k,)
        SATURATED, EDGE, CROWDED, SEED_ONLY as in `exotrack.tables.SpotFlag`.

    References
    ----------
    .. [1] Smith et al., Nat. Methods 7, 373 (2010), doi:10.1038/nmeth.1449.
    """
    n_spots = len(frame)
    height, width = frames.shape[1], frames.shape[2]
    values = np.empty((9, n_spots))
    flags = np.zeros(n_spots, np.uint16)
    side = 2 * half + 1
    data = np.empty((side, side))
    used = np.empty((side, side), np.bool_)
    ey, ey_c, ey_s = np.empty(side), np.empty(side), np.empty(side)
    ex, ex_c, ex_s = np.empty(side), np.empty(side), np.empty(side)
    fisher = np.empty((5, 5))
    score = np.empty(5)
    slope = np.empty(5)
    variance = np.empty(5)
    near = np.empty((NEIGHBOURS, 2))
    for k in range(n_spots):
        py, px = round(y[k]), round(x[k])
        top, left = max(py - half, 0), max(px - half, 0)
        rows, columns = min(py + half + 1, height) - top, min(px + half + 1, width) - left
        flag = 0
        if rows < side or columns < side:
            flag |= EDGE
        n_near = _neighbours(k, frame, y, x, 2.0 * half, near)
        for m in range(n_near):
            if (near[m, 0] - y[k]) ** 2 + (near[m, 1] - x[k]) ** 2 < (4.0 * sigma) ** 2:
                flag |= CROWDED
        n_used = 0
        border_sum = 0.0
        border_count = 0
        for i in range(rows):
            for j in range(columns):
                raw = float(frames[frame[k], top + i, left + j])
                data[i, j] = sign * (raw - background[top + i, left + j])
                ok = True
                own = (top + i - y[k]) ** 2 + (left + j - x[k]) ** 2
                for m in range(n_near):
                    if (top + i - near[m, 0]) ** 2 + (left + j - near[m, 1]) ** 2 < own:
                        ok = False
                if raw >= saturation:
                    ok = False
                    if own < (2.0 * sigma) ** 2:
                        flag |= SATURATED
                used[i, j] = ok
                if ok:
                    n_used += 1
                    if own > (half - 0.5) ** 2:
                        border_sum += data[i, j]
                        border_count += 1
        local = float(noise[py, px])
        floor = border_sum / border_count if border_count > 0 else 0.0
        peak = data[py - top, px - left] - floor
        cy, cx, width_fit, offset = float(y[k]), float(x[k]), sigma, floor
        mass = max(peak, local) * 2.0 * math.pi * (sigma * sigma + 1.0 / 12.0)
        converged = False
        chi2 = 0.0
        variance[:] = np.inf
        for _ in range(ITERATIONS):
            _axis(top, rows, cy, width_fit, ey, ey_c, ey_s)
            _axis(left, columns, cx, width_fit, ex, ex_c, ex_s)
            fisher[:] = 0.0
            score[:] = 0.0
            chi2 = 0.0
            for i in range(rows):
                for j in range(columns):
                    if not used[i, j]:
                        continue
                    share = ey[i] * ex[j]
                    weight = 1.0 / (local * local + gain * mass * share)
                    residual = data[i, j] - offset - mass * share
                    slope[0] = mass * ey_c[i] * ex[j]
                    slope[1] = mass * ey[i] * ex_c[j]
                    slope[2] = share
                    slope[3] = 1.0
                    slope[4] = mass * (ey_s[i] * ex[j] + ey[i] * ex_s[j])
                    chi2 += residual * residual * weight
                    for a in range(5):
                        wa = slope[a] * weight
                        score[a] += wa * residual
                        for b in range(a + 1):
                            fisher[a, b] += wa * slope[b]
            if converged or n_used < 8 or not _solve(fisher, score, variance):
                break
            # A step is cut where the quadratic approximation cannot be trusted.
            cut = 1.0
            for a in range(2):
                cut = min(cut, 0.7 / max(abs(score[a]), 1e-12))
            cut = min(cut, 0.3 * width_fit / max(abs(score[4]), 1e-12))
            if score[2] < 0.0:
                cut = min(cut, 0.7 * mass / -score[2])
            cy += cut * score[0]
            cx += cut * score[1]
            mass += cut * score[2]
            offset += cut * score[3]
            width_fit = min(max(width_fit + cut * score[4], 0.4 * sigma), 4.0 * sigma)
            converged = cut == 1.0 and abs(score[0]) < 1e-4 and abs(score[1]) < 1e-4 and abs(score[4]) < 1e-3
        strayed = abs(cy - y[k]) > 1.5 * max(sigma, 1.0) or abs(cx - x[k]) > 1.5 * max(sigma, 1.0)
        outside = not (-0.5 <= cy < height - 0.5 and -0.5 <= cx < width - 0.5)
        if not (variance[0] < np.inf) or (strayed and not outside) or not mass > 0.0:
            flag |= SEED_ONLY
            cy, cx, width_fit = float(y[k]), float(x[k]), sigma
            mass = max(peak, local) * 2.0 * math.pi * (sigma * sigma + 1.0 / 12.0)
            offset = floor
            # Log-quadratic seeds stay below twice the bound of a spot that is just detected.
            variance[0] = variance[1] = (2.0 * sigma * local * 2.0 * ROOT_TWO_PI * sigma / mass) ** 2
        values[0, k] = cy
        values[1, k] = cx
        values[2, k] = mass
        values[3, k] = offset
        values[4, k] = local
        values[5, k] = width_fit
        values[6, k] = math.sqrt(variance[0])
        values[7, k] = math.sqrt(variance[1])
        values[8, k] = chi2 / max(n_used - 5, 1)
        flags[k] = flag
    return values, flags
