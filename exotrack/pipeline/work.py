"""One video from frames to a finished folder, as tasks that may run anywhere; a failure is a value."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import imagecodecs
import numpy as np

from exotrack import __version__, storage
from exotrack.diffusion import measure
from exotrack.displacements import displacements
from exotrack.errors import ExotrackError, VideoError
from exotrack.link import link
from exotrack.localize import calibrate, localize
from exotrack.pipeline.plan import Job, Part
from exotrack.pipeline.quality import Evidence, flags
from exotrack.sizing.crowding import class_mislinks, mislink_nm
from exotrack.tables import F64, Array, Localizations, ParticleFlag, Particles, SpotModel, Tracks
from exotrack.video import Video
from exotrack.video.calibration import CameraFile

FRAMES_LEAST: Final = 3
"""Frames below which a video says nothing about motion."""

Seconds = Mapping[str, float]
Count = Callable[[int], None]


@dataclass(frozen=True)
class Failed:
    """A video that could not be analysed."""

    reason: str
    """One line for the user."""
    trace: str
    """Traceback for whoever mends the program."""
    sha256: str | None
    """Hash of the input, where it was read that far."""
    size_bytes: int | None


@dataclass(frozen=True)
class Done:
    """A finished video."""

    sha256: str
    """Hash of the input."""
    size_bytes: int | None
    seconds: Seconds
    """Time spent per stage; empty where finished results were kept."""


@dataclass(frozen=True)
class Begun:
    """A video that is to be localized."""

    sha256: str
    size_bytes: int | None
    model: SpotModel | None
    """None where the only part learns it itself."""
    seconds: Seconds


@dataclass(frozen=True)
class Localized:
    """The spots of one part of a video."""

    spots: Localizations
    preview: tuple[int, Array] | None
    """Index and pixels of the frame that the report shows, where this part holds it."""
    seconds: Seconds


P = ParamSpec("P")
R = TypeVar("R")


def _fails_alone(task: Callable[Concatenate[Job, P], R]) -> Callable[Concatenate[Job, P], R | Failed]:
    """A task that returns its exception, or the failure of a task before it, as a value."""

    @wraps(task)
    def guarded(job: Job, /, *args: P.args, **kwargs: P.kwargs) -> R | Failed:
        before = [value for value in args if isinstance(value, Failed | Begun)]
        failed = next((value for value in before if isinstance(value, Failed)), None)
        if failed is not None:
            return failed
        known = before[0] if before else None
        sha256, size = (known.sha256, known.size_bytes) if known else (None, None)
        try:
            return task(job, *args, **kwargs)
        except ExotrackError as error:
            return Failed(_one_line(str(error)), traceback.format_exc(), sha256, size)
        except Exception as error:  # whatever a library raises on a strange file must not end the study
            reason = _one_line(f"unexpected {type(error).__name__}: {error}")
            return Failed(reason, traceback.format_exc(), sha256, size)

    return guarded


def _one_line(text: str) -> str:
    return " ".join(text.split())


@_fails_alone
def begin(job: Job) -> Done | Begun:
    """Hash the input; keep finished results that still hold; otherwise learn the spot model."""
    source = _source(job)
    if source.shape[0] < FRAMES_LEAST:
        raise VideoError(f"{job.row.video}: {source.shape[0]} frame(s); motion needs {FRAMES_LEAST} at least")
    seconds: dict[str, float] = {}
    with timed(seconds, "hash"):
        sha256, size = source.sha256(), _size(source)
    if not job.force and _kept(job, sha256):
        return Done(sha256, size, {})
    model = None
    if len(job.parts) > 1:
        with timed(seconds, "calibrate"):
            model = calibrate(source, job.protocol, backend=job.backend)
    return Begun(sha256, size, model, seconds)


def _kept(job: Job, sha256: str) -> bool:
    """Whether finished results exist for this input, protocol and code; what else the sheet says is updated."""
    record = storage.read_record(job.folder)
    if record is None or record.get("key") != job.key(sha256):
        return False
    said = {**_said(job), "camera": _camera(_source(job))}
    if any(record.get(name) != value for name, value in said.items()):
        storage.write_json(job.folder / "video.json", {**record, **said})
    return True


@_fails_alone
def find(job: Job, begun: Done | Begun, part: Part, count: Count | None) -> Done | Localized:
    """Localize one part of a video."""
    if isinstance(begun, Done):
        if count is not None:
            count(part[1] - part[0])
        return begun
    source, middle = _source(job), job.n_frames // 2
    tap = _Tap(source, middle)
    seconds: dict[str, float] = {}
    with timed(seconds, "localize"):
        spots = localize(
            tap,
            job.protocol,
            backend=job.backend,
            model=begun.model,
            start=part[0],
            stop=part[1],
            block_frames=job.block_frames,
            progress=count,
        )
    return Localized(spots, None if tap.seen is None else (middle, tap.seen), seconds)


class _Tap:
    """A video that keeps one frame as it streams by: a sequential one is decoded only once."""

    def __init__(self, source: Any, wanted: int) -> None:
        self._source, self._wanted = source, wanted
        self.seen: Array | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def blocks(self, block_frames: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Array]]:
        for first, frames in self._source.blocks(block_frames, start, stop):
            if first <= self._wanted < first + len(frames):
                self.seen = np.array(frames[self._wanted - first])
            yield first, frames


@_fails_alone
def finish(job: Job, begun: Done | Begun, *found: Done | Localized) -> Done:
    """Link, measure, and write the folder of a video."""
    if isinstance(begun, Done):
        return begun
    parts = [part for part in found if isinstance(part, Localized)]
    seconds = dict(begun.seconds)
    for part in parts:
        for stage, value in part.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + value
    spots = Localizations.concat([part.spots for part in parts])
    acquisition = _source(job).acquisition
    with timed(seconds, "link"):
        tracks = link(spots, acquisition, job.protocol, backend=job.backend)
    if not len(tracks) and job.row.role != "blank":
        what = "spots were found but none could be followed" if len(spots) else "no particles were found"
        reasons = "; ".join(spots.model.warnings) if spots.model else ""
        raise VideoError(
            f"{job.row.video}: {reasons + '; ' if reasons else ''}{what}; look at it with `exotrack inspect`, and "
            "check focus, light and polarity"
        )
    with timed(seconds, "measure"):
        particles = measure(tracks, acquisition, job.protocol, backend=job.backend)
    preview = next((part.preview for part in parts if part.preview is not None), None)
    with timed(seconds, "write"):
        _write(job, begun, spots, tracks, particles, preview)
    return Done(begun.sha256, begun.size_bytes, seconds)


def _write(
    job: Job,
    begun: Begun,
    spots: Localizations,
    tracks: Tracks,
    particles: Particles,
    preview: tuple[int, Array] | None,
) -> None:
    source = _source(job)
    provenance = {
        "exotrack": __version__,
        "input_sha256": begun.sha256,
        "protocol_sha256": job.protocol.sha256,
        "backend": job.backend,
        "pixel_size_um": source.acquisition.pixel_size_um,
        "frame_interval_s": source.acquisition.frame_interval_s,
    }
    record = {
        **_said(job),
        "key": job.key(begun.sha256),
        **_recorded(source),
        "camera": _camera(source),
        **_found(job, spots, tracks, particles),
    }
    with storage.replacing_folder(job.folder) as folder:
        for name, table in (("localizations", spots), ("tracks", tracks), ("particles", particles)):
            storage.write_table(folder / f"{name}.parquet", table, {**provenance, "table": name})
        if preview is not None:
            record["preview"] = {"frame": preview[0], "file": "frame.png"}
            _write_png(folder / "frame.png", preview[1])
        storage.write_json(folder / "video.json", record)


def _said(job: Job) -> dict[str, Any]:
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


def _recorded(source: Video) -> dict[str, Any]:
    """What the video itself is."""
    return {
        "shape": list(source.shape),
        "dtype": str(source.dtype),
        "container": dict(source.container),
        "acquisition": {name: {"value": value, "origin": origin} for name, (value, origin) in source.metadata.items()},
        "warnings": list(source.warnings),
    }


def _camera(source: Video) -> dict[str, Any] | None:
    """Which maps of the camera were used. Results outlive a change of their place, as they do one of the sheet."""
    used = source.calibration
    if used is None:
        return None
    file = str(used.path) if isinstance(used, CameraFile) else None
    return {"file": file, "sha256": used.sha256, "excess": used.excess}


def _found(job: Job, spots: Localizations, tracks: Tracks, particles: Particles) -> dict[str, Any]:
    """What was found in a video, with the remarks on it."""
    acquisition = _source(job).acquisition
    model, linking = spots.model, tracks.linking
    assert model is not None  # set by localize
    assert linking is not None  # set by link
    moved = displacements(tracks, acquisition, job.protocol)
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
        "noise_dn": model.noise_dn,
        "saturated_share": model.saturated_share,
        "quality": flags(evidence),
    }


def _write_png(path: Path, frame: Array) -> None:
    """An 8-bit picture of a frame, stretched from its 0.5th to its 99.8th percentile."""
    low, high = np.percentile(frame, (0.5, 99.8))
    grey = (frame.astype(np.float64) - low) / max(high - low, 1.0)
    path.write_bytes(imagecodecs.png_encode(np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)))


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time that the block takes to a stage."""
    started = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - started


def _source(job: Job) -> Video:
    if job.source is None:
        raise VideoError(job.problem)
    return job.source


def _size(source: Video) -> int | None:
    """Bytes of the files of a video; None for a URL."""
    files = source.source.facts.files
    return sum(file.stat().st_size for file in files) if files else None


def _median(values: F64) -> float:
    return float(np.median(values)) if len(values) else math.nan


def _mean(values: F64) -> float:
    return float(np.mean(values)) if len(values) else 0.0
