"""Whatever dies, nothing is lost and nothing half-done counts: the same command again gives the same bytes."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import exotrack as et
from exotrack import report
from exotrack.errors import RunError
from exotrack.pipeline.schedule import connect

QUICK = "[size]\nbootstrap = 50\n[check]\nddm = false\npiccs = false\ndetection_limit = false\n"
N_VIDEOS = 4
TIMES = {"run.json", "report.html", "report.pdf"}
"""Files that state when the run was."""


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A sample sheet of short videos in two batches, and a protocol that spends little time on them."""
    folder = tmp_path_factory.mktemp("small")
    rows = ["video,batch,sample,pixel_size_um,fps,exposure_s"]
    for k in range(N_VIDEOS):
        video, _ = et.simulate(
            n_frames=60, frame_shape=(96, 96), particles_per_frame=15, snr=15, seed=k, pixel_size_um=0.3,
            frame_interval_s=1 / 30, exposure_s=0.02,
        )  # fmt: skip
        np.save(folder / f"v{k}.npy", np.concatenate([block for _, block in video.blocks(60)]))
        rows.append(f"v{k}.npy,B{k % 2},S{k},0.3,30,0.02")
    (folder / "sheet.csv").write_text("\n".join(rows) + "\n")
    (folder / "p.toml").write_text(QUICK)
    return folder / "sheet.csv"


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory) -> Path:
    """The result of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert run(small, out).returncode == 0
    return out


def command(sheet: Path, out: Path | str, *options: str) -> list[str]:
    protocol = str(sheet.parent / "p.toml")
    return [sys.executable, "-m", "exotrack", "run", str(sheet), "--out", str(out), "--protocol", protocol, *options]


def run(sheet: Path, out: Path | str, *options: str, **more) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(sheet, out, *options), capture_output=True, text=True, timeout=300, **more)


def same_bytes(out: Path, whole: Path, tmp_path: Path) -> None:
    """Every file is equal; the reports are once the times of the run are."""
    found, expected = (
        {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in (out, whole)
    )
    assert set(found) == set(expected)
    assert [name for name in expected if name not in TIMES and found[name] != expected[name]] == []
    copy = tmp_path / "with-times-of-whole"
    shutil.copytree(out, copy)
    shutil.copy(whole / "run.json", copy / "run.json")
    report.write(copy)
    assert (copy / "report.html").read_bytes() == (whole / "report.html").read_bytes()
    assert (copy / "report.pdf").read_bytes() == (whole / "report.pdf").read_bytes()


# Killed --------------------------------------------------------------------------------------------------------------


def test_a_run_killed_at_ten_moments_goes_on_to_the_same_bytes(small, whole, tmp_path):
    out, draw = tmp_path / "out", random.Random(20)
    usual = whole.stat().st_mtime - (whole / "protocol.toml").stat().st_mtime + 3.0  # with three seconds to start
    killed = 0
    for _ in range(10):
        going = subprocess.Popen(command(small, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            going.wait(draw.uniform(0.2, 0.9) * usual)
            shutil.rmtree(out)  # it was done before its moment: from the start again
        except subprocess.TimeoutExpired:
            going.send_signal(signal.SIGKILL)
            going.wait()
            killed += 1
    assert killed >= 5
    assert run(small, out).returncode == 0
    same_bytes(out, whole, tmp_path)


def test_workers_killed_at_five_moments_do_not_change_a_byte(small, whole, tmp_path):
    from distributed import Client, LocalCluster

    draw, out = random.Random(5), tmp_path / "out"
    failures: list[BaseException] = []

    def analyse() -> None:
        try:
            et.run(small, out, et.Protocol.from_toml(small.parent / "p.toml"), scheduler=client)
        except BaseException as error:
            failures.append(error)

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        going = threading.Thread(target=analyse)
        going.start()
        while not (out / "run.json").exists():
            time.sleep(0.05)
        for _ in range(5):
            time.sleep(draw.uniform(0.2, 1.5))
            pids = [worker.pid for worker in cluster.workers.values() if worker.pid]
            if pids:
                os.kill(draw.choice(pids), signal.SIGKILL)
        going.join(240)
        assert not going.is_alive()
        assert not failures
        et.run(small, out, et.Protocol.from_toml(small.parent / "p.toml"), scheduler=client)
    same_bytes(out, whole, tmp_path)


def test_workers_that_died_just_now_are_waited_for():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        os.kill(cluster.workers[0].pid, signal.SIGKILL)
        with connect(client, None) as engine:
            assert engine.resolve("cpu").backend == "cpu"


def test_what_a_dead_worker_left_is_gone_when_the_run_ends(small, whole, tmp_path):
    out = tmp_path / "out"

    def progress(what: str, done: int, total: int) -> None:
        left = out / "videos" / ".tmp-0123-v0"
        left.mkdir(exist_ok=True)
        (left / "tracks.parquet").write_bytes(b"half of it")

    et.run(small, out, et.Protocol.from_toml(small.parent / "p.toml"), progress=progress)
    same_bytes(out, whole, tmp_path)


def test_a_lost_scheduler_is_said_and_the_run_goes_on_elsewhere(small, whole, tmp_path):
    start = textwrap.dedent("""
        import sys, time
        from distributed import LocalCluster
        if __name__ == "__main__":
            cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50)
            print(cluster.scheduler_address, flush=True)
            time.sleep(300)
    """)
    (tmp_path / "cluster.py").write_text(start)
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, str(tmp_path / "cluster.py")], stdout=subprocess.PIPE, text=True) as cluster:
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        environment = {**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s"}
        going = subprocess.Popen(
            command(small, out, "--scheduler", address), stderr=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(300):
            if list(out.glob("videos/v*")):
                break
            time.sleep(0.1)
        cluster.kill()
        _, told = going.communicate(timeout=120)
    assert going.returncode == 1
    assert f"dask scheduler {address}: the connection to it was lost" in told
    assert "run the same command again" in " ".join(told.split())
    assert run(small, out).returncode == 0
    same_bytes(out, whole, tmp_path)


def test_ctrl_c_leaves_a_folder_that_goes_on(small, whole, tmp_path):
    out = tmp_path / "out"
    going = subprocess.Popen(command(small, out), stderr=subprocess.PIPE, text=True)
    for _ in range(300):
        if list(out.glob("videos/v*")):
            break
        time.sleep(0.05)
    going.send_signal(signal.SIGINT)
    _, told = going.communicate(timeout=60)
    assert going.returncode == 130
    assert "interrupted; finished videos are kept" in told
    assert not (out / ".lock").exists()
    assert run(small, out).returncode == 0
    same_bytes(out, whole, tmp_path)


# A decoder that crashes ----------------------------------------------------------------------------------------------

POISON = """
import os
from exotrack.video import npy
_frames = npy.NpySource.frames
def frames(self, start, stop):
    if self.path.name == "v1.npy":
        with open(os.environ["POISON_LOG"], "a") as log:
            log.write("x")
        os.abort()
    return _frames(self, start, stop)
npy.NpySource.frames = frames
"""


@pytest.mark.parametrize("scheduler", ["threads", "local"])
def test_a_crashing_decoder_is_tried_once_more_and_takes_no_other_down(small, whole, tmp_path, scheduler):
    (tmp_path / "sitecustomize.py").write_text(POISON)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        "POISON_LOG": str(tmp_path / "log"),
    }
    done = run(small, tmp_path / "out", "--scheduler", scheduler, "--workers", "2", env=environment)
    assert done.returncode == 1, done.stderr
    assert (tmp_path / "log").read_text() == "xx"
    results = et.open_results(tmp_path / "out")
    assert list(results.failures) == ["v1"]
    assert "v1.npy" in done.stderr
    for name in ("v0", "v2", "v3"):
        for file in (whole / "videos" / name).iterdir():
            assert (results.path / "videos" / name / file.name).read_bytes() == file.read_bytes()
    assert run(small, tmp_path / "out").returncode == 0  # without the poison
    same_bytes(tmp_path / "out", whole, tmp_path)


# No room, no access --------------------------------------------------------------------------------------------------


@pytest.fixture
def little_room(tmp_path) -> Iterator[Path]:
    """A file system with room for a part of the results."""
    folder = tmp_path / "little"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no command mount")
    if done.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(small, whole, little_room, tmp_path):
    out = little_room / "out"
    done = run(small, out, "--workers", "1")
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert "run the same command again" in " ".join(done.stderr.split())
    kept = {p: p.read_bytes() for p in out.glob("videos/v*/*")}
    assert kept
    assert not json.loads((out / "run.json").read_text())["finished_utc"]
    subprocess.run(["mount", "-o", "remount,size=100m", str(little_room)], check=True)
    assert run(small, out).returncode == 0
    assert all(path.read_bytes() == content for path, content in kept.items())
    same_bytes(out, whole, tmp_path)


def test_a_truncated_video_fails_alone_until_it_is_whole(small, whole, tmp_path):
    video, out = small.parent / "v2.npy", tmp_path / "out"
    content = video.read_bytes()
    try:
        video.write_bytes(content[: len(content) // 2])
        done = run(small, out)
    finally:
        video.write_bytes(content)
    assert done.returncode == 1
    assert list(et.open_results(out).failures) == ["v2"]
    assert "v2.npy" in done.stderr
    assert run(small, out).returncode == 0
    same_bytes(out, whole, tmp_path)


MID_RUN = """
import os, sys
import exotrack as et
sheet, out, last = sys.argv[1:]
def forbid(what, done, total):
    if what == "videos" and done == 1:
        os.chmod(last, 0)
protocol = et.Protocol.from_toml(os.path.join(os.path.dirname(sheet), "p.toml"))
results = et.run(sheet, out, protocol, workers=1, progress=forbid)
print(dict(results.failures))
"""


def test_a_video_that_may_no_longer_be_read_fails_alone(small, tmp_path):
    """Access is taken away while the run is under way; the superuser gives up the right to read everything first."""
    shutil.copytree(small.parent, tmp_path / "study")
    sheet, out, last = (tmp_path / name for name in ("study/sheet.csv", "out", "study/v3.npy"))
    script = [sys.executable, "-c", MID_RUN, str(sheet), str(out), str(last)]
    if os.getuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("the superuser may read everything, and setpriv is not installed")
        script = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *script]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    results = et.open_results(out)
    assert list(results.failures) == ["v3"]
    assert "permission denied" in results.failures["v3"]["reason"]
    assert list(results.videos["video_id"]) == ["v0", "v1", "v2"]
    kept = {p: p.read_bytes() for name in ("v0", "v1", "v2") for p in (out / "videos" / name).iterdir()}
    last.chmod(0o644)
    assert not et.run(sheet, out, et.Protocol.from_toml(sheet.parent / "p.toml")).failures
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_a_run_that_cannot_go_on_is_an_error(small, tmp_path, monkeypatch):
    from exotrack import storage

    real, numbers = storage.replacing_folder, itertools.count()

    def full(path, record):
        if next(numbers) == 2:
            raise OSError(28, "No space left on device", str(path))
        return real(path, record)

    monkeypatch.setattr(storage, "replacing_folder", full)
    with pytest.raises(RunError, match=r"No space left on device.*run the same command again"):
        et.run(small, tmp_path / "out", et.Protocol.from_toml(small.parent / "p.toml"), workers=1)
    assert len(list((tmp_path / "out" / "videos").iterdir())) == 2


# Where it runs -------------------------------------------------------------------------------------------------------


def test_threads_processes_and_a_cluster_give_the_same_bytes(small, whole, tmp_path):
    from distributed import LocalCluster

    assert run(small, tmp_path / "local", "--scheduler", "local", "--workers", "2").returncode == 0
    same_bytes(tmp_path / "local", whole, tmp_path / "a")
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        done = run(small, tmp_path / "address", "--scheduler", cluster.scheduler_address)
    assert done.returncode == 0, done.stderr
    same_bytes(tmp_path / "address", whole, tmp_path / "b")
