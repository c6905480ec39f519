"""Bootstrap over videos and particles: how often each particle counts in a replicate, and how far videos differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from exotrack.sizing.sample import Sample
from exotrack.sizing.summary import class_edges, quantile_nm
from exotrack.tables import F32, F64

_Z95 = 1.959964
_FEW = 5  # particles


@dataclass(frozen=True)
class Spread:
    """How much videos differ beyond the sampling of particles."""

    between_share: float
    """Variance between videos over the total variance of a video's mean ln d."""
    widening: float
    """Half-width of Student's interval of the observed means over that of the replicates; at least 1."""


def between_videos(sample: Sample, grid: F64) -> Spread:
    """Moment estimate of the variance between videos of the mean ln d of the single tracks, and what it leaves open.

    References
    ----------
    DerSimonian & Laird, Control. Clin. Trials 7, 177 (1986), doi:10.1016/0197-2456(86)90046-2.
    Röver, Knapp & Friede, BMC Med. Res. Methodol. 15, 99 (2015), doi:10.1186/s12874-015-0091-1.
    """
    n = sample.n_videos
    if n < 2:
        return Spread(0.0, 1.0)
    size = np.log(grid)[sample.rows.argmax(axis=1)][sample.row]
    total = np.bincount(sample.video, sample.weight)
    mean = np.bincount(sample.video, sample.weight * size) / total
    per_unit = np.bincount(sample.unit, sample.weight * (size - mean[sample.video]))
    within = np.maximum(np.bincount(sample.video_of_unit, per_unit**2, n) / total**2, 1e-12)
    precision = 1.0 / within
    centre = np.average(mean, weights=precision)
    excess = float(precision @ (mean - centre) ** 2) - (n - 1)
    between = max(excess, 0.0) / float(precision.sum() - (precision**2).sum() / precision.sum())
    explained = between + float(np.mean(within))
    student = float(stats.t.ppf(0.975, n - 1)) / _Z95
    return Spread(between / explained, max(1.0, student * float(np.std(mean, ddof=1)) / float(np.sqrt(explained))))


def replicate_counts(sample: Sample, spread: Spread, rng: np.random.Generator, n_replicates: int) -> F32:
    """How often each particle counts in each bootstrap replicate, shape (n_replicates, n_units).

    Single precision: of a million particles they take 0.8 GB.
    """
    video_of_unit = sample.video_of_unit
    counts = np.empty((n_replicates, sample.n_units), np.float32)
    for video in range(sample.n_videos):
        members = np.flatnonzero(video_of_unit == video)
        counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1.0 / len(members)), n_replicates)
    n = sample.n_videos
    if n > 1 and spread.between_share > 1e-3:
        # Var of n·Dirichlet(α) is (n − 1)/(nα + 1).
        alpha = ((n - 1.0) / spread.between_share - 1.0) / n
        weight = n * rng.dirichlet(np.full(n, max(alpha, 0.05)), n_replicates).astype(np.float32)
        for video in range(n):
            counts[:, video_of_unit == video] *= weight[:, video, None]
    return counts


def widened(share: F64, replicates: F64, grid: F64, widening: float) -> F64:
    """Move each replicate along ln d so that its D50 is `widening` times as far from that of the estimate.

    What would leave the grid stays in its outermost classes.
    """
    if widening == 1.0:
        return replicates
    edges = np.log(class_edges(grid))
    centre = np.log(quantile_nm(share, grid, 0.5))
    moved = np.empty_like(replicates)
    for i, replicate in enumerate(replicates):
        shift = (widening - 1.0) * (np.log(quantile_nm(replicate, grid, 0.5)) - centre)
        moved[i] = _shifted(replicate, edges, shift)
    return moved


def unsure_of_few(sample: Sample, replicates: F64, grid: F64, rng: np.random.Generator) -> F64:
    """Replicates of a handful of particles, each moved by the error of the tracks, which resampling does not show.

    One particle drawn again and again is always the same. From five on the replicates differ enough.
    """
    if sample.n_units >= _FEW:
        return replicates
    rows = np.log(np.maximum(sample.rows.astype(np.float64), 1e-30))
    best = np.clip(rows.argmax(axis=1), 1, len(grid) - 2)
    i = np.arange(len(rows))
    curvature = 2.0 * rows[i, best] - rows[i, best - 1] - rows[i, best + 1]
    information = float(np.sum(np.maximum(curvature, 1e-6)[sample.row])) / np.log(grid[1] / grid[0]) ** 2
    edges = np.log(class_edges(grid))
    shifts = rng.normal(0.0, information**-0.5, len(replicates))
    return np.array([_shifted(replicate, edges, shift) for replicate, shift in zip(replicates, shifts, strict=True)])


def _shifted(share: F64, edges: F64, shift: float) -> F64:
    """A distribution moved along ln d, of sum one; what would leave the grid stays in its outermost classes."""
    below = np.interp(edges - shift, edges, np.concatenate([[0.0], np.cumsum(share)]) / share.sum())
    below[0], below[-1] = 0.0, 1.0
    moved: F64 = np.maximum(np.diff(below), 0.0)  # the sums are rounded differently: −1e-16 is no share
    return moved
