"""What is decided before any pixel is read, what is not even opened again, and how graphs are handed over."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from dask.delayed import delayed

import exotrack as et
from exotrack import report, storage
from exotrack.errors import RunError, VideoError
from exotrack.journal import Journal
from exotrack.pipeline import plan, pool
from exotrack.pipeline.schedule import Task, Watch, WorkerLost, connect
from exotrack.video import convert, footprint, open_header
from exotrack.video.npy import NpySource

SHORT = et.Protocol.from_dict(
    {"size": {"bootstrap": 50}, "check": {"ddm": False, "piccs": False, "detection_limit": False}}
)
LONG_AGO = 1_600_000_000


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Files count as settled at once, whatever the time of their last change of status."""
    monkeypatch.setattr("exotrack.video.footprints.SETTLED_S", -10.0)


@pytest.fixture
def sheet(tmp_path) -> Path:
    """Two short videos, written long ago."""
    video, _ = et.simulate(n_frames=40, frame_shape=(64, 64), particles_per_frame=8, snr=15, seed=1)
    frames = np.concatenate([block for _, block in video.blocks(40)])
    for k in range(2):
        np.save(tmp_path / f"v{k}.npy", np.roll(frames, 9 * k, axis=1))
        os.utime(tmp_path / f"v{k}.npy", (LONG_AGO, LONG_AGO))
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(
        "video,batch,sample,pixel_size_um,fps,exposure_s\nv0.npy,B,S,0.3,30,0.02\nv1.npy,B,S,0.3,30,0.02\n"
    )
    return sheet


@pytest.fixture
def no_report(monkeypatch):
    """The report is not looked at: two empty files stand for it."""

    def write(out: Path) -> None:
        for name in ("report.html", "report.pdf"):
            (out / name).write_bytes(b"")

    monkeypatch.setattr(report, "write", write)


def test_planning_reads_no_pixels(sheet, monkeypatch):
    def read(*_):
        raise AssertionError("a frame was read")

    monkeypatch.setattr(NpySource, "frames", read)
    jobs = plan(sheet, sheet.parent / "out", SHORT)
    assert [(job.n_frames, job.n_bytes, job.problem) for job in jobs] == [(40, 40 * 64 * 64, "")] * 2
    assert not (sheet.parent / "out").exists()


def test_what_has_not_changed_is_not_even_opened(sheet, no_report, monkeypatch):
    out = sheet.parent / "out"
    first = et.run(sheet, out, SHORT)
    monkeypatch.setattr("exotrack.pipeline.planning.videos.open_header", None)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert et.run(sheet, out, SHORT).run == first.run
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize("change", ["video", "sidecar", "sheet", "protocol", "table", "pooled", "report"])
def test_what_has_changed_is_looked_at_again(sheet, no_report, change):
    out, protocol = sheet.parent / "out", SHORT
    first = et.run(sheet, out, protocol)
    if change == "video":
        frames = np.load(sheet.parent / "v0.npy")
        np.save(sheet.parent / "v0.npy", frames[::-1])
        os.utime(sheet.parent / "v0.npy", (LONG_AGO + 1, LONG_AGO + 1))
    elif change == "sidecar":
        (sheet.parent / "v0.json").write_text('{"temperature_c": 30}')
    elif change == "sheet":
        sheet.write_text(sheet.read_text().replace("v0.npy,B", "v0.npy,A"))
    elif change == "protocol":
        protocol = et.Protocol.from_dict({**json.loads(SHORT.model_dump_json()), "link": {"gap_frames": 2}})
    elif change == "table":
        (out / "videos" / "v0" / "tracks.parquet").unlink()
    elif change == "pooled":
        (out / "batches.csv").unlink()
    else:
        (out / "report.pdf").unlink()
    time.sleep(1.1)  # run.json tells the second
    second = et.run(sheet, out, protocol)
    assert second.run["started_utc"] > first.run["started_utc"]
    whole = et.run(sheet, sheet.parent / "afresh", protocol)
    for name in ("batches.csv", "samples.csv", "videos.csv", "complete.json", "videos/v0/video.json"):
        assert (second.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_a_video_that_is_damaged_fails_when_it_is_read(sheet, no_report, monkeypatch):
    real = NpySource.frames

    def frames(self, start, stop):
        if self.path.name == "v0.npy":
            raise ValueError("no such block")
        return real(self, start, stop)

    monkeypatch.setattr(NpySource, "frames", frames)
    assert [job.problem for job in plan(sheet, sheet.parent / "out", SHORT)] == ["", ""]
    assert list(et.run(sheet, sheet.parent / "out", SHORT).failures) == ["v0"]


# Footprints ----------------------------------------------------------------------------------------------------------


def test_a_footprint_tells_that_nothing_was_written(tmp_path):
    folder = tmp_path / "v.zarr"
    (folder / "c").mkdir(parents=True)
    for name in ("zarr.json", "c/0", "c/1"):
        (folder / name).write_text(name)
        os.utime(folder / name, (LONG_AGO, LONG_AGO))
    before = footprint(folder)
    assert before is not None
    assert footprint(folder) == before
    os.utime(folder / "c" / "1", (LONG_AGO, LONG_AGO + 1))
    touched = footprint(folder)
    (folder / "c" / "1").unlink()
    fewer = footprint(folder)
    assert len({before, touched, fewer}) == 3


def test_a_footprint_is_nothing_where_it_could_mislead(tmp_path):
    video = tmp_path / "v.npy"
    assert footprint(video) is None  # missing
    video.write_bytes(b"1")
    assert footprint(video) is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exotrack.video.footprints.SETTLED_S", 2.0)
        assert footprint(video) is None  # it may be written again within the same tick of the clock
    assert footprint(video, [tmp_path / "camera.npz"]) is None  # a further file is missing
    assert footprint("http://127.0.0.1/v.zarr") is None  # a web server lists nothing


def test_patterns_and_sidecars_are_part_of_it(tmp_path):
    for name in ("a_1.tif", "a_2.tif"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (LONG_AGO, LONG_AGO))
    two = footprint(tmp_path / "a_*.tif")
    (tmp_path / "a_2.tif").unlink()
    one = footprint(tmp_path / "a_*.tif")
    single = footprint(tmp_path / "a_1.tif")
    (tmp_path / "a_1.json").write_text("{}")
    os.utime(tmp_path / "a_1.json", (LONG_AGO, LONG_AGO))
    assert None not in (two, one, single)
    assert two != one
    assert footprint(tmp_path / "a_1.tif") != single


# Graphs --------------------------------------------------------------------------------------------------------------


def test_no_more_graphs_are_made_than_are_under_way():
    made, ended, most = [], [], []

    def build(token: str):
        made.append(token)
        most.append(len(made) - len(ended))
        return delayed(time.sleep, pure=False)(0.002, dask_key_name=token)

    with connect("threads", 3) as engine:
        tasks = (Task(f"{n}", build) for n in range(60))
        for task, result in engine.run(tasks, Watch(None)):
            ended.append(task)
            assert result is None
    assert len(ended) == 60
    assert max(most) <= 2 * 3  # those that ended and were not yet handed on count, too


def test_an_error_ends_the_others():
    started = threading.Event()

    def fail():
        started.wait(5)
        raise ZeroDivisionError

    slow = Task("slow", lambda token: delayed(started.set, pure=False)(dask_key_name=token))
    bad = Task("bad", lambda token: delayed(fail, pure=False)(dask_key_name=token))
    with connect("threads", 2) as engine, pytest.raises(ZeroDivisionError):
        list(engine.run([slow, bad], Watch(None)))


def test_what_crashed_the_process_is_tried_once_more_and_then_not(tmp_path, monkeypatch):
    path = tmp_path / "journal"
    monkeypatch.setenv("EXOTRACK_JOURNAL", str(path))
    task = Task("v1", lambda token: delayed(int, pure=False)("7", dask_key_name=token))
    other = Task("v2", lambda token: delayed(int, pure=False)("8", dask_key_name=token))

    def results() -> dict[str, object]:
        with connect("threads", 2) as engine:
            return {task.name: result for task, result in engine.run([task, other], Watch(None))}

    path.write_text("begin v0\nend v0\nbegin v1\n")
    assert Journal(path).under_way == {"v1"}
    Journal(path).crashed()
    assert Journal(path).crashes("v1") == 1
    assert list(results().items()) == [("v2", 8), ("v1", 7)]  # last, alone
    path.write_text("begin v1\ncrash\nbegin v1\ncrash\n")
    found = results()
    assert found["v2"] == 8
    assert isinstance(found["v1"], WorkerLost)


def test_a_result_folder_at_a_url_needs_no_rename(sheet, no_report):
    out = "memory://results"
    results = et.run(sheet, out, SHORT, workers=1)
    assert storage.completion(results.path / "videos" / "v0")["key"] == results.run["inputs"]["v0"]["key"]
    assert len(et.open_results(out).particles()) > 0
    assert "complete.json" in {path.name for path in results.path.iterdir()}


# What the results outlive --------------------------------------------------------------------------------------------


def test_finished_results_outlive_an_input_that_cannot_be_read(sheet, no_report, monkeypatch):
    out = sheet.parent / "out"
    first = et.run(sheet, out, SHORT)
    kept = {p: p.read_bytes() for p in (out / "videos" / "v0").iterdir()}
    os.utime(sheet.parent / "v0.npy", (LONG_AGO, LONG_AGO + 5))  # so that it is looked at
    with monkeypatch.context() as patch:
        patch.setattr("exotrack.pipeline.planning.videos.open_header", _refuse)
        assert list(et.run(sheet, out, SHORT).failures) == ["v0"]
    assert {p: p.read_bytes() for p in (out / "videos" / "v0").iterdir()} == kept
    assert (et.run(sheet, out, SHORT).path / "batches.csv").read_bytes() == (first.path / "batches.csv").read_bytes()


_open_header = open_header


def _refuse(path, **more):
    if Path(path).name != "v0.npy":
        return _open_header(path, **more)
    raise VideoError(f"{path}: permission denied; give this user read access to it")


def test_results_that_changed_under_way_are_not_pooled(sheet, no_report, monkeypatch):
    real = pool.write

    def write(out, jobs, keys, *rest):
        real(out, jobs, {**keys, "v0": "another"}, *rest)

    monkeypatch.setattr(pool, "write", write)
    with pytest.raises(RunError, match=r"v0: was changed while the run was under way; run the same command again"):
        et.run(sheet, sheet.parent / "out", SHORT)


def test_a_worker_with_other_code_is_not_trusted(sheet, no_report, monkeypatch):
    monkeypatch.setattr("exotrack.pipeline.work.code_sha256", lambda: "other")
    with pytest.raises(RunError, match="a worker runs other code"):
        et.run(sheet, sheet.parent / "out", SHORT)


def test_a_linked_folder_is_part_of_a_video(tmp_path):
    source = tmp_path / "v.npy"
    np.save(source, np.arange(4 * 32 * 32, dtype=np.uint16).reshape(4, 32, 32))
    before = convert(et.open_video(source, pixel_size_um=0.3, fps=30), tmp_path / "v.zarr").sha256()
    shutil.move(tmp_path / "v.zarr" / "0", tmp_path / "elsewhere")
    (tmp_path / "v.zarr" / "0").symlink_to(tmp_path / "elsewhere")
    linked = et.open_video(tmp_path / "v.zarr")
    assert linked.sha256() == before
    shard = next(path for path in (tmp_path / "elsewhere" / "c").rglob("*") if path.is_file())
    shard.write_bytes(shard.read_bytes()[::-1])
    assert linked.sha256() != before


def test_a_url_that_cannot_be_asked_has_no_footprint():
    assert footprint("nonsense://a/v.zarr") is None
    assert footprint("file:///nowhere/v.npy") is None


def test_an_interruption_ends_what_has_not_begun():
    begun = []

    def build(token: str):
        many = [delayed(_slow, pure=False)(begun, dask_key_name=f"{n}-{token}") for n in range(100)]
        return delayed(len, pure=False)(many, dask_key_name=f"all-{token}")

    with connect("threads", 2) as engine:
        quick = Task("quick", lambda token: delayed(int, pure=False)("1", dask_key_name=token))
        found = engine.run([quick, Task("long", build)], Watch(None))
        next(found)
        with pytest.raises(KeyboardInterrupt):
            found.throw(KeyboardInterrupt)  # as Ctrl-C does while it waits
    assert len(begun) < 50


def _slow(begun: list[int]) -> None:
    begun.append(1)
    time.sleep(0.02)
