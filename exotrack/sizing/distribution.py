"""Deconvolution of pooled likelihood rows, stopped by cross-validation, with a bootstrap over videos and particles."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from exotrack import backends
from exotrack.acquisition import Acquisition
from exotrack.errors import InputError
from exotrack.protocol import Protocol
from exotrack.sizing.crowding import MISLINK_MOST, class_mislinks
from exotrack.sizing.rows import TrackRows, track_rows
from exotrack.sizing.summary import density_per_nm, quantile_nm, summarize
from exotrack.tables import F32, F64, I64, Estimate, SizeDistribution, Tracks

log = logging.getLogger(__name__)

ITERATIONS = (5, 10, 20, 50, 100, 200, 500, 1000, 2000)
"""Numbers of EM iterations that compete in the cross-validation."""

_LEAST_STARTS = 100
_MOST_FROM_BEGINNING = 0.5
_LEAST_UNITS = 20  # below this a cross-validation has nothing to decide with
_FALLBACK_ITERATIONS = 50
_PAST_MAXIMUM = 2
_Z95 = 1.959964
_UNKNOWN = Estimate(np.nan, np.nan, np.nan)


def size_distribution(
    tracks: Tracks, acquisition: Acquisition, protocol: Protocol | None = None, *, backend: str = "auto"
) -> SizeDistribution:
    """Size distribution of one video; the bootstrap resamples particles. See `pool`."""
    settings = protocol or Protocol()
    return pool([track_rows(tracks, acquisition, settings, backend=backend)], settings, backend=backend)


def pool(rows: Sequence[TrackRows], protocol: Protocol | None = None, *, backend: str = "auto") -> SizeDistribution:
    """Size distribution of all tracks of several videos of the same material.

    The distribution is the nonparametric maximum-likelihood estimate by EM on the exact track likelihoods, started
    uniform in ln d; the number of iterations is the one with the largest held-out likelihood in a cross-validation
    over videos, or over particles where there are fewer videos than folds.

    Parameters
    ----------
    rows : sequence of TrackRows
        One per video, on the same size grid.
    protocol : Protocol, optional
        Defaults to all defaults.
    backend : str
        "auto", "cpu" or "cuda".

    Returns
    -------
    SizeDistribution
        Without rows and with an empty summary if there is no usable track.

    Raises
    ------
    InputError
        If the videos were prepared on different size grids.

    Notes
    -----
    *Weighting.* "number": particles that appear during the recording through the faces of the observed slab arrive at a
    rate c·2√(DΔt/π) per area and frame, whatever the depth at which they can be seen; the share of a class among such
    starts is multiplied by √d. With fewer than 100 starts, or if more than half of all localizations belong to
    particles that were there from the beginning (slow particles, short videos), arrivals do not stand for the sample,
    and those there are may be broken tracks: localizations are counted instead, "frames", and the result says so.
    "tracks" counts particles as they were seen, which favours small, fast ones.

    *Intervals.* Replicates resample particles within each video and give each video a random weight (Dirichlet),
    whose variance is the share of the spread between videos that particle sampling does not explain
    (DerSimonian–Laird on the mean ln d). Each replicate chooses its own number of iterations. With few videos that
    share is poorly known: replicates are then spread along ln d until the interval of D50 is at least Student's
    interval of the means of the videos (modified Knapp–Hartung). Uncertainty that all diameters share enters the
    summary, not the band.

    *Crowding.* The share of a class whose mislink index exceeds 0.15 is NaN: too many of its steps join different
    particles. The index is that of the videos weighted by their localizations.

    References
    ----------
    Walker, Meas. Sci. Technol. 23, 065605 (2012), doi:10.1088/0957-0233/23/6/065605.
    DerSimonian & Laird, Control. Clin. Trials 7, 177 (1986), doi:10.1016/0197-2456(86)90046-2.
    Röver, Knapp & Friede, BMC Med. Res. Methodol. 15, 99 (2015), doi:10.1186/s12874-015-0091-1.
    """
    settings = protocol or Protocol()
    videos = [r for r in rows if len(r)]
    if not videos:
        return SizeDistribution.empty(weighting=settings.size.weighting)
    grid = videos[0].diameter_nm
    if any(len(r.diameter_nm) != len(grid) or not np.allclose(r.diameter_nm, grid) for r in videos):
        raise InputError("size grids differ between videos: prepare all of them with the same protocol")
    sample, weighting = _weighted(videos, settings.size.weighting)
    engine = backends.load(backend)
    rng = np.random.default_rng(settings.size.seed)
    spread = _between_videos(sample, grid)
    replicate = _replicate_counts(sample, spread, rng, settings.size.bootstrap)
    counts = np.vstack([np.ones(replicate.shape[1]), replicate])
    iterations = _best_iterations(sample, engine, rng, settings.size.folds, counts)
    shares = np.empty((len(counts), len(grid)))
    for n in np.unique(iterations):
        group = iterations == n
        start = np.full((int(group.sum()), len(grid)), 1.0 / len(grid))
        weights = counts[group][:, sample.unit] * sample.weight
        shares[group] = engine.deconvolve(sample.likelihood, weights, start, iterations=int(n))
    if weighting == "number":
        shares = shares * np.sqrt(grid)
        shares /= shares.sum(axis=1, keepdims=True)
    share, replicates = shares[0], _widened(shares[0], shares[1:], grid, spread.widening)
    density = density_per_nm(share, grid)
    lo, hi = np.quantile(density_per_nm(replicates, grid), [0.025, 0.975], axis=0)
    size = settings.size
    index_nm = float(np.average([r.mislink_nm for r in videos], weights=[r.n_frames.sum() for r in videos]))
    mislinks = class_mislinks(index_nm, size.class_edges_nm, size.diameter_min_nm, size.diameter_max_nm)
    summary = summarize(
        share,
        replicates,
        grid,
        size.class_edges_nm,
        width=0.5 / np.sqrt(np.median([r.n_steps_median for r in videos])),
        systematic=_systematic(videos),
    )
    summary |= {name: _UNKNOWN for name, index in mislinks.items() if index > MISLINK_MOST}
    log.debug("%d tracks of %d videos, %s, %d iterations", len(sample.weight), len(videos), weighting, iterations[0])
    return SizeDistribution(
        diameter_nm=grid,
        density_per_nm=density,
        lo=np.minimum(lo, density),
        hi=np.maximum(hi, density),
        weighting=weighting,
        n_tracks=sum(len(np.unique(r.particle)) for r in videos),
        n_videos=len(videos),
        summary={"pooled_nm": pooled_diameter(videos), **summary},
        mislink_index=mislinks,
        replicates=replicates,
    )


def pooled_diameter(rows: Sequence[TrackRows]) -> Estimate:
    """Hydrodynamic diameter of the diffusion coefficient pooled over all displacements, with a 95 % interval.

    A single number that needs neither long tracks nor a deconvolution: right for particles of one size, such as
    beads, and a check of the distribution. In a mixture the fast particles weigh most.

    Parameters
    ----------
    rows : sequence of TrackRows
        One per video; videos are weighted by precision. Where they disagree by more than their errors, Student's
        interval with the Birge ratio takes over.

    Returns
    -------
    Estimate
        NaN where no video allows an estimate.
    """
    known = [r for r in rows if np.isfinite(r.pooled_nm) and r.pooled_relative_error > 0]
    if not known:
        return _UNKNOWN
    size = np.log([r.pooled_nm for r in known])
    precision = np.array([r.pooled_relative_error for r in known]) ** -2.0
    centre = float(np.average(size, weights=precision))
    within, n = 1.0 / float(precision.sum()), len(known)
    birge = float(precision @ (size - centre) ** 2) / (n - 1) if n > 1 else 0.0
    quantile = float(stats.t.ppf(0.975, n - 1)) if n > 1 else 0.0
    half = float(np.hypot(np.sqrt(within) * max(_Z95, quantile * np.sqrt(birge)), _Z95 * _systematic(known)))
    return Estimate(*(float(np.exp(centre + side * half)) for side in (0.0, -1.0, 1.0)))


def _systematic(videos: Sequence[TrackRows]) -> float:
    """Relative standard uncertainty that all diameters share."""
    return float(np.sqrt(np.mean([r.systematic**2 for r in videos])))


@dataclass(frozen=True, eq=False)
class _Sample:
    """Pooled rows with one weight each."""

    likelihood: F32
    weight: F64
    video: I64
    unit: I64
    """Particle, numbered through all videos."""

    @property
    def n_videos(self) -> int:
        return int(self.video.max()) + 1


@dataclass(frozen=True)
class _Spread:
    """How much videos differ beyond the sampling of particles."""

    between_share: float
    """Variance between videos over the total variance of a video's mean ln d."""
    widening: float
    """Half-width of Student's interval of the observed means over that of the replicates; at least 1."""


def _weighted(videos: Sequence[TrackRows], weighting: str) -> tuple[_Sample, str]:
    """Pool the rows that count under a weighting; "number" becomes "frames" where too few particles appear."""
    if weighting == "number" and not _exchange_is_seen(videos):
        weighting = "frames"
    if weighting == "number":
        weights = [r.identity_share * r.start_seen for r in videos]
    elif weighting == "frames":
        weights = [r.n_frames.astype(np.float64) for r in videos]
    else:
        weights = [r.identity_share for r in videos]
    weight = np.concatenate(weights)
    used = weight > 0
    video = np.repeat(np.arange(len(videos)), [len(r) for r in videos])[used]
    identity = np.concatenate([r.identity for r in videos])[used]
    _, video = np.unique(video, return_inverse=True)
    _, unit = np.unique(np.stack([video, identity]), axis=1, return_inverse=True)
    likelihood = np.concatenate([r.likelihood for r in videos])[used]
    return _Sample(likelihood, weight[used], video, unit.reshape(-1)), weighting


def _exchange_is_seen(videos: Sequence[TrackRows]) -> bool:
    """Whether enough particles come and go for their arrivals to stand for all of them."""
    starts = sum(float(r.identity_share[r.start_seen].sum()) for r in videos)
    seen = sum(int(r.n_frames.sum()) for r in videos)
    old = sum(int(r.n_frames[r.from_beginning].sum()) for r in videos)
    if starts < _LEAST_STARTS:
        log.debug("only %.0f particles arrive during the recording: counting localizations instead", starts)
    elif old > _MOST_FROM_BEGINNING * seen:
        log.debug("%.0f %% of what is seen was there from the beginning: counting localizations", 100 * old / seen)
    else:
        return True
    return False


def _best_iterations(sample: _Sample, engine: Any, rng: np.random.Generator, folds: int, counts: F64) -> I64:
    """Number of iterations with the largest held-out log-likelihood, for each replicate of the particles.

    The choice decides how narrow the distribution is. Each replicate makes its own, from the held-out likelihoods of
    its particles, so that the uncertainty of the choice is part of the intervals of the widths.

    Parameters
    ----------
    counts : float64 array, shape (n_replicates, n_units)
        How often each particle counts in each replicate.
    """
    group = sample.video if sample.n_videos >= folds else sample.unit
    n_groups = int(group.max()) + 1
    if n_groups < _LEAST_UNITS and sample.n_videos < folds:
        return np.full(len(counts), _FALLBACK_ITERATIONS)
    fold = rng.permutation(np.arange(n_groups) % folds)[group]
    held_out = fold == np.arange(folds)[:, None]
    weights = np.where(held_out, 0.0, sample.weight)
    shares = np.full((folds, sample.likelihood.shape[1]), 1.0 / sample.likelihood.shape[1])
    scores: list[F64] = []
    done = 0
    for iterations in ITERATIONS:
        shares = engine.deconvolve(sample.likelihood, weights, shares, iterations=iterations - done)
        done = iterations
        predicted = np.einsum("ik,ik->i", sample.likelihood, shares[fold].astype(np.float32))
        of_unit = np.bincount(sample.unit, sample.weight * np.log(np.maximum(predicted, 1e-30)), counts.shape[1])
        scores.append(counts @ of_unit)
        if len(scores) > _PAST_MAXIMUM and np.all(np.argmax(scores, axis=0) < len(scores) - _PAST_MAXIMUM):
            break  # no replicate has its maximum near the end: it does not come back
    best: I64 = np.array(ITERATIONS, np.int64)[np.argmax(scores, axis=0)]
    return best


def _between_videos(sample: _Sample, grid: F64) -> _Spread:
    """Moment estimate of the variance between videos of the mean ln d of the single tracks, and what it leaves open."""
    n = sample.n_videos
    if n < 2:
        return _Spread(0.0, 1.0)
    size = np.log(grid)[sample.likelihood.argmax(axis=1)]
    total = np.bincount(sample.video, sample.weight)
    mean = np.bincount(sample.video, sample.weight * size) / total
    per_unit = np.bincount(sample.unit, sample.weight * (size - mean[sample.video]))
    video_of_unit = np.zeros(len(per_unit), np.int64)
    video_of_unit[sample.unit] = sample.video
    within = np.maximum(np.bincount(video_of_unit, per_unit**2, n) / total**2, 1e-12)
    precision = 1.0 / within
    centre = np.average(mean, weights=precision)
    excess = float(precision @ (mean - centre) ** 2) - (n - 1)
    between = max(excess, 0.0) / float(precision.sum() - (precision**2).sum() / precision.sum())
    explained = between + float(np.mean(within))
    student = float(stats.t.ppf(0.975, n - 1)) / _Z95
    return _Spread(between / explained, max(1.0, student * float(np.std(mean, ddof=1)) / float(np.sqrt(explained))))


def _replicate_counts(sample: _Sample, spread: _Spread, rng: np.random.Generator, n_replicates: int) -> F64:
    """How often each particle counts in each bootstrap replicate, shape (n_replicates, n_units)."""
    n_units = int(sample.unit.max()) + 1
    video_of_unit = np.zeros(n_units, np.int64)
    video_of_unit[sample.unit] = sample.video
    counts = np.empty((n_replicates, n_units))
    for video in range(sample.n_videos):
        members = np.flatnonzero(video_of_unit == video)
        counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1.0 / len(members)), n_replicates)
    n = sample.n_videos
    if n > 1 and spread.between_share > 1e-3:
        # Var of n·Dirichlet(α) is (n − 1)/(nα + 1).
        alpha = ((n - 1.0) / spread.between_share - 1.0) / n
        counts *= n * rng.dirichlet(np.full(n, max(alpha, 0.05)), n_replicates)[:, video_of_unit]
    return counts


def _widened(share: F64, replicates: F64, grid: F64, widening: float) -> F64:
    """Move each replicate along ln d so that its D50 is `widening` times as far from that of the estimate."""
    if widening == 1.0:
        return replicates
    log_d = np.log(grid)
    centre = np.log(quantile_nm(share, grid, 0.5))
    moved = np.empty_like(replicates)
    for i, replicate in enumerate(replicates):
        shift = (widening - 1.0) * (np.log(quantile_nm(replicate, grid, 0.5)) - centre)
        moved[i] = np.interp(log_d - shift, log_d, replicate, left=0.0, right=0.0)
    moved /= moved.sum(axis=1, keepdims=True)
    return moved
