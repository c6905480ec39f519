"""Particles of one video in its observed volume: what is seen per frame over the depth in which it is seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exotrack.acquisition import Acquisition
from exotrack.backends.contract import Backend
from exotrack.displacements import Displacements
from exotrack.protocol import Protocol
from exotrack.sizing.counting import counting_fano
from exotrack.sizing.crowding import field_shape
from exotrack.sizing.exchange import confirmed_starts_um, unconfirmed_depth_um
from exotrack.tables import F32, F64, I64, Tracks

_UM3_PER_ML = 1e12
_ITERATIONS = 50  # of the deconvolution that says which sizes are seen; means over classes need no more
_TYPICAL_NM = 100.0  # of what an empty video might have shown
_NAN = float("nan")


@dataclass(frozen=True)
class Seen:
    """The tracks of one video that counting looks at."""

    likelihood: F32
    """Likelihood of each usable track in each size class, shape (n_tracks, n_classes)."""
    n_frames: I64
    """Localizations of each."""
    mass: F64
    """Mean integrated signal of each, DN."""
    frame_share: F64
    """Share of each class among the particles seen per frame, shape (n_classes,)."""
    class_mass: F64
    """Mean integrated signal of each class, DN, shape (n_classes,)."""
    starts: F64
    """Weight of each among the particles whose arrival was seen; 0 for the others."""
    area_um2: float
    """Area in which arrivals could be seen."""
    arrival_frames: int
    """Frames in which they could."""


@dataclass(frozen=True)
class Count:
    """Particles of one video in its observed volume."""

    confirmed_per_um2: float
    """Localizations of moving particles in tracks that are long enough, per frame and area of the field."""
    particles_per_frame: float
    """Moving particles in view; with a known depth, those in tracks too short to be confirmed included."""
    concentration_per_ml: float
    """In the sample before its dilution; NaN where the depth is not known."""
    independent: float
    """Independent particles that carry the same information: frames show the same ones again."""
    unit_per_ml: float
    """Concentration that one independent particle stands for; NaN where the depth is not known."""
    flux_per_ml: float
    """The same concentration from the particles that arrive during the recording, whatever the depth; NaN where no
    arrival could be seen."""
    arrival_per_ml: float
    """Concentration that one arrival stands for; NaN likewise."""
    starts: float
    """Particles whose arrival was seen."""
    fields: int
    """Places of the sample that were recorded."""
    dilution: float
    side_um: tuple[float, float]
    """Height and width of the field."""
    shortest: int
    """Frames of the shortest track that counts."""
    depth_error: float
    """Relative standard uncertainty of the depth."""
    pixel_error: float
    """Relative standard uncertainty of an area from that of the pixel size."""

    @property
    def systematic(self) -> float:
        """Relative standard uncertainty of the concentration that all videos share."""
        return float(np.hypot(self.depth_error, self.pixel_error))


def count(
    d: Displacements,
    tracks: Tracks,
    acquisition: Acquisition,
    seen: Seen,
    grid_nm: F64,
    protocol: Protocol,
    engine: Backend,
) -> Count:
    """Particles per frame and volume of one video.

    Parameters
    ----------
    d : Displacements
        Of the video.
    tracks : Tracks
        What `d` was made from.
    acquisition : Acquisition
        Depth or table of depths, dilution, frame shape and number of frames.
    seen : Seen
        The usable tracks.
    grid_nm : float64 array, shape (n_classes,)
        Size classes.
    protocol : Protocol
        Shortest track, gaps, uncertainties.
    engine : module
        A loaded backend.

    Notes
    -----
    Only localizations of moving identities that span `min_steps` + 1 frames are counted, so that false spots are not.
    What this leaves out follows from the exchange of particles through all faces of the observed box, per size class
    (`unconfirmed_depth_um`): c = Σ_k n_k / (A (h_k − u_k)), with the share of each class among the localizations from a
    deconvolution weighted by frames. Depths come from the table by brightness or size, else from `depth_um`. Where a
    class is so fast that less than a tenth of the depth remains, a tenth is taken.

    The flux estimate counts particles that come in (`exotrack.sizing.arrivals`): c·2√(DΔt/π) of them per frame and area
    through the two faces of the volume, of which a known share stays long enough. It does not contain the depth, but
    takes the faces as sharp, flow as parallel to them, and detection as certain. In simulated slabs and Gaussian sheets
    of 60 to 200 nm particles with signal-to-noise ratios of 8 to 30 it was 0.95 to 1.15 of the truth.
    """
    shape = field_shape(tracks, acquisition)
    side_um = (shape[0] * acquisition.pixel_size_um, shape[1] * acquisition.pixel_size_um)
    n_frames = acquisition.n_frames or int(tracks.frame.max(initial=0)) + 1
    shortest, gap = protocol.size.min_steps * d.stride + 1, protocol.link.gap_frames
    confirmed = int(d.n_frames[(d.span >= shortest) & ~d.stuck].sum())
    per_um2 = confirmed / (n_frames * side_um[0] * side_um[1])

    share = seen.frame_share
    step = np.sqrt(2.0 * acquisition.stokes_einstein_um2_s_nm / grid_nm * acquisition.frame_interval_s)
    depth = _depth(acquisition, grid_nm, seen.class_mass)
    fields = 1 + len(acquisition.cuts)
    moved = d.flow.mean_um
    velocity = (moved[0] / acquisition.frame_interval_s, moved[1] / acquisition.frame_interval_s)
    known = np.isfinite(depth).all()
    box = depth if known else np.full(len(grid_nm), np.inf)
    counted = counted_share(step, box, side_um, shortest, gap)
    mean_size = float(np.exp(share @ np.log(grid_nm)))
    fano = (
        counting_fano(
            acquisition.stokes_einstein_um2_s_nm / mean_size,
            float(share @ depth) if known else 10.0 * float(share @ step),
            n_frames * acquisition.frame_interval_s / fields,
            frame_um=side_um,
            flow_um_s=velocity,
        )
        / fields
    )
    per_frame = per_um2 * side_um[0] * side_um[1] * float(share @ (1.0 / counted))
    volume = acquisition.dilution * _UM3_PER_ML / (side_um[0] * side_um[1])
    unit = fano * volume * float(share @ (1.0 / (counted * box))) / float(share @ (1.0 / counted)) if known else _NAN
    starts = float(seen.starts.sum())
    arrival = _arrival(seen, step, shortest, gap, grid_nm, engine) * acquisition.dilution
    return Count(
        confirmed_per_um2=per_um2,
        particles_per_frame=per_frame,
        concentration_per_ml=per_frame / fano * unit,
        independent=per_frame / fano,
        unit_per_ml=unit,
        flux_per_ml=starts * arrival,
        arrival_per_ml=arrival,
        starts=starts,
        fields=fields,
        dilution=acquisition.dilution,
        side_um=side_um,
        shortest=shortest,
        depth_error=acquisition.depth_table.relative_error
        if acquisition.depth_table is not None
        else protocol.conditions.depth_relative,
        pixel_error=2.0 * protocol.conditions.pixel_size_relative,
    )


def class_shares(likelihood: F32, weight: F64, mass: F64, grid_nm: F64, engine: Backend) -> tuple[F64, F64]:
    """Share of each size class under a weighting of the tracks, and its mean signal; 100 nm where there are none.

    Tracks of unknown signal do not enter the means; a class of such tracks alone has NaN.
    """
    if not len(likelihood) or not weight.sum() > 0:
        alone = np.zeros(len(grid_nm))
        alone[int(np.argmin(np.abs(np.log(grid_nm / _TYPICAL_NM))))] = 1.0
        return alone, np.full(len(grid_nm), _NAN)
    start = np.full((1, len(grid_nm)), 1.0 / len(grid_nm))
    share: F64 = engine.deconvolve(likelihood, weight[None], start, iterations=_ITERATIONS)[0]
    joint = likelihood * share.astype(np.float32)
    joint /= np.maximum(joint.sum(axis=1, keepdims=True), np.float32(1e-30))
    known = np.isfinite(mass)
    of_class = (weight * known) @ joint
    bright = (weight * np.where(known, mass, 0.0)) @ joint
    return share, np.where(of_class > 0, bright / np.maximum(of_class, 1e-300), _NAN)


def _depth(acquisition: Acquisition, grid_nm: F64, mass: F64) -> F64:
    """Depth per size class, µm; NaN where nothing is known."""
    if acquisition.depth_table is not None:
        return acquisition.depth_table.depth_um(grid_nm, mass)
    return np.full(len(grid_nm), _NAN if acquisition.depth_um is None else acquisition.depth_um)


def counted_share(step_um: F64, depth_um: F64, side_um: tuple[float, float], shortest: int, gap: int) -> F64:
    """Share of the localizations of each class that belong to tracks of `shortest` frames or more; at least 0.1."""
    share = np.ones(len(step_um))
    for side in (depth_um, *side_um):
        missed = unconfirmed_depth_um(step_um, np.where(np.isfinite(side), side, 1e9), shortest, gap)
        share *= 1.0 - missed / side
    return np.maximum(share, 0.1)


def _arrival(seen: Seen, step_um: F64, shortest: int, gap: int, grid_nm: F64, engine: Backend) -> float:
    """Particles per ml of the measured liquid that one arrival stands for; NaN where none could be seen."""
    if not (seen.area_um2 > 0 and seen.arrival_frames > 0):
        return _NAN
    share, _ = class_shares(seen.likelihood, seen.starts, seen.mass, grid_nm, engine)
    per_concentration = confirmed_starts_um(step_um, shortest, gap) * seen.area_um2 * seen.arrival_frames
    return float(share @ (1.0 / per_concentration)) * _UM3_PER_ML
