"""What a run would take, against closed forms: memory by what the stages hold, time by a speed that is given."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exotrack import pipeline
from exotrack.acquisition import Acquisition
from exotrack.errors import InputError
from exotrack.localize import plan_windows
from exotrack.pipeline import forecast as module
from exotrack.pipeline.forecast import Forecast, Speed, forecast
from exotrack.pipeline.planning import Job, group
from exotrack.protocol import Protocol

SPEED = Speed((480, 640), calibrate_s=1e-6, window_s=2e-7, frame_s=2e-9)
MB256 = 256 * 2**20


@dataclass(frozen=True)
class Source:
    """The header of a video."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    sequential: bool = False
    calibration: Any = None
    acquisition: Acquisition = field(
        default_factory=lambda: Acquisition(pixel_size_um=0.3, frame_interval_s=1 / 30, exposure_s=0.02)
    )


@dataclass(frozen=True)
class Row:
    """A row of a sample sheet."""

    video_id: str = "a"
    batch: str = "B"


def job(shape: tuple[int, int, int], dtype: type = np.uint8, *, sequential: bool = False, **other: Any) -> Job:
    """A job as `plan_videos` makes it."""
    source: Any = Source(shape, np.dtype(dtype), sequential)
    frame = shape[1] * shape[2] * source.dtype.itemsize
    windows = plan_windows(shape, source.dtype.itemsize, 1 / 30)
    known = {
        "row": Row(), "source": source, "problem": "", "protocol": Protocol(), "backend": "cpu", "folder": Path("a"),
        "parts": ((0, shape[0]),) if sequential else group(windows, frame, 100_000_000),
        "force": False, "block_frames": None, "code_sha256": "", "seen": None, "kept": None,
    }  # fmt: skip
    return Job(**{**known, **other})


def told(*jobs: Job, workers: int = 1, **other: Any) -> Forecast:
    return forecast(jobs, workers, speed=SPEED, **other)


def test_what_would_be_done_is_counted():
    long, short = job((7490, 480, 640)), job((50, 64, 64))
    lost = replace(short, source=None, parts=(), problem="b.avi: no video")
    done = replace(lost, problem="", kept={"key": "k"})
    plan = told(long, short, lost, done)
    assert (plan.n_videos, plan.n_kept, plan.unreadable) == (3, 1, ("b.avi: no video",))
    assert plan.n_frames == 7540
    assert plan.n_bytes == 7490 * 480 * 640 + 50 * 64 * 64
    assert plan.n_windows == 25 + 1  # of 300 frames; the last one has 290
    assert plan.n_blocks == 300 + 2
    assert plan.n_tasks == (len(long.parts) + 2) + (1 + 2) + 2
    assert told(replace(short, block_frames=7)).n_blocks == 8


def test_memory_of_a_video_of_large_frames_is_that_of_learning_its_spots():
    plan = told(job((32, 2048, 2048), np.uint16))
    assert plan.worker_bytes == MB256 + module.CALIBRATE_PER_PIXEL * 2048**2


def test_memory_is_bounded_however_long_the_video_is():
    memory = [told(job((n, 480, 640), sequential=True)).worker_bytes for n in (600, 6000, 60000)]
    assert memory[0] <= memory[1] == memory[2]
    # A window of 300 frames, two blocks of 25, and the maps.
    localized = (300 + 50) * 480 * 640 + module.LOCALIZE_PER_PIXEL * 480 * 640
    compared = 64 * 480 * 640 + 512 * 256 * 256 * 6
    assert memory[1] == max(localized, compared)


def test_a_long_last_window_counts():
    """Of 128-frame windows of 256 MB, a remainder below half of one makes the last one longer."""
    video = job((128 * 3 + 60, 1024, 1024), np.uint16, sequential=True)
    windows = plan_windows(video.source.shape, 2, 1 / 30)
    assert [b - a for a, b in windows] == [128, 128, 188]
    frame = 2 * 1024**2
    localized = (188 + 50) * frame + module.LOCALIZE_PER_PIXEL * 1024**2
    compared = 64 * frame + 444 * 256 * 256 * 8
    assert told(video).worker_bytes == max(localized, compared)
    assert module._held(module._Grid.of(video, video.source)) == 188
    apart = replace(video, parts=windows)  # one window per part: no second one is read meanwhile
    assert module._held(module._Grid.of(apart, video.source)) == 188


def test_memory_grows_with_the_workers_that_have_work():
    video = job((300, 480, 640))
    one = told(video).worker_bytes
    assert told(video, workers=8).total_bytes == max(module.PROCESS_BYTES + one, module.REPORT_BYTES)
    four = told(*[video] * 4, workers=3)
    assert four.worker_bytes == one
    assert four.total_bytes == module.PROCESS_BYTES + 3 * one
    apart = told(*[video] * 4, workers=3, processes=True)
    assert apart.worker_bytes == module.PROCESS_BYTES + one
    assert apart.total_bytes == 4 * module.PROCESS_BYTES + 3 * one


def test_a_calibrated_camera_takes_room_for_electrons():
    plain = job((300, 480, 640), sequential=True)
    known = replace(plain, source=replace(plain.source, calibration="maps"))
    sizes = [module.task_bytes(module._Grid.of(each, each.source)) for each in (plain, known)]
    assert sizes[0] <= sizes[1] <= sizes[0] + 100 * 480 * 640


def test_time_is_the_sum_of_the_stages():
    unchecked = Protocol.from_dict({"check": {"detection_limit": False}})
    video = job((600, 480, 640), protocol=unchecked)
    n = 480 * 640
    localized = n * (2 * SPEED.window_s + 600 * SPEED.frame_s)
    once = n * SPEED.calibrate_s + 600 * n / module.BYTES_PER_S + module.VIDEO_S + 600 * module.FRAME_S
    fixed = module.START_S + module.REPORT_S
    assert told(video).seconds == pytest.approx(fixed + module.POOL_S + localized + once)
    injected = module.INJECTED * n * (SPEED.window_s + 300 * SPEED.frame_s)
    assert told(job((600, 480, 640))).seconds == pytest.approx(fixed + module.POOL_S + localized + once + injected)
    assert told(*[video] * 5).seconds == pytest.approx(fixed + 5 * (module.POOL_S + localized + once))


def test_workers_share_videos_but_not_a_sequential_one(monkeypatch):
    monkeypatch.setattr(module, "Threads", lambda workers: type("", (), {"workers": workers or 4}))
    whole = job((9000, 480, 640), sequential=True)
    fixed = module.START_S + module.REPORT_S + module.POOL_S
    alone = told(whole).seconds - fixed
    assert told(whole, workers=4).seconds - fixed == pytest.approx(alone)
    parts = job((9000, 480, 640))
    assert 0.25 * alone < told(parts, workers=4).seconds - fixed < alone
    fixed += 3 * module.POOL_S
    assert told(*[whole] * 4, workers=4).seconds - fixed == pytest.approx(alone)
    assert told(*[whole] * 4, workers=400).seconds - fixed == pytest.approx(alone)  # on four cores


def test_nothing_to_do():
    plan = told(replace(job((9, 64, 64)), source=None, parts=(), kept={"key": "k"}))
    assert (plan.n_videos, plan.n_frames, plan.n_tasks, plan.worker_bytes) == (0, 0, 0, 0)
    assert plan.total_bytes == module.REPORT_BYTES
    assert "No video is left" in plan.basis
    assert forecast([], 1).n_videos == 0


def test_workers_below_one():
    with pytest.raises(InputError, match="workers = 0: must be 1 or more"):
        told(workers=0)


def test_the_speed_of_this_machine_is_measured(study):
    """Four videos of 128×160 px; only that the figures are those of this size, and positive."""
    jobs = pipeline.plan(study, study.parent / "nowhere")
    plan = forecast(jobs, 1)
    assert "160×128 px" in plan.basis
    grids = [module._Grid.of(each, each.source) for each in jobs if each.source is not None]
    speed = module.measure_speed(grids)
    assert speed.shape == (128, 160)
    assert min(speed.frame_s, speed.window_s) >= 0.0
    assert speed.calibrate_s > 0.0
    assert plan.seconds > module.START_S
    assert not (study.parent / "nowhere").exists()


def test_large_frames_are_measured_on_a_part_of_them(monkeypatch):
    """The measurement of frames of 20 megapixels would take as much memory as the run."""
    made = []

    def simulated(**settings: Any) -> Any:
        made.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "simulate", simulated)
    video = job((40, 4000, 5000), np.uint16)
    with pytest.raises(KeyboardInterrupt):
        forecast([job((9, 64, 64)), video, video], 1)
    assert made[0]["frame_shape"] == (module.LARGEST, module.LARGEST)
    assert made[0]["bit_depth"] == 16
