"""The one place where stages, files, dask and progress meet.

1. `plan`: the sheet is checked and every header opened; nothing has been computed when an input is wrong.
2. `work`: each video is hashed, localized in parts, linked, measured and written; a failure is a value.
3. `pool`: from the stored tracks, the size distributions of videos, samples and batches, and their comparison.
4. The record of the run and the report.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from dask.delayed import delayed

from exotrack import backends, samplesheet, storage
from exotrack.errors import ExotrackError, InputError, RunError
from exotrack.lock import locked
from exotrack.pipeline import pool, work
from exotrack.pipeline.plan import Job, plan_videos
from exotrack.pipeline.provenance import device, software
from exotrack.pipeline.schedule import Cluster, Progress, Task, Threads, Watch, connect
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
    out, protocol = Path(out).resolve(), protocol or Protocol()
    name = backends.resolve(backend)
    study = samplesheet.read(sheet)
    if block_frames is not None and block_frames < 1:
        raise InputError(f"block_frames = {block_frames}: must be 1 or more")
    jobs = plan_videos(study, out, protocol, backend=name, force=force, block_frames=block_frames)
    known = {row.video_id for row in study}
    storage.check(out, known, force=force)  # a lock has no business in a folder that is not ours
    with connect(scheduler, workers) as engine, locked(out):
        storage.check(out, known, force=force)  # another run may have written meanwhile
        storage.begin(out, known, {**software(), "started_utc": _stamp(started)})
        storage.write_bytes(out / "protocol.toml", protocol.to_toml().encode())
        storage.write_bytes(out / "samplesheet.csv", study.path.read_bytes())
        try:
            _work(jobs, out, protocol, name, engine, progress, started)
            return open_results(out)
        except ExotrackError as error:
            raise RunError(str(error)) from error
        except OSError as error:  # a full disk, a lost share
            raise RunError(
                f"{error.filename or out}: {error.strerror or error}; what is finished is kept: remove the cause and "
                "run the same command again"
            ) from error


def _work(
    jobs: Sequence[Job],
    out: Path,
    protocol: Protocol,
    backend: str,
    engine: Threads | Cluster,
    progress: Progress | None,
    started: datetime,
) -> None:
    """Everything between the preparation of the result folder and its last file."""
    logger.info("%d videos, backend %s, %s", len(jobs), backend, engine.words)
    outcomes = _videos(jobs, engine, progress)
    seconds = _total(outcomes)
    failures = _file_failures(jobs, outcomes)
    with work.timed(seconds, "pool"):
        pool.write(out, jobs, failures, protocol, backend, engine, progress)
    record = {
        **software(),
        "backend": backend,
        "device": device(backend),
        "scheduler": engine.words,
        "started_utc": _stamp(started),
        "finished_utc": _stamp(datetime.now(UTC)),
        "protocol_sha256": protocol.sha256,
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "inputs": {
            job.row.video_id: {"video": job.row.video, "sha256": outcome.sha256, "bytes": outcome.size_bytes}
            for job, outcome in zip(jobs, outcomes, strict=True)
        },
        "failures": failures,
    }
    storage.write_json(out / "run.json", record)
    from exotrack import report  # plotting libraries have no business on the workers, which import this module too

    report.write(out)


def _videos(jobs: Sequence[Job], engine: Threads | Cluster, progress: Progress | None) -> list[work.Done | work.Failed]:
    """Analyse all videos; outcomes in the order of the jobs."""
    total, done = sum(job.n_frames for job in jobs), 0

    def advance(frames: int) -> None:
        nonlocal done
        done += frames
        if progress is not None:
            progress("frames", done, total)

    watch = Watch(advance)
    count = watch if engine.in_process else None
    outcomes = engine.compute([_task(job, count, engine.token) for job in jobs], watch)
    return [
        work.Failed(f"its worker was lost: {outcome}", "", None, None) if isinstance(outcome, Exception) else outcome
        for outcome in outcomes
    ]


def _task(job: Job, watch: Watch | None, token: str) -> Task:
    """The graph of one video: begin, its parts side by side, finish."""
    name = f"{token}-{job.row.video_id}"
    begun = delayed(partial(work.begin, job), pure=False)(dask_key_name=f"begin-{name}")
    found = [
        delayed(partial(work.find, job, part=part, count=watch), pure=False)(
            begun, dask_key_name=f"localize-{name}-{part[0]}"
        )
        for part in job.parts
    ]
    finish = delayed(partial(work.finish, job), pure=False)
    return finish(begun, *found, dask_key_name=f"finish-{name}"), job.n_frames


def _file_failures(jobs: Sequence[Job], outcomes: Sequence[work.Done | work.Failed]) -> dict[str, dict[str, str]]:
    """Videos that failed, each with its reason; the traceback goes into the video's folder."""
    failures = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome, work.Failed):
            failures[job.row.video_id] = {"video": job.row.video, "reason": outcome.reason}
            logger.warning("%s failed: %s", job.row.video_id, outcome.reason)
            with storage.replacing_folder(job.folder) as folder:
                (folder / "error.txt").write_text(f"{outcome.reason}\n\n{outcome.trace}", encoding="utf-8")
    return failures


def _total(outcomes: Sequence[work.Done | work.Failed]) -> dict[str, float]:
    """Seconds per stage, summed over the videos."""
    total: Counter[str] = Counter()
    for outcome in outcomes:
        if isinstance(outcome, work.Done):
            total.update(outcome.seconds)
    return dict(total)


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
