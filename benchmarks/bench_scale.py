"""Scale: workers, overhead per task, memory against length and number of videos, and a study of 10,000 videos.

Each row is one measurement: what, on how much, and a figure with its unit. Runs are processes of their own, so that a
peak of memory is that of one run (read from /proc: Linux). The study of 10,000 short videos takes about half an hour.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from dask.delayed import delayed
from harness import main

from exotrack import simulate
from exotrack.pipeline.schedule import Task, Watch, connect
from exotrack.video import convert, open_video

RUN = """
import json, sys, time
import exotrack
from exotrack.pipeline import plan

def peak_mb():
    with open("/proc/self/status") as status:  # the peak that getrusage tells is also that of the process before exec
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e6

if __name__ == "__main__":
    sheet, out, options, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
    protocol = exotrack.Protocol.from_dict(settings)
    started = time.perf_counter()
    jobs = plan(sheet, out, protocol)
    planned = time.perf_counter()
    marks = {}
    results = exotrack.run(
        sheet, out, protocol, progress=lambda what, *_: marks.update({what: time.perf_counter()}), **options
    )
    ended = time.perf_counter()
    print(json.dumps({
        "plan_s": planned - started, "run_s": ended - planned,
        "videos_s": marks.get("videos", planned) - planned, "peak_mb": peak_mb(),
        "seconds": results.run["seconds"], "failed": len(results.failures),
        "tasks": sum(len(job.parts) + 2 for job in jobs if job.kept is None),
    }))
"""
SHORT = {"size": {"bootstrap": 50}, "check": {"ddm": False, "piccs": False, "detection_limit": False}}
"""Settings for videos that are only many: the analysis is to cost little beside its administration."""


def measure(quick: bool) -> list[dict[str, Any]]:
    """All rows; toy sizes with `quick`."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows += _workers(folder / "workers", quick)
        rows += _end_to_end(folder / "end-to-end", quick)
        rows += _overhead(20 if quick else 1000)
        rows += _memory(folder / "memory", quick)
        rows += _many(folder / "many", n_videos=20 if quick else 10_000)
    return rows


def row(what: str, of: str, value: float, unit: str) -> dict[str, Any]:
    """One measurement."""
    return {"what": what, "of": of, "value": round(value, 4), "unit": unit}


def analyse(sheet: Path, out: Path, settings: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """A run in a fresh process: seconds to plan and to run, peak memory in MB, seconds per stage."""
    given = [json.dumps(options), json.dumps(settings or {})]
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(sheet), str(out), *given], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_study(folder: Path, n_videos: int, shape: tuple[int, int], n_frames: int, dtype: str = "uint8") -> Path:
    """OME-Zarr videos of noise and particles, all of the same simulation but turned and shifted, and their sheet."""
    folder.mkdir(parents=True)
    depth = {"bit_depth": 16, "gain_dn": 20.0} if dtype == "uint16" else {}
    short = min(n_frames, 120)
    video, _ = simulate(
        n_frames=short, frame_shape=shape, particles_per_frame=40 * shape[0] * shape[1] / 307_200, snr=12.0,
        pixel_size_um=0.3, frame_interval_s=1 / 30, exposure_s=0.02, seed=3, **depth,
    )  # fmt: skip
    frames = np.concatenate([block for _, block in video.blocks(60)])
    rows = ["video,batch,sample,pixel_size_um,fps,exposure_s"]
    for k in range(n_videos):
        array = np.lib.format.open_memmap(folder / "v.npy", "w+", frames.dtype, (n_frames, *shape))
        for first in range(0, n_frames, short):
            array[first : first + short] = np.roll(frames, 17 * k, axis=1)[: n_frames - first]
        array.flush()
        convert(open_video(folder / "v.npy", pixel_size_um=0.3, fps=30, exposure_s=0.02), folder / f"v{k}.zarr")
        rows.append(f"v{k}.zarr,B,S{k},0.3,30,0.02")
    (folder / "v.npy").unlink()
    sheet = folder / "sheet.csv"
    sheet.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return sheet


def _workers(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Strong scaling (the same study on one and two workers) and weak (half of it on one, all on two)."""
    n_videos, n_frames = (2, 60) if quick else (4, 600)
    whole = write_study(folder / "study", n_videos, (480, 640), n_frames)
    lines = whole.read_text().splitlines()
    half = whole.with_name("half.csv")
    half.write_text("\n".join(lines[: 1 + n_videos // 2]) + "\n")
    rows = []
    for scheduler in ("threads",) if quick else ("threads", "local"):
        taken = {
            (sheet.stem, workers): analyse(
                sheet, folder / f"{sheet.stem}-{scheduler}-{workers}", scheduler=scheduler, workers=workers
            )["run_s"]
            for sheet, workers in ((whole, 1), (whole, 2), (half, 1))
        }
        of = f"{n_videos} videos 640×480 uint8 × {n_frames}, {scheduler}"
        rows.append(row("strong scaling, 1 worker / 2 workers", of, taken["sheet", 1] / taken["sheet", 2], "×"))
        rows.append(row("weak scaling, half on 1 / all on 2", of, taken["half", 1] / taken["sheet", 2], "×"))
    return rows


def _end_to_end(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """A NanoSight study of five minutes from OME-Zarr: until every video is written, and until the report is."""
    n_videos, shape, n_frames = (1, (72, 128), 60) if quick else (5, (720, 1280), 1498)
    sheet = write_study(folder / "study", n_videos, shape, n_frames)
    of = f"{n_videos} videos {shape[1]}×{shape[0]} uint8 × {n_frames}, two threads"
    rows = []
    for words, settings in (("without the checks", SHORT), ("default protocol", {})):
        found = analyse(sheet, folder / words, settings, workers=2)
        rows.append(row(f"decode, localize, link, measure, write; {words}", of, found["videos_s"], "s"))
        rows.append(row(f"to the report; {words}", of, found["run_s"], "s"))
    return rows


def _overhead(n_graphs: int) -> list[dict[str, Any]]:
    """What a task costs beside its work: graphs shaped like a video's, whose three tasks do nothing."""

    def build(token: str) -> Any:
        first = delayed(len, pure=False)((), dask_key_name=f"a-{token}")
        second = delayed(abs, pure=False)(first, dask_key_name=f"b-{token}")
        return delayed(max, pure=False)(first, second, dask_key_name=f"c-{token}")

    rows = []
    for scheduler in ("threads", "local"):
        with connect(scheduler, 2) as engine:
            tasks = [Task(f"{n}", build) for n in range(n_graphs)]
            list(engine.run(tasks[:4], Watch(None)))  # processes start with the first
            started = time.perf_counter()
            list(engine.run(tasks, Watch(None)))
            each = (time.perf_counter() - started) / (3 * n_graphs)
            rows.append(row("overhead per task", f"{n_graphs} graphs of 3, {scheduler}, 2 workers", 1e3 * each, "ms"))
    return rows


def _memory(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Peak memory of a run with one worker, by length and number of the videos."""
    sizes = [((480, 640), "uint8", (300, 3000, 6000)), ((2048, 2048), "uint16", (60, 240, 480))]
    if quick:
        sizes = [((96, 128), "uint8", (60,))]
    rows = []
    for shape, dtype, lengths in sizes:
        cases = [(1, length) for length in lengths] + [(n, lengths[0]) for n in (() if quick else (4, 8))]
        for n_videos, n_frames in cases:
            place = folder / f"{shape[0]}-{n_videos}-{n_frames}"
            sheet = write_study(place, n_videos, shape, n_frames, dtype)
            found = analyse(sheet, place / "out", workers=1)
            of = f"{n_videos} video(s) {shape[1]}×{shape[0]} {dtype} × {n_frames}"
            rows.append(row("peak memory, one worker", of, found["peak_mb"], "MB"))
    return rows


def _many(folder: Path, n_videos: int) -> list[dict[str, Any]]:
    """A study of many short videos: planning, analysing, and going over it again when nothing has changed."""
    folder.mkdir(parents=True)
    video, _ = simulate(
        n_frames=30, frame_shape=(64, 64), particles_per_frame=8, snr=15, pixel_size_um=0.3, frame_interval_s=1 / 30,
        exposure_s=0.02, seed=1,
    )  # fmt: skip
    frames = np.concatenate([block for _, block in video.blocks(30)])
    lines = ["video,batch,sample,pixel_size_um,fps,exposure_s"]
    for k in range(n_videos):
        np.save(folder / f"v{k:05d}.npy", np.roll(np.rot90(frames, k % 4, (1, 2)), k % 64, axis=1))
        lines.append(f"v{k:05d}.npy,B{k // 100:03d},S{k // 10:04d},0.3,30,0.02")
    sheet = folder / "sheet.csv"
    sheet.write_text("\n".join(lines) + "\n", encoding="utf-8")
    time.sleep(3)  # a file that is younger than its time stamp can tell is hashed again
    first = analyse(sheet, folder / "out", SHORT)
    again = analyse(sheet, folder / "out", SHORT)
    of = f"{n_videos} videos 64×64 × 30"
    video_s = sum(v for stage, v in first["seconds"].items() if stage != "pool")
    return [
        row("validation of the sheet and plan, nothing done yet", of, first["plan_s"], "s"),
        row("tasks", of, first["tasks"], ""),
        row("whole run, two threads", of, first["run_s"], "s"),
        row("analysis per video, thread time", of, 1e3 * video_s / n_videos, "ms"),
        row("pooling and comparisons", of, first["seconds"]["pool"], "s"),
        row("run again, nothing changed", of, again["run_s"], "s"),
        row("… its plan alone", of, again["plan_s"], "s"),
        row("peak memory, two threads", of, first["peak_mb"], "MB"),
        row("failed", of, first["failed"] + again["failed"], ""),
    ]


if __name__ == "__main__":
    main("scale", measure)
