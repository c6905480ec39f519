"""What one video contributes to size distributions: a likelihood row per track, and what weights it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exotrack import physics
from exotrack.acquisition import Acquisition
from exotrack.displacements import displacements, likelihood_rows, size_grid_nm
from exotrack.protocol import Protocol
from exotrack.sizing.concentration import Count, count
from exotrack.sizing.crowding import mislink_nm
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
    """Whether the identity appeared during the recording and inside the margin, so that it counts as a flux event."""
    from_beginning: npt.NDArray[np.bool_]
    """Whether the identity was already there in the first frame of the recording or of a new position."""
    n_steps_median: float
    """Median number of displacements, which sets the resolution."""
    pooled_nm: float
    """Hydrodynamic diameter of the diffusion coefficient pooled over all displacements; NaN without any."""
    pooled_relative_error: float
    """Its relative standard error from the spread between tracks."""
    systematic: float
    """Relative standard uncertainty of every diameter: pixel size, temperature and viscosity."""
    mislink_nm: float
    """Mislink index times diameter, nm: the smaller a particle, the more often its steps are confused."""
    count: Count | None
    """Particles seen per frame and per volume; None where the depth is not known."""

    def __len__(self) -> int:
        return len(self.identity)


def track_rows(
    tracks: Tracks, acquisition: Acquisition, protocol: Protocol | None = None, *, backend: str = "auto"
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

    A start is a flux event if the identity was not there when recording began and its first position is at least
    4√(2DΔt·L) inside the border, with the shortest usable length L in frames and a D that nine tenths of the tracks do
    not exceed: lateral entries then cannot pass for axial ones. The margin never takes more than half of the frame's
    smaller side.
    """
    settings = protocol or Protocol()
    d = displacements(tracks, acquisition, settings)
    log_rows = likelihood_rows(d, acquisition, settings, backend=backend)
    grid = size_grid_nm(settings)
    usable = np.flatnonzero((d.n_steps >= settings.size.min_steps) & ~d.stuck)
    log_rows = log_rows[usable]
    diffusion = acquisition.stokes_einstein_um2_s_nm / grid[log_rows.argmax(axis=1)] if len(usable) else np.empty(0)
    shortest = settings.size.min_steps * d.stride + 1
    steps = d.n_steps[usable].astype(np.float64)
    _, unit = np.unique(d.identity[usable], return_inverse=True)
    return TrackRows(
        diameter_nm=grid,
        likelihood=np.exp(log_rows),
        particle=d.particle[usable],
        identity=d.identity[usable],
        n_frames=d.n_frames[usable].astype(np.int64),
        identity_share=steps / np.bincount(unit, steps)[unit] if len(unit) else np.empty(0),
        start_seen=d.start_margin_um[usable] >= _start_margin(diffusion, shortest, tracks, acquisition),
        from_beginning=d.start_margin_um[usable] < 0,
        n_steps_median=float(np.median(steps)) if len(steps) else float("nan"),
        pooled_nm=acquisition.stokes_einstein_um2_s_nm / d.D_um2_s if d.D_um2_s > 0 else float("nan"),
        pooled_relative_error=d.D_err_um2_s / d.D_um2_s if d.D_um2_s > 0 else float("nan"),
        systematic=systematic_uncertainty(acquisition, settings),
        mislink_nm=mislink_nm(tracks, acquisition),
        count=count(d, tracks, acquisition, diffusion, shortest, settings.conditions),
    )


def _start_margin(diffusion: F64, shortest: int, tracks: Tracks, acquisition: Acquisition) -> float:
    if len(diffusion) == 0:
        return 0.0
    step = np.sqrt(2.0 * np.quantile(diffusion, 0.9) * acquisition.frame_interval_s)
    shape = acquisition.frame_shape or (int(np.ptp(tracks.y)) + 1, int(np.ptp(tracks.x)) + 1)
    return float(min(4.0 * step * np.sqrt(shortest), 0.25 * min(shape) * acquisition.pixel_size_um))


def systematic_uncertainty(acquisition: Acquisition, protocol: Protocol) -> float:
    """Relative standard uncertainty that all diameters of a video share.

    The pixel size enters squared. Temperature enters through T/η(T), about 2.6 %/K in water at 25 °C, or through T
    alone where the viscosity is given. All parts are independent.
    """
    conditions = protocol.conditions
    assumed = acquisition.origins.get("temperature_c") == "protocol default"
    kelvin = conditions.temperature_unknown_k if assumed else conditions.temperature_k
    per_kelvin = 1.0 / (acquisition.temperature_c + 273.15)
    if acquisition.viscosity_mpa_s is None:
        middle = float(np.clip(acquisition.temperature_c, -19.5, 109.5))
        cold, warm = (physics.water_viscosity_mpa_s(middle + half) for half in (-0.5, 0.5))
        per_kelvin += float(np.log(cold / warm))
    parts = (
        2.0 * conditions.pixel_size_relative,
        per_kelvin * kelvin,
        conditions.viscosity_relative,
    )
    return float(np.sqrt(np.sum(np.square(parts))))
