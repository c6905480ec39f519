"""D from a line through the first points of the mean squared displacement: for comparison with other programs."""

from __future__ import annotations

import numpy as np

from exotrack.acquisition import Acquisition
from exotrack.diffusion.parts import Parts
from exotrack.displacements import Displacements
from exotrack.tables import F64, I64, Mask

_MOST_ROUNDS = 20


def msd_based(d: Displacements, parts: Parts, acquisition: Acquisition, *, own_velocity: bool) -> F64:
    """D of each track by least squares on the optimal number of points of its mean squared displacement (MSD), µm²/s.

    The slope of the first p lags, all with equal weight. The best p depends on the localization error over the step,
    which the line itself gives as intercept over slope: p is found by iteration [1]_. Lags are in frames: over a gap
    only those pairs of localizations count that exist, and a lag without any is left out.

    With a velocity of its own, a track is taken about the straight line through its ends, and the MSD is fitted by
    what diffusion and localization error leave there.

    Returns
    -------
    float64 array, shape (n_tracks,)
        NaN where there are less than two lags. It may be negative.

    Notes
    -----
    Unbiased for a fixed number of points. But p follows the data, and D of 20 displacements is then too large by 1, 2,
    7 and 14 % at σ²/(DΔt) = 0.05, 0.3, 1 and 3 (R = 0). Its spread is about that of the covariance-based estimate: a
    relative s.d. of 0.40 without noise, where that of the likelihood is 0.22.

    References
    ----------
    .. [1] Michalet & Berglund, Phys. Rev. E 85, 061916 (2012), doi:10.1103/PhysRevE.85.061916.
    """
    n_tracks = len(parts.first)
    duration = parts.largest(_durations(d))
    n_spots = parts.largest(d.n_frames).astype(np.int64)
    longest = np.minimum(np.maximum(np.floor(0.8 + 0.564 * n_spots), 2), duration).astype(np.int64)
    track, lag, msd = _mean_squared_displacements(d, parts, longest, own_velocity=own_velocity)
    rank = np.arange(len(track)) - np.searchsorted(track, track)  # lags without a pair do not count as points
    n_points = np.bincount(track, minlength=n_tracks)
    by_slope, by_intercept = lag.astype(np.float64), np.ones(len(lag))
    if own_velocity:
        t = duration[track]
        by_slope = lag * (1.0 - lag / t)
        by_intercept = 1.0 - 2.0 * lag / (t * (t - lag + 1.0)) + (lag / t) ** 2
    p = np.maximum(n_spots // 10, 2)
    slope = np.full(n_tracks, np.nan)
    for _ in range(_MOST_ROUNDS):
        slope, intercept = _line(track, by_slope, by_intercept, msd, rank < p[track], n_tracks)
        best = np.minimum(_best_points(slope, intercept, n_spots), np.maximum(n_points, 2))
        if np.array_equal(best, p):
            break
        p = best
    result: F64 = 0.5 * slope / (d.stride * acquisition.frame_interval_s) * d.diffusion_scale
    return result


def _best_points(slope: F64, intercept: F64, n_spots: I64) -> I64:
    """Number of MSD points with the least variance of the slope for an intercept over slope, eq. of Michalet 2012."""
    steep = slope > 0
    ratio = np.where(steep, np.maximum(intercept, 0.0) / np.where(steep, slope, 1.0), np.inf)
    few, many = 2.0 + 1.35 * ratio**0.6, 0.8 + 0.564 * n_spots
    points: I64 = np.maximum(np.floor(many / (1.0 + (many / few) ** 3) ** (1.0 / 3.0)), 2).astype(np.int64)
    return points


def _line(track: I64, a: F64, b: F64, value: F64, used: Mask, n_tracks: int) -> tuple[F64, F64]:
    """Least-squares coefficients of value = slope·a + intercept·b for each track; NaN from less than two points."""
    track, a, b, value = track[used], a[used], b[used], value[used]

    def total(terms: F64) -> F64:
        return np.bincount(track, terms, n_tracks).astype(np.float64)

    aa, ab, bb, av, bv = total(a * a), total(a * b), total(b * b), total(a * value), total(b * value)
    determinant = aa * bb - ab * ab
    determinant[~(determinant > 1e-9 * aa * bb)] = np.nan
    return (bb * av - ab * bv) / determinant, (aa * bv - ab * av) / determinant


def _durations(d: Displacements) -> I64:
    """Strides from the first to the last localization of each row."""
    row = np.repeat(np.arange(len(d)), d.n_steps)
    return np.bincount(row, d.gap // d.stride, len(d)).astype(np.int64)


def _mean_squared_displacements(
    d: Displacements, parts: Parts, longest: I64, *, own_velocity: bool
) -> tuple[I64, I64, F64]:
    """Track, lag and MSD per axis of every lag up to `longest` of a track that any pair of localizations has."""
    duration = _durations(d)
    start = np.concatenate([[0], np.cumsum(duration + 1)])  # every frame has a place, so that a lag is a shift
    last = np.repeat(start[1:] - 1, duration + 1)
    row = np.repeat(np.arange(len(d)), d.n_steps)
    elapsed = np.cumsum(d.gap // d.stride)
    y, x = np.full(start[-1], np.nan), np.full(start[-1], np.nan)
    # The places of a row are sums of its displacements: the running sum over all, minus that where the row begins.
    first_step = np.concatenate([[0], np.cumsum(d.n_steps)])[:-1]
    place = start[row] + elapsed - np.concatenate([[0], elapsed])[first_step][row]
    for axis, step in ((y, d.step_y_um), (x, d.step_x_um)):
        path = np.concatenate([[0.0], np.cumsum(step)])
        axis[start[:-1]] = 0.0
        axis[place] = path[1:] - path[first_step][row]
        if own_velocity:
            slope = axis[start[1:] - 1] / np.maximum(duration, 1)
            axis -= (np.arange(start[-1]) - np.repeat(start[:-1], duration + 1)) * np.repeat(slope, duration + 1)
    track = np.repeat(parts.of_row, duration + 1)
    found_track, found_lag, found_msd = [], [], []
    n_tracks = len(longest)
    here = np.arange(start[-1])
    for lag in range(1, int(longest.max(initial=0)) + 1):
        here = here[(last[here] - here >= lag) & (longest[track[here]] >= lag)]
        square = (y[here + lag] - y[here]) ** 2 + (x[here + lag] - x[here]) ** 2
        there = ~np.isnan(square)
        pairs = np.bincount(track[here[there]], minlength=n_tracks)
        total = np.bincount(track[here[there]], square[there], n_tracks)
        some = np.flatnonzero(pairs)
        found_track.append(some)
        found_lag.append(np.full(len(some), lag))
        found_msd.append(0.5 * total[some] / pairs[some])
    if not found_track:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    joined = np.concatenate(found_track)
    order = np.argsort(joined, kind="stable")
    return joined[order], np.concatenate(found_lag)[order], np.concatenate(found_msd)[order]
