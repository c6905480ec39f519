"""From a likelihood on a grid to its maximum, the curvature there and the 95 % interval."""

from __future__ import annotations

import numpy as np

from exotrack.tables import F32, F64, I64, Mask

_HALF_CHI2_95 = 1.920729  # ln L falls by this at the ends of a 95 % likelihood interval (χ²₁/2)
_POSITIVE = 1e-12


def refined_maximum(rows: F32, log_d: F64) -> tuple[F64, F64]:
    """ln d of the maximum of each row by a parabola through the grid maximum, and −∂²lnL/∂(ln d)² there."""
    if len(rows) == 0:
        return np.empty(0), np.empty(0)
    step = log_d[1] - log_d[0]
    best = np.clip(rows.argmax(axis=1), 1, len(log_d) - 2)
    i = np.arange(len(rows))
    left, middle, right = (rows[i, best + k].astype(np.float64) for k in (-1, 0, 1))
    second = np.minimum(left + right - 2.0 * middle, -_POSITIVE)
    shift = np.clip(0.5 * (left - right) / second, -1.0, 1.0)
    return log_d[best] + shift * step, np.maximum(-second / step**2, _POSITIVE)


def likelihood_interval(rows: F32, log_d: F64, peak: F64) -> tuple[F64, F64]:
    """Where each row falls 1.92 below its maximum; the end of the grid where it does not."""
    # √(−ln L) is linear for a parabola, which makes linear interpolation exact for long tracks.
    depth = np.sqrt(np.maximum(-rows.astype(np.float64), 0.0)) - np.sqrt(_HALF_CHI2_95)
    outside, last = depth > 0, len(log_d) - 1
    below, above = outside & (log_d < peak[:, None]), outside & (log_d > peak[:, None])
    nearest_below = last - below[:, ::-1].argmax(axis=1)
    nearest_above = above.argmax(axis=1)
    track = np.arange(len(rows))

    def crossing(edge: I64, inner: int, found: Mask, end: float) -> F64:
        inside = np.clip(edge + inner, 0, last)
        here, there = depth[track, edge], depth[track, inside]
        fraction = np.minimum(here / np.maximum(here - there, _POSITIVE), 1.0)
        return np.where(found, log_d[edge] + fraction * (log_d[inside] - log_d[edge]), end)

    lo = crossing(nearest_below, 1, below.any(axis=1), log_d[0])
    hi = crossing(nearest_above, -1, above.any(axis=1), log_d[-1])
    return np.minimum(lo, peak), np.maximum(hi, peak)
