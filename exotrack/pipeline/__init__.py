"""The one place where stages, files, dask and progress meet.

1. `plan`: the sheet is checked and every header opened; nothing has been computed when an input is wrong.
2. `work`: each video is hashed, localized in parts, linked, measured and written; a failure is a value.
3. `pool`: from the stored tracks, the size distributions of videos, samples and batches, and their comparison.
4. The record of the run and the report.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from dask.delayed import Delayed, delayed

from exotrack import backends, samplesheet, storage
from exotrack.errors import ExotrackError, InputError, RunError
from exotrack.lock import locked
from exotrack.pipeline import pool, work
from exotrack.pipeline.planning import Job, plan_videos
from exotrack.pipeline.provenance import code_sha256, software
from exotrack.pipeline.schedule import Cluster, Progress, Resolved, Task, Threads, Watch, WorkerLost, connect
from exotrack.place import is_remote, place
from exotrack.protocol import Protocol
from exotrack.storage import Results, open_results

logger = logging.getLogger(__name__)


def run(
    sheet: str | Path,
    out: str | Path,
    protocol: Protocol | None = None,
    *,
    backend: str = "auto",
    scheduler: Any = "threads",
    workers: int | None = None,
    force: bool = False,
    block_frames: int | None = None,
    progress: Progress | None = None,
) -> Results:
    """Analyse a study: every video of a sample sheet, its samples and its batches, and write the report.

    Parameters
    ----------
    sheet : str or Path
        Sample sheet; see `exotrack.samplesheet.read`.
    out : str or Path
        Result folder: a new or empty one, or one of an earlier run, whose finished videos are kept where input,
        settings and code are the same.
    protocol : Protocol, optional
        Settings of the analysis; the defaults if not given.
    backend : str
        "auto", "cpu" or "cuda".
    scheduler : str or dask.distributed.Client
        "threads" (of this process), "local" (processes on this machine), the address of a dask scheduler, or a
        client. The workers of a remote one must see the videos and the result folder under the same paths. The
        results do not depend on it.
    workers : int, optional
        Videos, or large parts of one, handled at a time by "threads" and "local"; as many as there are cores if not
        given. Memory grows with it, and with nothing else.
    force : bool
        Make finished videos again, and drop those that are no longer in the sheet.
    block_frames : int, optional
        Frames handled at a time. It never changes a result.
    progress : callable, optional
        Called with what is being done, how much is done, and how much there is.

    Returns
    -------
    Results
        As `open_results(out)` gives it. Videos that failed are in `.failures`, each with its reason; they do not
        raise.

    Raises
    ------
    InputError
        Before any work: wrong sheet, protocol, backend, scheduler or result folder, a missing file, a video whose
        pixel size or frame interval is stated nowhere, or another run that is writing into the result folder.
    BackendError
        The backend cannot run here.
    RunError
        After work began: the results of the videos could not be pooled, or the report not be written.
    """
    started = datetime.now(UTC)
    out, protocol = _absolute(place(out)), protocol or Protocol()
    backends.check_name(backend)
    study, raw = samplesheet.read(sheet), place(sheet).read_bytes()
    _check_block(block_frames)
    known = {row.video_id for row in study}
    storage.check(out, known, force=force)  # a lock has no business in a folder that is not ours
    earlier = storage.read_json(out / "run.json") or {}
    before = {name: entry for name, entry in earlier.get("inputs", {}).items() if name in known}
    with connect(scheduler, workers) as engine:
        found = engine.resolve(backend)
        jobs = plan_videos(
            study,
            out,
            protocol,
            backend=found.backend,
            force=force,
            block_frames=block_frames,
            versions=found.libraries,
            earlier=before,
        )
        if _nothing_to_do(out, jobs, earlier, protocol):
            logger.info("nothing to do: the results of all %d videos hold", len(jobs))
            return open_results(out)
        with locked(out):
            storage.check(out, known, force=force)  # another run may have written meanwhile
            storage.begin(out, known, {**software(), "started_utc": _stamp(started), "inputs": before})
            try:
                storage.write_bytes(out / "protocol.toml", protocol.to_toml().encode())
                storage.write_bytes(out / "samplesheet.csv", raw)
                _work(jobs, out, protocol, found, engine, progress, started)
                return open_results(out)
            except ExotrackError as error:
                raise RunError(str(error)) from error
            except OSError as error:
                raise RunError(work.cannot_write(error, out)) from error


def plan(
    sheet: str | Path,
    out: str | Path,
    protocol: Protocol | None = None,
    *,
    backend: str = "auto",
    force: bool = False,
    block_frames: int | None = None,
) -> list[Job]:
    """What `run` would do with the same arguments: the headers are read, nothing is computed, nothing is written.

    Raises
    ------
    InputError, BackendError
        As `run`.
    """
    out, protocol = _absolute(place(out)), protocol or Protocol()
    study = samplesheet.read(sheet)
    _check_block(block_frames)
    storage.check(out, {row.video_id for row in study}, force=force)
    earlier = (storage.read_json(out / "run.json") or {}).get("inputs", {})
    name = backends.resolve(backend)
    return plan_videos(study, out, protocol, backend=name, force=force, block_frames=block_frames, earlier=earlier)


def _absolute(out: Path) -> Path:
    return out if is_remote(out) else out.resolve()


def _check_block(block_frames: int | None) -> None:
    if block_frames is not None and block_frames < 1:
        raise InputError(f"block_frames = {block_frames}: must be 1 or more")


def _nothing_to_do(out: Path, jobs: Sequence[Job], earlier: Mapping[str, Any], protocol: Protocol) -> bool:
    """Whether a finished folder holds just what would be made."""
    if not earlier.get("finished_utc") or any(job.kept is None for job in jobs):
        return False
    done = storage.completion(out)
    keys = {job.row.video_id: job.kept["key"] for job in jobs if job.kept is not None}
    written = all((out / name).exists() for name in ("report.html", "report.pdf", "protocol.toml", "samplesheet.csv"))
    return written and done is not None and done.get("key") == pool.key(jobs, keys, {}, protocol)


def _work(
    jobs: Sequence[Job],
    out: Path,
    protocol: Protocol,
    found: Resolved,
    engine: Threads | Cluster,
    progress: Progress | None,
    started: datetime,
) -> None:
    """Everything between the preparation of the result folder and its last file."""
    logger.info("%d videos, backend %s, %s", len(jobs), found.backend, engine.words)
    outcomes = _videos(jobs, engine, progress)
    seconds = _total(outcomes)
    failures = _failures(jobs, outcomes)
    keys = {job.row.video_id: o.key for job, o in zip(jobs, outcomes, strict=True) if isinstance(o, work.Done)}
    with work.timed(seconds, "pool"):
        pool.write(out, jobs, keys, failures, protocol, found.backend, engine, progress)
    record = {
        **software(),
        "backend": found.backend,
        "device": found.device,
        "scheduler": engine.words,
        "started_utc": _stamp(started),
        "finished_utc": _stamp(datetime.now(UTC)),
        "protocol_sha256": protocol.sha256,
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "inputs": {job.row.video_id: _input(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True)},
        "failures": failures,
    }
    storage.write_json(out / "run.json", record)
    from exotrack import report  # plotting libraries have no business on the workers, which import this module too

    report.write(out)
    storage.remove_leftovers(out)  # of workers that died meanwhile
    decided = {"key": pool.key(jobs, keys, failures, protocol), "protocol_sha256": protocol.sha256}
    storage.complete(out, {**decided, "exotrack": record["exotrack"], "code_sha256": code_sha256()}, pool.TABLES)


def _input(job: Job, outcome: work.Done | work.Failed) -> dict[str, Any]:
    """What run.json says of an input."""
    entry = {"video": job.row.video, "sha256": outcome.sha256, "bytes": outcome.size_bytes}
    if isinstance(outcome, work.Done):
        entry |= {"key": outcome.key, "seen": job.seen}
    return entry


def _videos(jobs: Sequence[Job], engine: Threads | Cluster, progress: Progress | None) -> list[work.Done | work.Failed]:
    """Analyse all videos that are not kept; outcomes in the order of the jobs."""
    outcomes: dict[str, work.Done | work.Failed] = {
        job.row.video_id: work.Done(job.kept["sha256"], job.kept["bytes"], job.kept["key"], {})
        for job in jobs
        if job.kept is not None
    }
    left = {job.row.video_id: job for job in jobs if job.kept is None}
    if outcomes:
        logger.info("%d videos are kept from an earlier run", len(outcomes))
    report = _Progress(jobs, len(outcomes), progress)
    watch = Watch(report.frames)
    counted: Counter[str] = Counter()
    lock = threading.Lock()

    def count(name: str, frames: int) -> None:
        with lock:
            counted[name] += frames
        watch(frames)

    tasks = (_task(job, partial(count, name) if engine.in_process else None) for name, job in left.items())
    for task, outcome in engine.run(tasks, watch):
        if isinstance(outcome, WorkerLost):
            reason = f"{left[task.name].row.video}: {outcome}; it may be damaged, or want more memory than there is"
            outcome = work.Failed(reason, "", None, None)
        if isinstance(outcome, work.Failed):
            logger.warning("%s failed: %s", task.name, outcome.reason)
            _note_failure(left[task.name], outcome)
        outcomes[task.name] = outcome
        if engine.in_process and counted[task.name] < task.frames:  # of a video that failed half-way
            watch(task.frames - counted[task.name])
        report.video()
    return [outcomes[job.row.video_id] for job in jobs]


def _note_failure(job: Job, failed: work.Failed) -> None:
    """Put reason and traceback where the results would be; but finished ones outlive an input that cannot be read."""
    if not failed.sha256 and (storage.completion(job.folder) or {}).get("key"):
        return
    with storage.replacing_folder(job.folder, {"key": None}) as folder:
        storage.write_bytes(folder / "error.txt", f"{failed.reason}\n\n{failed.trace}".encode())


class _Progress:
    """Tells of frames, of the megabytes that they hold, and of videos."""

    def __init__(self, jobs: Sequence[Job], kept: int, progress: Progress | None) -> None:
        self._progress = progress
        self._n_frames, self._n_videos = sum(job.n_frames for job in jobs), len(jobs)
        self._per_frame = sum(job.n_bytes for job in jobs) / max(self._n_frames, 1) / 1e6
        self._frames, self._videos = 0, kept

    def frames(self, number: int) -> None:
        self._frames += number
        if self._progress is not None:
            self._progress("frames", self._frames, self._n_frames)
            done, total = (round(n * self._per_frame) for n in (self._frames, self._n_frames))
            self._progress("MB", done, total)

    def video(self) -> None:
        self._videos += 1
        if self._progress is not None:
            self._progress("videos", self._videos, self._n_videos)


def _task(job: Job, count: work.Count | None) -> Task:
    """The graph of one video: begin, its parts side by side, finish."""

    def build(token: str) -> Delayed:
        name = f"{token}-{job.row.video_id}"
        begun = delayed(partial(work.begin, job), pure=False)(dask_key_name=f"begin-{name}")
        found = [
            delayed(partial(work.find, job, part=part, count=count), pure=False)(
                begun, dask_key_name=f"localize-{name}-{part[0]}"
            )
            for part in job.parts
        ]
        finish = delayed(partial(work.finish, job), pure=False)
        return finish(begun, *found, dask_key_name=f"finish-{name}")

    return Task(job.row.video_id, build, job.n_frames)


def _failures(jobs: Sequence[Job], outcomes: Sequence[work.Done | work.Failed]) -> dict[str, dict[str, str]]:
    """Videos that failed, each with its reason."""
    return {
        job.row.video_id: {"video": job.row.video, "reason": outcome.reason}
        for job, outcome in zip(jobs, outcomes, strict=True)
        if isinstance(outcome, work.Failed)
    }


def _total(outcomes: Sequence[work.Done | work.Failed]) -> dict[str, float]:
    """Seconds per stage, summed over the videos."""
    total: Counter[str] = Counter()
    for outcome in outcomes:
        if isinstance(outcome, work.Done):
            total.update(outcome.seconds)
    return dict(total)


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
