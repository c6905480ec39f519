"""One video from frames to a finished folder, as tasks that may run anywhere; a failure is a value."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import imagecodecs
import numpy as np

from exotrack import __version__, storage
from exotrack.diffusion import measure
from exotrack.displacements import displacements
from exotrack.errors import BackendError, DeviceError, ExotrackError, RunError, VideoError
from exotrack.link import link
from exotrack.localize import calibrate, localize
from exotrack.pipeline import checks, record
from exotrack.pipeline.planning import Job, Part
from exotrack.pipeline.provenance import code_sha256
from exotrack.pipeline.quality import SPOTS_USUAL
from exotrack.place import is_remote
from exotrack.tables import Array, Localizations, Particles, SpotModel, Tracks
from exotrack.video import Video, look

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
    key: str
    """See `Job.key`."""
    seconds: Seconds
    """Time spent per stage; empty where finished results were kept."""


@dataclass(frozen=True)
class Begun:
    """A video that is to be localized."""

    sha256: str
    size_bytes: int | None
    source: Video
    """The video, its first frame looked at."""
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
        if job.code_sha256 != code_sha256():
            raise RunError("a worker runs other code of exotrack than the one that planned the run; install the same")
        known = before[0] if before else None
        sha256, size = (known.sha256, known.size_bytes) if known else (None, None)
        try:
            return task(job, *args, **kwargs)
        except RunError:
            raise  # not the fault of this video
        except BackendError as error:
            if not isinstance(error, DeviceError):
                raise RunError(f"a worker cannot compute: {error}") from error
            return Failed(_one_line(str(error)), traceback.format_exc(), sha256, size)
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
    source = job.opened()
    if source.shape[0] < FRAMES_LEAST:
        raise VideoError(f"{job.row.video}: {source.shape[0]} frame(s); motion needs {FRAMES_LEAST} at least")
    seconds: dict[str, float] = {}
    with timed(seconds, "hash"):
        sha256, size = source.sha256(), _size(source)
    try:
        kept = not job.force and _kept(job, sha256)
    except OSError as error:
        raise RunError(cannot_write(error, job.folder)) from error
    if kept:
        return Done(sha256, size, job.key(sha256), {})
    source, model = look(source), None
    if len(job.parts) > 1:
        with timed(seconds, "calibrate"):
            model = calibrate(source, job.protocol, backend=job.backend)
    return Begun(sha256, size, source, model, seconds)


def _kept(job: Job, sha256: str) -> bool:
    """Whether finished results exist for this input, protocol and code; what else the sheet says is updated."""
    done, kept = storage.completion(job.folder), storage.read_record(job.folder)
    if done is None or kept is None or done.get("key") != job.key(sha256):
        return False
    said = {**record.said(job), "camera": record.camera(job.opened())}
    if any(kept.get(name) != value for name, value in said.items()):
        storage.update_record(job.folder, {**kept, **said})
    return True


@_fails_alone
def find(job: Job, begun: Done | Begun, part: Part, count: Count | None) -> Done | Localized:
    """Localize one part of a video."""
    if isinstance(begun, Done):
        if count is not None:
            count(part[1] - part[0])
        return begun
    middle = job.n_frames // 2
    tap = _Tap(begun.source, middle)
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
    source = begun.source
    acquisition = source.acquisition
    with timed(seconds, "link"):
        tracks = link(spots, acquisition, job.protocol, backend=job.backend)
    reasons = list(spots.model.warnings) if spots.model is not None else []
    many = len(spots) > SPOTS_USUAL * job.n_frames
    if not len(tracks) and (reasons or many) and job.row.role != "blank":
        reasons.append("spots were found but none could be followed" if len(spots) else "no particles were found")
        raise VideoError(
            f"{job.row.video}: {'; '.join(reasons)}; look at it with `exotrack inspect`, and check focus, light and "
            "polarity"
        )
    with timed(seconds, "measure"):
        moved = displacements(tracks, acquisition, job.protocol)
        particles = measure(tracks, acquisition, job.protocol, moved=moved, backend=job.backend)
    with timed(seconds, "check"):
        checked = checks.check(source, spots, tracks, moved, job.protocol, job.backend, blank=job.row.role == "blank")
    preview = next((part.preview for part in parts if part.preview is not None), None)
    with timed(seconds, "write"):
        facts = record.found(job, source, spots, tracks, particles, checked)
        try:
            _write(job, begun, spots, tracks, particles, preview, facts)
        except (
            Exception
        ) as error:  # a full disk, a lost share, a store that refuses: the next video would fare no better
            if not (isinstance(error, OSError) or is_remote(job.folder)):
                raise
            raise RunError(cannot_write(error, job.folder)) from error
    return Done(begun.sha256, begun.size_bytes, job.key(begun.sha256), seconds)


def _write(
    job: Job,
    begun: Begun,
    spots: Localizations,
    tracks: Tracks,
    particles: Particles,
    preview: tuple[int, Array] | None,
    found: Mapping[str, Any],
) -> None:
    source = begun.source
    provenance = {
        "exotrack": __version__,
        "input_sha256": begun.sha256,
        "protocol_sha256": job.protocol.sha256,
        "backend": job.backend,
        "pixel_size_um": source.acquisition.pixel_size_um,
        "frame_interval_s": source.acquisition.frame_interval_s,
    }
    entries = {
        **record.said(job),
        **record.recorded(source),
        "camera": record.camera(source),
        **found,
    }
    decided = {"key": job.key(begun.sha256), **provenance, "code_sha256": job.code_sha256}
    with storage.replacing_folder(job.folder, decided) as folder:
        for name, table in (("localizations", spots), ("tracks", tracks), ("particles", particles)):
            storage.write_table(folder / f"{name}.parquet", table, {**provenance, "table": name})
        if preview is not None:
            entries["preview"] = {"frame": preview[0], "file": "frame.png"}
            _write_png(folder / "frame.png", preview[1])
        storage.write_json(folder / "video.json", entries)


def cannot_write(error: Exception, where: Path) -> str:
    """One line on results that could not be written."""
    reason = (error.strerror if isinstance(error, OSError) else None) or _one_line(str(error)) or type(error).__name__
    file = getattr(error, "filename", None) or where
    remedy = "what is finished is kept: remove the cause and run the same command again"
    return f"{file}: cannot be written ({reason}); {remedy}"


def _write_png(path: Path, frame: Array) -> None:
    """An 8-bit picture of a frame, stretched from its 0.5th to its 99.8th percentile."""
    low, high = np.percentile(frame, (0.5, 99.8))
    grey = (frame.astype(np.float64) - low) / max(high - low, 1.0)
    storage.write_bytes(path, bytes(imagecodecs.png_encode(np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8))))


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time that the block takes to a stage."""
    started = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - started


def _size(source: Video) -> int | None:
    """Bytes of the files of a video; None for a URL."""
    files = source.source.facts.files
    return sum(file.stat().st_size for file in files) if files else None
