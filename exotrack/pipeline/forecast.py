"""What a run would take: tasks, memory and time, before it starts.

Memory follows from what the stages hold at their peaks. Time is what localization costs on this machine, measured on
simulated frames of the study's most common size, and what the other stages cost where they were measured.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np

from exotrack import backends
from exotrack.backends.contract import Backend
from exotrack.crosscheck import region
from exotrack.errors import InputError
from exotrack.localize import calibrate, localize, plan_windows
from exotrack.pipeline.planning import Job, Part
from exotrack.pipeline.schedule import Threads
from exotrack.simulate import SimulatedVideo, simulate
from exotrack.video import Video

T = TypeVar("T")

# Measured as peaks of resident memory above what was resident before a stage, with one worker on the CPU:
# 640×480 px of 8 bits × 300 and × 700, 1024×1024 × 100 (8 bits) and × 300 (12 bits), 2048×2048 of 16 bits × 60.
PROCESS_BYTES: Final = 460_000_000
"""The interpreter, the libraries and the compiled loops; 0.42 to 0.5 GB."""
REPORT_BYTES: Final = 650_000_000
"""A process that writes the report; 0.56 to 0.65 GB."""
CALIBRATE_PER_PIXEL: Final = 120
"""Bytes per pixel of a frame that learning the spot model takes beside its window."""
LOCALIZE_PER_PIXEL: Final = 60
"""Bytes per pixel of a frame that background, noise and filtered frames of a window take beside it."""

LARGEST: Final = 1024
"""Longest side of the frames on which the speed is measured, px: beyond it, time goes with the pixels."""
DENSITY: Final = 60 / (640 * 480)
"""Particles per pixel of these frames."""
SMALL: Final = 64
"""Side of the frames on which compiled loops are loaded first, px."""
DRAWN: Final = 8
"""Different frames that are simulated, and used over and over."""
SHORT_AND_LONG: Final = (25, 75)
"""Frames of the two windows from which the time per window and per frame follow."""

# Measured on one core of an AMD EPYC, on simulated videos of 100 to 700 frames.
START_S: Final = 3.0
"""To load libraries and compiled loops, per run."""
PROCESSES_S: Final = 4.0
"""To start worker processes, which load the same, per run."""
REPORT_S: Final = 0.8
"""To write the report of a few videos, per run."""
POOL_S: Final = 0.9
"""To pool distributions, per video."""
VIDEO_S: Final = 0.6
"""To link, measure, check and write, per video …"""
FRAME_S: Final = 0.0022
"""… and per frame of it."""
BYTES_PER_S: Final = 6e8
"""Reading a video twice: to hash it and to localize it."""
INJECTED: Final = 2.0
"""Time to find the detection limit, in times to localize the first window."""


@dataclass(frozen=True)
class Speed:
    """What localization costs on this machine."""

    shape: tuple[int, int]
    """Height and width of the frames it was measured on, px."""
    calibrate_s: float
    """To learn a spot model, s per pixel of a frame."""
    window_s: float
    """Background and noise of a window, s per pixel of a frame."""
    frame_s: float
    """Spots of a frame, s per pixel."""

    def localize_s(self, n_pixels: int, n_windows: int, n_frames: int) -> float:
        """Time to localize so many windows and frames in them, s."""
        return n_pixels * (n_windows * self.window_s + n_frames * self.frame_s)


@dataclass(frozen=True)
class Forecast:
    """What a run would do and what it would take."""

    n_videos: int
    """Videos to analyse."""
    n_kept: int
    """Videos whose results an earlier run has left."""
    unreadable: tuple[str, ...]
    """Why videos cannot be read, one line each; they would fail alone."""
    n_frames: int
    n_bytes: int
    """Raw pixels."""
    n_windows: int
    """Windows of the time grid, each with one background and noise map."""
    n_blocks: int
    """Blocks of frames that are processed at a time."""
    n_tasks: int
    """Tasks of dask: begin, parts and finish of each video."""
    workers: int
    worker_bytes: int
    """Most memory of a worker: that of its process, or what a thread adds to the process that all share."""
    total_bytes: int
    """Most memory in all."""
    seconds: float
    """Time of the whole run."""
    basis: str
    """What the time rests on, for the user."""


@dataclass(frozen=True)
class _Grid:
    """A readable video as the stages see it."""

    job: Job
    source: Video
    windows: tuple[Part, ...]
    operations: Backend

    @classmethod
    def of(cls, job: Job, source: Video) -> _Grid:
        windows = plan_windows(source.shape, source.dtype.itemsize, source.acquisition.frame_interval_s, job.protocol)
        return cls(job, source, windows, backends.load(job.backend))

    @property
    def n_pixels(self) -> int:
        return self.source.shape[1] * self.source.shape[2]

    @property
    def block_frames(self) -> int:
        """Frames of a block; in electrons, where the camera is known, a pixel takes four bytes."""
        itemsize = 4 if self.source.calibration is not None else self.source.dtype.itemsize
        in_flight = self.operations.IN_FLIGHT
        return self.job.block_frames or self.operations.block_frames(self.n_pixels * itemsize, in_flight)

    @property
    def n_blocks(self) -> int:
        return sum(-(-(stop - first) // self.block_frames) for first, stop in self.windows)


def forecast(
    jobs: Sequence[Job], workers: int | None = None, *, processes: bool = False, speed: Speed | None = None
) -> Forecast:
    """What a run of planned videos would take on this machine.

    Parameters
    ----------
    jobs : sequence of Job
        From `exotrack.pipeline.plan`.
    workers : int, optional
        Videos, or large parts of one, handled at a time; as many as there are cores if not given.
    processes : bool
        Whether the workers are processes, each with libraries of its own, or threads of one.
    speed : Speed, optional
        From `measure_speed`; measured if not given, which takes a second or two.

    Returns
    -------
    Forecast
        Without any video to analyse, the time is that of starting and writing the report.

    Raises
    ------
    InputError
        If `workers` is below one.

    Notes
    -----
    Of a video, memory is at its peak in one of four places: while the spot model is learned (a window and 120 bytes
    per pixel of a frame); while a window is computed (with 60 bytes per pixel; on a GPU, four windows); while spots
    are injected into the first window (twice that window); or while DDM reads its frames (two blocks of 32, and the
    cut-out three times, one copy of it in float32). Windows have up to 256 MB, half as much
    again at the end of a video. All workers are taken to be at the peak of the largest video at the same time. Tables
    of spots are left out: a spot has 50 bytes, a few times over; so is the memory of a GPU.

    Time assumes that workers share the cores without loss, and is at least that of the longest video. It leaves out
    the decoding of compressed videos. Predicted and measured, s, with one worker, while other programs kept the other
    core busy: 7 and 8, 8 and 9, 12 and 16, 9 and 12 for the single videos above, in that order; 21 and 24 for six
    videos of 640×480 px × 300 in two batches.
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers = {workers}: must be 1 or more")
    cores, workers = Threads(None).workers, Threads(workers).workers
    left = [job for job in jobs if job.kept is None]
    grids = [_Grid.of(job, job.source) for job in left if job.source is not None]
    busy = min(workers, sum(len(grid.job.parts) for grid in grids))
    largest = max((task_bytes(grid) for grid in grids), default=0)
    worker_bytes = largest + (PROCESS_BYTES if processes else 0)
    seconds = START_S + REPORT_S + (PROCESSES_S if processes else 0.0)
    if grids:
        speed = speed or measure_speed(grids)
        seconds += _work_s(grids, min(busy, cores), len(jobs), speed)
    return Forecast(
        n_videos=len(left),
        n_kept=len(jobs) - len(left),
        unreadable=tuple(job.problem for job in left if job.problem),
        n_frames=sum(grid.job.n_frames for grid in grids),
        n_bytes=sum(grid.job.n_bytes for grid in grids),
        n_windows=sum(len(grid.windows) for grid in grids),
        n_blocks=sum(grid.n_blocks for grid in grids),
        n_tasks=sum(len(job.parts) + 2 for job in left),
        workers=workers,
        worker_bytes=worker_bytes,
        total_bytes=max(PROCESS_BYTES + (workers if processes else busy) * worker_bytes, REPORT_BYTES),
        seconds=seconds,
        basis=_basis(speed if grids else None),
    )


def task_bytes(grid: _Grid) -> int:
    """Most memory that a task of a video holds at a time, beyond that of its process."""
    source, windows = grid.source, grid.windows
    itemsize, n_pixels = source.dtype.itemsize, grid.n_pixels
    frame = n_pixels * itemsize
    first = (windows[0][1] - windows[0][0]) * frame
    # Sequential videos are read in blocks: one is copied into the window while the next is decoded.
    streamed = 2 * grid.block_frames * frame if source.sequential else 0
    electrons = 4 * grid.block_frames * n_pixels if source.calibration is not None else 0
    calibrated = first + streamed + CALIBRATE_PER_PIXEL * n_pixels
    localized = _held(grid) * frame + streamed + electrons + LOCALIZE_PER_PIXEL * n_pixels
    injected = first + (streamed or first)
    frames, rows, columns = (int(s.stop - s.start) for s in region(source.shape, source.acquisition.cuts))
    compared = min(2 * 32, frames) * frame + frames * rows * columns * (2 * itemsize + 4)
    return max(calibrated, localized, injected, compared)


def _held(grid: _Grid) -> int:
    """Most frames in windows that are held at a time: those under way, and on a GPU the one that is read."""
    at_once = grid.operations.IN_FLIGHT + (grid.operations.IN_FLIGHT > 1)
    of_parts = [[b - a for a, b in grid.windows if start <= a and b <= stop] for start, stop in grid.job.parts]
    return max(sum(lengths[i : i + at_once]) for lengths in of_parts for i in range(len(lengths)))


def _work_s(grids: Sequence[_Grid], lanes: int, n_videos: int, speed: Speed) -> float:
    """Time from the first frame to the pooled distributions, s; so many tasks run at a time without loss."""
    alone, together = zip(*(_video_s(grid, speed) for grid in grids), strict=True)
    longest = max(a + t / min(lanes, len(g.job.parts)) for a, t, g in zip(alone, together, grids, strict=True))
    videos = max((sum(alone) + sum(together)) / lanes, longest)
    batches = len({grid.job.row.batch for grid in grids})
    pooled = n_videos * POOL_S / min(lanes, batches)
    return float(videos) + pooled


def _video_s(grid: _Grid, speed: Speed) -> tuple[float, float]:
    """Time that a video takes before and after its parts, and in them, s."""
    checks = grid.job.protocol.check
    first = grid.windows[0][1] - grid.windows[0][0]
    injected = INJECTED * speed.localize_s(grid.n_pixels, 1, first) if checks.detection_limit else 0.0
    after = VIDEO_S + FRAME_S * grid.job.n_frames
    alone = grid.job.n_bytes / BYTES_PER_S + grid.n_pixels * speed.calibrate_s + injected + after
    return alone, speed.localize_s(grid.n_pixels, len(grid.windows), grid.job.n_frames)


def measure_speed(grids: Sequence[_Grid]) -> Speed:
    """Localize simulated frames of the most common size: 60 spots per 640×480 px, peak signal ten times the noise."""
    kinds = Counter((g.source.shape[1:], g.source.dtype.itemsize, g.job.backend) for g in grids)
    ((height, width), itemsize, backend), _ = kinds.most_common(1)[0]
    shape = min(height, LARGEST), min(width, LARGEST)
    n_pixels = shape[0] * shape[1]
    video, _ = simulate(
        frame_shape=shape, n_frames=DRAWN, particles_per_frame=DENSITY * n_pixels, bit_depth=8 * itemsize
    )
    few, many = (SimulatedVideo(np.resize(video.frames, (n, *shape)), video.acquisition) for n in SHORT_AND_LONG)
    # Calibration of a first, tiny video loads the compiled loops; a run loads them once.
    small = SimulatedVideo(np.ascontiguousarray(video.frames[:, :SMALL, :SMALL]), video.acquisition)
    localize(small, backend=backend, model=calibrate(small, backend=backend))
    model, calibrate_s = _timed(lambda: calibrate(few, backend=backend))
    model = replace(model, still_background=True)
    _, short_s = _timed(lambda: localize(few, backend=backend, model=model))
    _, long_s = _timed(lambda: localize(many, backend=backend, model=model))
    frame_s = max(long_s - short_s, 0.0) / (len(many) - len(few))
    window_s = max(short_s - frame_s * len(few), 0.0)
    return Speed(shape, calibrate_s / n_pixels, window_s / n_pixels, frame_s / n_pixels)


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """A result and how long it took, s."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def _basis(speed: Speed | None) -> str:
    if speed is None:
        return "No video is left to analyse; the time is that of starting and of the report, where one is due."
    height, width = speed.shape
    per_frame = 1e3 * speed.frame_s * height * width
    return (
        f"The time is an estimate. Localization was measured here and now, on simulated frames of {width}×{height} px "
        f"with {round(DENSITY * height * width)} spots: {per_frame:.2g} ms per frame and core. Linking, measuring and "
        "checks are taken as they were measured during development, on a core of a server; decoding of compressed "
        "videos is left out. The memory follows from the sizes of windows and frames; tables of spots come on top."
    )
