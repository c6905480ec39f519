"""Deconvolution of pooled likelihood rows, stopped by cross-validation, with a bootstrap over videos and particles."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from scipy import stats

from exotrack import backends
from exotrack.acquisition import Acquisition
from exotrack.errors import InputError
from exotrack.protocol import Protocol
from exotrack.sizing.bootstrap import between_videos, replicate_counts, unsure_of_few, widened
from exotrack.sizing.budget import combined, joined_budget
from exotrack.sizing.crowding import MISLINK_MOST, class_mislinks
from exotrack.sizing.deconvolution import best_iterations, replicate_shares
from exotrack.sizing.limit import Detect
from exotrack.sizing.mixture import find_populations
from exotrack.sizing.modes import find_modes
from exotrack.sizing.rows import TrackRows, track_rows
from exotrack.sizing.sample import sample_of
from exotrack.sizing.summary import class_edges, density_per_nm, fraction_ranges, quantile_nm, summarize
from exotrack.tables import F64, Estimate, Mask, SizeDistribution, Tracks

log = logging.getLogger(__name__)

_Z95 = 1.959964
_UNKNOWN = Estimate(np.nan, np.nan, np.nan)


def size_distribution(
    tracks: Tracks,
    acquisition: Acquisition,
    protocol: Protocol | None = None,
    *,
    detect: Detect | None = None,
    backend: str = "auto",
) -> SizeDistribution:
    """Size distribution of one video; the bootstrap resamples particles. See `pool`.

    Without `detect`, the `at` of what `exotrack.localize.injected_detection` finds in the video, nothing is known of a
    limit of detection and nothing is cut off.
    """
    settings = protocol or Protocol()
    return pool([track_rows(tracks, acquisition, settings, detect=detect, backend=backend)], settings, backend=backend)


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

    *Limit.* Sizes of which less than half are detected in a frame, by spots injected into the videos, are cut off:
    the distribution is that of the particles above `limit_nm`, and the share of a class below it is NaN. Peaks that
    fewer than three particles stand for are left out (`exotrack.sizing.deconvolution.without_strays`).

    *Crowding.* The share of a class whose mislink index exceeds 0.15 is NaN: too many of its steps join different
    particles. The index is that of the videos weighted by their localizations.

    References
    ----------
    Walker, Meas. Sci. Technol. 23, 065605 (2012), doi:10.1088/0957-0233/23/6/065605.
    """
    settings = protocol or Protocol()
    videos = [r for r in rows if len(r)]
    if not videos:
        return SizeDistribution.empty(weighting=settings.size.weighting)
    grid = videos[0].diameter_nm
    if any(len(r.diameter_nm) != len(grid) or not np.allclose(r.diameter_nm, grid) for r in videos):
        raise InputError("size grids differ between videos: prepare all of them with the same protocol")
    sample, weighting, reason = sample_of(videos, settings.size.weighting)
    engine = backends.load(backend)
    rng = np.random.default_rng(settings.size.seed)
    spread = between_videos(sample, grid)
    replicate = replicate_counts(sample, spread, rng, settings.size.bootstrap)
    counts = np.vstack([np.ones_like(replicate[:1]), replicate])
    iterations = best_iterations(sample, engine, rng, settings.size.folds, counts)
    shares = replicate_shares(sample, engine, counts, iterations)
    if weighting == "number":
        shares = shares * np.sqrt(grid)
    limit_nm = _limit_nm(videos)
    visible = ~(grid < limit_nm)
    if not shares[0, visible].any():
        n_tracks = sum(len(np.unique(r.particle)) for r in videos)
        said = {"weighting_reason": reason, "limit_nm": limit_nm, "n_tracks": n_tracks, "n_videos": len(videos)}
        return SizeDistribution.empty(weighting=weighting, **said)
    share = _cut(shares[:1], visible)[0]
    replicates = widened(share, _cut(shares[1:], visible), grid, spread.widening)
    replicates = _cut(unsure_of_few(sample, replicates, grid, rng), visible)
    density = density_per_nm(share, grid)
    lo, hi = np.quantile(density_per_nm(replicates, grid), [0.025, 0.975], axis=0)
    size = settings.size
    index_nm = float(np.average([r.mislink_nm for r in videos], weights=[r.n_frames.sum() for r in videos]))
    mislinks = class_mislinks(index_nm, size.class_edges_nm, size.diameter_min_nm, size.diameter_max_nm)
    width = 0.5 / float(np.sqrt(np.median([r.n_steps_median for r in videos])))
    budget = joined_budget([r.budget for r in videos])
    summary = summarize(share, replicates, grid, size.class_edges_nm, width=width, systematic=combined(budget))
    unseen = [name for name, (_, high) in fraction_ranges(size.class_edges_nm).items() if high <= limit_nm]
    crowded = [name for name, index in mislinks.items() if index > MISLINK_MOST]
    summary |= dict.fromkeys((*unseen, *crowded), _UNKNOWN)
    log.debug("%d tracks of %d videos, %s, %d iterations", len(sample.weight), len(videos), weighting, iterations[0])
    return SizeDistribution(
        diameter_nm=grid,
        density_per_nm=density,
        lo=np.minimum(lo, density),
        hi=np.maximum(hi, density),
        weighting=weighting,
        weighting_reason=reason,
        n_tracks=sum(len(np.unique(r.particle)) for r in videos),
        n_videos=len(videos),
        limit_nm=limit_nm,
        summary={"pooled_nm": pooled_diameter(videos), **summary},
        modes=find_modes(share, replicates, grid, width),
        populations=find_populations(
            sample,
            replicate,
            grid,
            number_exponent=0.5 if weighting == "number" else 0.0,
            limit_nm=limit_nm,
            widening=spread.widening,
            systematic=combined(budget),
        ),
        budget=joined_budget([r.budget for r in videos], _statistics(replicates, grid)),
        mislink_index=mislinks,
        replicates=replicates,
    )


def _cut(shares: F64, visible: Mask) -> F64:
    """Distributions over the visible classes alone, each of sum one; those without any are left out."""
    kept = np.where(visible, shares, 0.0)
    kept = kept[kept.any(axis=1)]
    result: F64 = kept / kept.sum(axis=1, keepdims=True)
    return result


def _statistics(replicates: F64, grid: F64) -> float:
    """Relative standard uncertainty of D50 from particles and videos: a normal's, of the interval of the replicates."""
    medians = [np.log(quantile_nm(replicate, grid, 0.5)) for replicate in replicates]
    lo, hi = np.quantile(medians, [0.025, 0.975])
    return float(hi - lo) / (2.0 * _Z95)


def _limit_nm(videos: Sequence[TrackRows]) -> float:
    """Size from which on half of the particles are detected, by the mean over the localizations.

    0 where that is not known, NaN where it is so for no size.
    """
    known = [r for r in videos if r.detected is not None]
    if not known:
        return 0.0
    weights = [r.n_frames.sum() for r in known]
    detected = np.average([r.detected for r in known], axis=0, weights=weights)
    missed = np.flatnonzero(detected < 0.5)
    grid = known[0].diameter_nm
    if not len(missed):
        return 0.0
    if missed[-1] == len(grid) - 1:
        return float("nan")
    return float(class_edges(grid)[missed[-1] + 1])


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
    half = float(
        np.hypot(
            np.sqrt(within) * max(_Z95, quantile * np.sqrt(birge)),
            _Z95 * combined(joined_budget([r.budget for r in known])),
        )
    )
    return Estimate(*(float(np.exp(centre + side * half)) for side in (0.0, -1.0, 1.0)))
