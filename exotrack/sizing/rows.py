"""What one video contributes to size distributions: a likelihood row per track, and what weights it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exotrack import backends
from exotrack.acquisition import Acquisition
from exotrack.displacements import Displacements, displacements, likelihood_rows, size_grid_nm
from exotrack.protocol import Protocol
from exotrack.sizing.arrivals import arrivals
from exotrack.sizing.budget import BudgetLine, noise_sensitivity, systematic_budget
from exotrack.sizing.count import Count, Seen, class_shares, count
from exotrack.sizing.crowding import mislink_nm
from exotrack.sizing.limit import Detect, detection_limit
from exotrack.tables import F32, F64, I64, Tracks


@dataclass(frozen=True, eq=False)
class TrackRows:
    """Tracks of one video on the size grid. Small enough to be sent between processes and kept for pooling."""

    diameter_nm: F64
    """Size classes, shape (n_classes,)."""
    likelihood: F32
    """Likelihood of each usable track in each class, each row with maximum 1, shape (n_tracks, n_classes)."""
    particle: I64
    """Track of the video that each row belongs to; one of a video that is stepped through stands in several rows."""
    identity: I64
    """Particle that each track is a piece of: the unit that is resampled, shape (n_tracks,)."""
    n_frames: I64
    """Localizations of each track."""
    identity_share: F64
    """Share of each track in its identity, by displacements; sums to 1 over an identity."""
    start_seen: npt.NDArray[np.bool_]
    """Whether the identity was seen to come in, so that it counts as a flux event."""
    from_beginning: npt.NDArray[np.bool_]
    """Whether the identity was already there in the first frame of the recording or of a new position."""
    n_steps_median: float
    """Median number of displacements, which sets the resolution."""
    pooled_nm: float
    """Hydrodynamic diameter of the diffusion coefficient pooled over all displacements; NaN without any."""
    pooled_relative_error: float
    """Its relative standard error from the spread between tracks."""
    budget: tuple[BudgetLine, ...]
    """What moves all diameters together: pixel size, temperature, viscosity, frame interval, localization error."""
    mislink_nm: float
    """Mislink index times diameter, nm: the smaller a particle, the more often its steps are confused."""
    frame_share: F64
    """Share of each size class among the particles seen per frame, shape (n_classes,)."""
    detected: F64 | None
    """Probability that a particle of each size class is detected in a frame, shape (n_classes,); None if unknown."""
    mass: F64
    """Mean integrated signal of each track, DN; NaN where unknown."""
    count: Count
    """Particles seen per frame and, where the depth is known, per volume."""

    def __len__(self) -> int:
        return len(self.identity)


def track_rows(
    tracks: Tracks,
    acquisition: Acquisition,
    protocol: Protocol | None = None,
    *,
    moved: Displacements | None = None,
    detect: Detect | None = None,
    backend: str = "auto",
) -> TrackRows:
    """Likelihood rows and weights of one video.

    Tracks that do not move and tracks shorter than ``protocol.size.min_steps`` are left out. Tracks flagged
    NOT_BROWNIAN stay: the power of that test grows with the length of the track, and what it rejects first are large
    displacements, so that leaving them out would turn the distribution towards large particles.

    Parameters
    ----------
    tracks : Tracks
        Ordered by particle, then frame.
    acquisition : Acquisition
        Conditions of the video.
    protocol : Protocol, optional
        Defaults to all defaults.
    moved : Displacements, optional
        What `exotrack.displacements.displacements` makes of the same tracks, acquisition and protocol, where it is
        there already.
    detect : callable, optional
        Probability that a localization of a signal in DN is detected, as `exotrack.localize.injected_detection` finds.
    backend : str
        "auto", "cpu" or "cuda".

    Returns
    -------
    TrackRows
        Empty if no track is usable.

    Raises
    ------
    InputError
        Tracks out of order, or with two localizations in one frame.
    BackendError
        The backend cannot run here.

    Notes
    -----
    Pieces of one identity stay separate rows, since an identity is cut where two particles may have been swapped;
    together they have the weight of one particle.

    Starts are flux events where `exotrack.sizing.arrivals` can tell that the particle came in.
    """
    settings = protocol or Protocol()
    d = displacements(tracks, acquisition, settings) if moved is None else moved
    log_rows = likelihood_rows(d, acquisition, settings, backend=backend)
    grid = size_grid_nm(settings)
    usable = np.flatnonzero((d.n_steps >= settings.size.min_steps) & ~d.stuck)
    log_rows = log_rows[usable]
    diffusion = acquisition.stokes_einstein_um2_s_nm / grid[log_rows.argmax(axis=1)] if len(usable) else np.empty(0)
    shortest = settings.size.min_steps * d.stride + 1
    steps = d.n_steps[usable].astype(np.float64)
    _, unit = np.unique(d.identity[usable], return_inverse=True)
    likelihood = np.exp(log_rows)
    identity_share = steps / np.bincount(unit, steps)[unit] if len(unit) else np.empty(0)
    fast = float(np.quantile(diffusion, 0.9)) if len(diffusion) else 0.0
    arrived = arrivals(d, tracks, acquisition, fast, shortest, settings.link.gap_frames)
    start_seen = arrived.seen[usable]
    engine = backends.load(backend)
    frame_share, class_mass = class_shares(
        likelihood, d.n_frames[usable].astype(np.float64), d.mass[usable], grid, engine
    )
    seen = Seen(
        likelihood=likelihood,
        n_frames=d.n_frames[usable].astype(np.int64),
        mass=d.mass[usable],
        frame_share=frame_share,
        class_mass=class_mass,
        starts=np.where(start_seen, identity_share, 0.0),
        area_um2=arrived.area_um2,
        arrival_frames=arrived.n_frames,
    )
    return TrackRows(
        diameter_nm=grid,
        likelihood=likelihood,
        particle=d.particle[usable],
        identity=d.identity[usable],
        n_frames=d.n_frames[usable].astype(np.int64),
        identity_share=identity_share,
        start_seen=start_seen,
        from_beginning=d.start_margin_um[usable] < 0,
        n_steps_median=float(np.median(steps)) if len(steps) else float("nan"),
        pooled_nm=acquisition.stokes_einstein_um2_s_nm / d.D_um2_s if d.D_um2_s > 0 else float("nan"),
        pooled_relative_error=d.D_err_um2_s / d.D_um2_s if d.D_um2_s > 0 else float("nan"),
        budget=systematic_budget(
            acquisition,
            settings,
            noise_error=d.noise.relative_error,
            noise_sensitivity=_noise_sensitivity(d, acquisition),
        ),
        mislink_nm=mislink_nm(tracks, acquisition),
        frame_share=frame_share,
        detected=_detected(detect, seen, grid, backend),
        mass=seen.mass,
        count=count(d, tracks, acquisition, seen, grid, settings, engine),
    )


def _detected(detect: Detect | None, seen: Seen, grid: F64, backend: str) -> F64 | None:
    """Probability of detection by size; None where the signals or the detection are not known."""
    if detect is None or not len(seen.mass) or not np.isfinite(seen.mass).all():
        return None
    probability = detection_limit(detect, seen.likelihood, grid, seen.mass, backend=backend).probability
    return probability if np.isfinite(probability).all() else None


def _noise_sensitivity(d: Displacements, acquisition: Acquisition) -> float:
    """Relative change of the diameters of a video per relative change of its localization variance."""
    interval = d.stride * acquisition.frame_interval_s
    if not d.D_um2_s > 0:
        return 0.0
    variance = (d.localization_error_px * acquisition.pixel_size_um) ** 2
    return noise_sensitivity(variance / (d.D_um2_s * interval), acquisition.blur / d.stride)
