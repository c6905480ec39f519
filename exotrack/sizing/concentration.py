"""Particles per ml from the particles seen per frame and a calibrated depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special, stats

from exotrack.acquisition import Acquisition
from exotrack.displacements import Displacements
from exotrack.protocol import ConditionSection
from exotrack.tables import F64, Estimate, Tracks

if TYPE_CHECKING:
    from exotrack.sizing.rows import TrackRows

_UM3_PER_ML = 1e12
_LEAST_CONFIRMED = 0.2  # below this share of confirmed frames the correction is an extrapolation


@dataclass(frozen=True)
class Count:
    """Particles of one video in its observed volume."""

    particles_per_frame: float
    """Moving particles in view, corrected for tracks too short to be confirmed."""
    concentration_per_ml: float
    """In the sample before its dilution."""
    relative_error: float
    """Relative standard error from counting; frames are not independent."""
    systematic: float
    """Relative standard uncertainty that all videos share: area of a pixel, and depth."""


def count(
    d: Displacements,
    tracks: Tracks,
    acquisition: Acquisition,
    diffusion_um2_s: F64,
    shortest: int,
    conditions: ConditionSection,
) -> Count | None:
    """Particles per frame and volume of one video; None where the depth is not known or nothing moves.

    Only localizations in moving identities that span at least `shortest` frames are counted, so that false spots are
    not; the share φ of localizations that this leaves out follows from the axial exchange of particles with a slab,
    P(L ≥ k) = k^−½ and mean track length h/(2√(DΔt/π)), at the median D. φ below 0.2 is taken as 0.2.

    Parameters
    ----------
    d : Displacements
        Of the video.
    tracks : Tracks
        What `d` was made from.
    acquisition : Acquisition
        Depth, dilution, frame shape and number of frames.
    diffusion_um2_s : float64 array
        Diffusion coefficients of the usable tracks.
    shortest : int
        Frames of the shortest confirmed track.
    conditions : ConditionSection
        Uncertainties of pixel size and depth.
    """
    if acquisition.depth_um is None or len(diffusion_um2_s) == 0:
        return None
    shape = acquisition.frame_shape or (int(np.ptp(tracks.y)) + 1, int(np.ptp(tracks.x)) + 1)
    n_frames = acquisition.n_frames or int(tracks.frame.max()) + 1
    area = shape[0] * shape[1] * acquisition.pixel_size_um**2
    diffusion = float(np.median(diffusion_um2_s))
    confirmed = int(d.n_frames[(d.span >= shortest) & ~d.stuck].sum())
    share = confirmed_share(diffusion, shortest, acquisition.depth_um, acquisition.frame_interval_s)
    per_frame = confirmed / n_frames / max(share, _LEAST_CONFIRMED)
    duration = n_frames * acquisition.frame_interval_s
    fano = counting_fano(diffusion, acquisition.depth_um, duration)
    return Count(
        particles_per_frame=per_frame,
        concentration_per_ml=per_frame / (area * acquisition.depth_um) * _UM3_PER_ML * acquisition.dilution,
        relative_error=float(np.sqrt(fano / per_frame)),
        systematic=float(np.hypot(2.0 * conditions.pixel_size_relative, conditions.depth_relative)),
    )


def confirmed_share(diffusion_um2_s: float, shortest: int, depth_um: float, frame_interval_s: float) -> float:
    """Share of localizations that belong to tracks of `shortest` frames or more, for axial exchange with a slab.

    Valid where the depth is a few times the displacement during `shortest` frames.
    """
    mean_length = depth_um / (2.0 * np.sqrt(diffusion_um2_s * frame_interval_s / np.pi))
    j = np.arange(1, shortest)
    missed = np.sum(j**-0.5) - (shortest - 1) * shortest**-0.5
    return float(1.0 - missed / mean_length)


def counting_fano(diffusion_um2_s: float, depth_um: float, duration_s: float) -> float:
    """Variance of the mean number in view over that number, for a static slab watched for some time.

    Particles stay for many frames, so the count improves only with the fourth root of the duration: the
    autocorrelation of the number in a slab is averaged over all pairs of frames.
    """
    tau = (np.arange(4000) + 0.5) / 4000 * duration_s
    alpha = depth_um / np.sqrt(4.0 * diffusion_um2_s * tau)
    correlation = special.erf(alpha) - (1.0 - np.exp(-(alpha**2))) / (alpha * np.sqrt(np.pi))
    return float(2.0 * np.mean((1.0 - tau / duration_s) * correlation))


def concentration(rows: Sequence[TrackRows]) -> Estimate | None:
    """Concentration in particles per ml over the videos of one sample or batch, with a 95 % interval.

    Geometric mean with an interval on the logarithm: from counting, or Student's interval of the videos where that is
    wider, and in either case with the uncertainties of pixel size and depth that all videos share.

    Parameters
    ----------
    rows : sequence of TrackRows
        One per video.

    Returns
    -------
    Estimate or None
        None unless every video that has usable tracks has a known depth.
    """
    counts = [r.count for r in rows if len(r)]
    known = [c for c in counts if c is not None and c.concentration_per_ml > 0]
    if not known or len(known) < len(counts):
        return None
    logs = np.log([c.concentration_per_ml for c in known])
    centre = float(np.mean(logs))
    n = len(known)
    counting = 1.959964 * float(np.sqrt(np.mean([c.relative_error**2 for c in known]) / n))
    between = float(stats.t.ppf(0.975, n - 1) * np.std(logs, ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    shared = 1.959964 * float(np.sqrt(np.mean([c.systematic**2 for c in known])))
    half = float(np.hypot(max(counting, between), shared))
    value, lo, hi = np.exp([centre, centre - half, centre + half])
    return Estimate(float(value), float(lo), float(hi))
