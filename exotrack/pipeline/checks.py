"""What is checked of a finished video: which sizes it shows, and whether its sizes hold without linking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from exotrack.acquisition import Acquisition
from exotrack.crosscheck import ddm, piccs, region, rendered
from exotrack.displacements import Displacements
from exotrack.localize import Detection, injected_detection
from exotrack.protocol import Protocol
from exotrack.sizing import TrackRows, track_rows
from exotrack.tables import Array, LinkSummary, Localizations, SpotFlag, Tracks
from exotrack.video import Video

_CURVES = ("diffusion_ratio", "diffusion_ratio_error", "found_again", "density_um2", "n_pairs", "reason")


@dataclass(frozen=True)
class Checked:
    """What `check` found out about a video."""

    moved: Displacements
    detection: Detection | None
    rows: TrackRows
    without_linking: Mapping[str, Any]
    """Results of DDM and PICCS, as `video.json` holds them."""


def check(
    source: Video,
    spots: Localizations,
    tracks: Tracks,
    moved: Displacements,
    protocol: Protocol,
    backend: str,
    *,
    blank: bool,
) -> Checked:
    """Detection limit, counts, and sizes without linking; of a blank the counts alone."""
    linking = tracks.linking
    assert linking is not None  # set by link
    found = None if blank else detection(source, spots, moved, linking, protocol, backend)
    detect = None if found is None else found.at
    rows = track_rows(tracks, source.acquisition, protocol, moved=moved, detect=detect, backend=backend)
    others = {} if blank else without_linking(source, spots, moved, linking, rows, protocol, backend)
    return Checked(moved, found, rows, others)


def detection(
    source: Video, spots: Localizations, moved: Displacements, linking: LinkSummary, protocol: Protocol, backend: str
) -> Detection | None:
    """Probability of detection by brightness; None where the protocol leaves it out or nothing moves."""
    if not protocol.check.detection_limit or spots.model is None or not moved.D_um2_s > 0:
        return None
    flow = tuple(float(np.mean(f)) if len(f) else 0.0 for f in (linking.flow_y_px, linking.flow_x_px))
    return injected_detection(
        source,
        protocol,
        model=spots.model,
        diffusion_um2_s=moved.D_um2_s,
        spots=spots,
        flow_px=(flow[0], flow[1]),
        backend=backend,
    )


def detection_from(record: Mapping[str, Any]) -> Detection | None:
    """What `video.json` holds of a probability of detection."""
    stored = record.get("detection")
    if not stored:
        return None
    return Detection(**{name: np.array(stored[name]) for name in ("mass", "probability", "error", "n")})


def without_linking(
    source: Video,
    spots: Localizations,
    moved: Displacements,
    linking: LinkSummary,
    rows: TrackRows,
    protocol: Protocol,
    backend: str,
) -> dict[str, Any]:
    """Diffusion of the same video from its pixels (DDM) and from distances between its spots (PICCS)."""
    found: dict[str, Any] = {}
    acquisition, still = source.acquisition, (spots.flag & SpotFlag.RESTING) != 0
    y, x, frame = (column[~still] for column in (spots.y, spots.x, spots.frame))
    if protocol.check.ddm:
        part = region(source.shape, acquisition.cuts)
        whole = _uncut(acquisition)
        steps = slice(part[0].start, part[0].stop - 1)
        flow = {"flow_y_px": linking.flow_y_px[steps], "flow_x_px": linking.flow_x_px[steps]}
        width = spots.model.sigma_px if spots.model is not None else 1.5
        movie = rendered(source.shape, y, x, frame, max(width, 1.0), cuts=acquisition.cuts)
        signal = ddm(_read(source, part), whole, **flow, weighting="signal", backend=backend)
        frames = ddm(movie, whole, **flow, weighting="frames", backend=backend)
        found["ddm"] = {"signal": asdict(signal), "frames": asdict(frames)}
        if len(rows):
            expected = acquisition.stokes_einstein_um2_s_nm * float(rows.frame_share @ (1.0 / rows.diameter_nm))
            found["ddm"]["ratio"] = frames.diffusion_um2_s / expected
            found["ddm"]["ratio_error"] = frames.diffusion_error_um2_s / expected
    if protocol.check.piccs and len(rows):
        error = moved.localization_error_px * acquisition.pixel_size_um
        compared = piccs(
            y,
            x,
            frame,
            acquisition,
            rows.diameter_nm,
            rows.frame_share,
            position_error_um=error if np.isfinite(error) else 0.0,
            flow_y_px=linking.flow_y_px,
            flow_x_px=linking.flow_x_px,
            backend=backend,
        )
        found["piccs"] = {name: getattr(compared, name) for name in (*_CURVES, "disagrees")}
    return found


def _uncut(acquisition: Acquisition) -> Acquisition:
    """For a stretch between cuts."""
    return Acquisition(**{**vars(acquisition), "cuts": ()})


def _read(source: Video, part: tuple[slice, slice, slice]) -> Array:
    """The frames of a region, block by block."""
    frames, rows, columns = part
    # Copies: a view of a part keeps whole frames in memory, 4 GB of them at 2048×2048 pixels of 16 bits.
    blocks = [np.array(block[:, rows, columns]) for _, block in source.blocks(32, frames.start, frames.stop)]
    return np.concatenate(blocks)
