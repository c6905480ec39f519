"""What `video.json` says of a video: what the sheet says, what was recorded, what was found, and what to look at."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from exotrack.pipeline.checks import Checked
from exotrack.pipeline.planning import Job
from exotrack.pipeline.quality import Evidence, flags
from exotrack.sizing.crowding import class_mislinks, mislink_nm
from exotrack.tables import F64, Localizations, ParticleFlag, Particles, Tracks
from exotrack.video import Video
from exotrack.video.calibration import CameraFile


def said(job: Job) -> dict[str, Any]:
    """What the sheet says of a video."""
    row = job.row
    return {
        "video_id": row.video_id,
        "video": row.video,
        "batch": row.batch,
        "sample": row.sample,
        "role": row.role,
        "sheet": dict(row.columns),
    }


def recorded(source: Video) -> dict[str, Any]:
    """What the video itself is."""
    return {
        "shape": list(source.shape),
        "dtype": str(source.dtype),
        "container": dict(source.container),
        "acquisition": {name: {"value": value, "origin": origin} for name, (value, origin) in source.metadata.items()},
        "warnings": list(source.warnings),
    }


def camera(source: Video) -> dict[str, Any] | None:
    """Which maps of the camera were used. Results outlive a change of their place, as they do one of the sheet."""
    used = source.calibration
    if used is None:
        return None
    file = str(used.path) if isinstance(used, CameraFile) else None
    return {"file": file, "sha256": used.sha256, "excess": used.excess}


def found(
    job: Job, source: Video, spots: Localizations, tracks: Tracks, particles: Particles, checked: Checked
) -> dict[str, Any]:
    """What was found in a video, with the remarks on it."""
    acquisition, moved = source.acquisition, checked.moved
    model, linking = spots.model, tracks.linking
    assert model is not None  # set by localize
    assert linking is not None  # set by link
    used = (particles.n_steps >= job.protocol.size.min_steps) & ((particles.flag & ParticleFlag.STUCK) == 0)
    diffusion, diameter = _median(particles.D_um2_s[used]), _median(particles.diameter_nm[used])
    size = job.protocol.size
    mislinks = class_mislinks(
        mislink_nm(tracks, acquisition), size.class_edges_nm, size.diameter_min_nm, size.diameter_max_nm
    )
    evidence = Evidence(
        acquisition=acquisition,
        model=model,
        spots=spots,
        particles=particles,
        linking=linking,
        mislinks=mislinks,
        n_used=int(used.sum()),
        diffusion_um2_s=diffusion,
        anisotropy=moved.anisotropy,
        stride=moved.stride,
        n_frames=job.n_frames,
        count=checked.rows.count,
        blank=job.row.role == "blank",
        without_linking=checked.without_linking,
    )
    return {
        "spot_model": asdict(model),
        "counts": {
            "frames": job.n_frames,
            "localizations": len(spots),
            "spots_per_frame": len(spots) / job.n_frames,
            "tracks": len(np.unique(tracks.particle)),
            "tracks_used": evidence.n_used,
            "particles": len(np.unique(tracks.identity)),
        },
        "linking": {
            **asdict(linking),
            "mislink_index_of_class": mislinks,
            "flow_y_px_mean": _mean(linking.flow_y_px),
            "flow_x_px_mean": _mean(linking.flow_x_px),
        },
        "motion": {
            "localization_error_px": moved.localization_error_px,
            "error_scale": _median(moved.noise.error_scale),
            "diffusion_scale": moved.diffusion_scale,
            "anisotropy": moved.anisotropy,
            "stride_frames": moved.stride,
            "D_pooled_um2_s": moved.D_um2_s,
            "diameter_pooled_nm": acquisition.stokes_einstein_um2_s_nm / moved.D_um2_s if moved.D_um2_s > 0 else None,
            "D_median_um2_s": diffusion,
            "diameter_median_nm": diameter,
        },
        "counting": asdict(checked.rows.count),
        "detection": None if checked.detection is None else asdict(checked.detection),
        **checked.without_linking,
        "noise_dn": model.noise_dn,
        "saturated_share": model.saturated_share,
        "quality": flags(evidence),
    }


def _median(values: F64) -> float:
    return float(np.median(values)) if len(values) else math.nan


def _mean(values: F64) -> float:
    return float(np.mean(values)) if len(values) else 0.0
