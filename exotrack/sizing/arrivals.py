"""Particles that enter the observed volume during the recording, told from tracks that only begin again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from exotrack.acquisition import Acquisition
from exotrack.displacements import Displacements
from exotrack.sizing.crowding import field_shape
from exotrack.tables import F64, I64, Mask, Tracks

_MARGIN = 4.0
_MOST_OF_FRAME = 0.25
_WIDTHS, _STEPS = 3.0, 3.0
_PROBES = 8192
_APART_PX = 1e6  # between frames, where a tree holds the places of all of them
_USUAL_WIDTH_PX = 1.5


@dataclass(frozen=True)
class Arrivals:
    """Which particles of a video came in where their arrival could be told from anything else."""

    seen: Mask
    """Per row of `Displacements`: whether the identity is such a particle."""
    area_um2: float
    """Area of the field in which arrivals count, less what is taken up by other particles; mean over the frames."""
    n_frames: int
    """Frames in which they count."""


def arrivals(
    d: Displacements, tracks: Tracks, acquisition: Acquisition, fast_um2_s: float, shortest: int, gap_frames: int
) -> Arrivals:
    """Particles that appeared during the recording, inside the field, and away from all others.

    Parameters
    ----------
    d : Displacements
        Of the video.
    tracks : Tracks
        What `d` was made from.
    acquisition : Acquisition
        Frame shape, number of frames and cuts.
    fast_um2_s : float
        Diffusion coefficient that nine tenths of the tracks do not exceed.
    shortest : int
        Frames of the shortest track that counts.
    gap_frames : int
        Frames that a particle may be missing from within a track.

    Notes
    -----
    An identity counts if it was not there when recording began; if it begins at least 4√(2DΔt·L) inside the border,
    with the shortest length L in frames, so that lateral entries cannot pass for axial ones (the margin takes a
    quarter of the smaller side at most); and if no other spot was within three widths and three steps in the frames
    before, over which a gap could not be closed. Two particles that cross are one spot for a while, and one of the
    tracks begins again when they part: at 30 to 60 spots per 72×96 µm that made 10 to 40 % of all beginnings, and more
    for slow particles. The place that this takes up is measured at random points.
    """
    step_px = float(np.sqrt(2.0 * fast_um2_s * acquisition.frame_interval_s)) / acquisition.pixel_size_um
    shape = field_shape(tracks, acquisition)
    n_frames = acquisition.n_frames or int(tracks.frame.max(initial=0)) + 1
    margin_px = min(_MARGIN * step_px * np.sqrt(shortest), _MOST_OF_FRAME * min(shape))
    first, last = gap_frames + 1, n_frames - shortest
    inner = shape[0] - 2.0 * margin_px, shape[1] - 2.0 * margin_px
    # After a cut, as at the beginning, everything is new.
    frames = np.arange(first, max(last, first))
    for cut in acquisition.cuts:
        frames = frames[(frames < cut - shortest) | (frames > cut + gap_frames)]
    if not len(frames) or min(inner) <= 0:
        return Arrivals(np.zeros(len(d), bool), 0.0, 0)
    if not len(d):
        return Arrivals(np.zeros(0, bool), inner[0] * inner[1] * acquisition.pixel_size_um**2, len(frames))
    width = float(np.nanmedian(tracks.sigma)) if np.isfinite(tracks.sigma).any() else _USUAL_WIDTH_PX
    radius = _WIDTHS * width + _STEPS * step_px * np.sqrt(gap_frames + 1.0)
    tree = cKDTree(np.stack([tracks.y, tracks.x, tracks.frame * _APART_PX], axis=1))

    drift = [moved / acquisition.pixel_size_um for moved in d.flow.mean_um]

    def taken(y: F64, x: F64, frame: I64) -> Mask:  # whether another particle was near, where the liquid came from
        near = np.zeros(len(y), bool)
        for back in range(1, gap_frames + 2):
            places = np.stack([y - back * drift[0], x - back * drift[1], (frame - back) * _APART_PX], axis=1)
            near |= tree.query(places, distance_upper_bound=radius)[0] < radius
        return near

    rng = np.random.default_rng(0)
    probe_y, probe_x = (margin_px + side * rng.random(_PROBES) for side in inner)
    free = 1.0 - float(np.mean(taken(probe_y, probe_x, rng.choice(frames, _PROBES))))
    inside = (d.start_margin_um >= margin_px * acquisition.pixel_size_um) & np.isin(_first_frame(d), frames)
    seen = inside.copy()
    rows = np.flatnonzero(inside)
    y, x, frame = _begin(d, tracks)
    seen[rows] = ~taken(y[rows], x[rows], frame[rows])
    return Arrivals(seen, inner[0] * inner[1] * acquisition.pixel_size_um**2 * free, len(frames))


def _first_frame(d: Displacements) -> I64:
    """First frame of the identity of each row."""
    _, unit = np.unique(d.identity, return_inverse=True)
    first = np.full(int(unit.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, unit, d.first_frame.astype(np.int64))
    return first[unit]


def _begin(d: Displacements, tracks: Tracks) -> tuple[F64, F64, I64]:
    """Place and frame, px, of the first localization of the identity of each row."""
    order = np.lexsort((tracks.frame, tracks.identity))
    known, at = np.unique(tracks.identity[order], return_index=True)
    first = order[at[np.searchsorted(known, d.identity)]]
    return tracks.y[first], tracks.x[first], tracks.frame[first].astype(np.int64)
