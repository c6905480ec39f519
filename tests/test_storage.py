"""Result folder: whole or absent, reproducible, and readable back."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exotrack import lock, storage
from exotrack.errors import InputError
from exotrack.storage import files
from exotrack.tables import LinkSummary, Localizations, Particles, Tracks


def localizations(n: int) -> Localizations:
    rng = np.random.default_rng(n)
    values = {name: rng.integers(0, 50, n).astype(spec["dtype"]) for name, spec in Localizations.columns().items()}
    return Localizations(**values)


def folder_of_one_video(out: Path) -> None:
    storage.begin(out, {"v1"}, {"exotrack": "0"})
    tables = {"localizations": localizations(7), "tracks": Tracks.empty(), "particles": Particles.empty()}
    with storage.replacing_folder(out / "videos" / "v1", {"key": "k"}) as folder:
        for name, table in tables.items():
            storage.write_table(folder / f"{name}.parquet", table, {})
        storage.write_json(
            folder / "video.json",
            {"video_id": "v1", "batch": "B", "sample": "S", "sheet": {"donor": "7"}, "counts": {"tracks": 0}},
        )
    row = {"video_id": "v1", "batch": "B", "sample": "S", "role": "sample", "donor": "7", "tracks": 0, "quality": ""}
    storage.write_csv(out / "videos.csv", pd.DataFrame([row]))
    inputs = {"v1": {"video": "v1.avi"}, "v2": {"video": "v2.avi"}}
    failures = {"v2": {"video": "v2.avi", "reason": "it is truncated"}}
    storage.write_json(
        out / "run.json", {"exotrack": "0", "finished_utc": "2026-01-01", "inputs": inputs, "failures": failures}
    )


def folder_without_rows(place: Path, record: dict) -> None:
    with storage.replacing_folder(place, {}) as folder:
        for name, kind in storage.VIDEO_TABLES.items():
            storage.write_table(folder / f"{name}.parquet", kind.empty(), {})
        storage.write_json(folder / "video.json", record)


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "a.json"
    storage.write_json(target, {"version": 1})
    with suppress(KeyboardInterrupt), storage.replacing(target) as beside:
        beside.write_text("half")
        raise KeyboardInterrupt
    assert json.loads(target.read_text()) == {"version": 1}
    assert list(tmp_path.iterdir()) == [target]


def test_an_interrupted_folder_leaves_the_old_folder_and_no_other(tmp_path):
    target = tmp_path / "v1"
    with storage.replacing_folder(target, {}) as folder:
        (folder / "a").write_text("old")
    with suppress(KeyboardInterrupt), storage.replacing_folder(target, {}) as folder:
        (folder / "a").write_text("new")
        raise KeyboardInterrupt
    assert (target / "a").read_text() == "old"
    with storage.replacing_folder(target, {}) as folder:
        (folder / "b").write_text("new")
    assert sorted(p.name for p in target.iterdir()) == ["b", "complete.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["v1"]


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    folder_of_one_video(tmp_path / "out")
    (tmp_path / "out" / "videos" / ".tmp-v2").mkdir()
    (tmp_path / "out" / ".tmp-1-run.json").write_text("half")
    storage.check(tmp_path / "out", {"v1"}, force=False)
    storage.begin(tmp_path / "out", {"v1"}, {"exotrack": "0"})
    assert [p.name for p in (tmp_path / "out" / "videos").iterdir()] == ["v1"]
    assert not list((tmp_path / "out").glob(".tmp*"))


def lock_of(pid: object, host: str, **more: object) -> str:
    return json.dumps({"pid": pid, "host": host, "since": "2026-01-01T00:00:00+00:00", **more})


def test_a_locked_folder_is_ours_alone(tmp_path):
    out = tmp_path / "out"
    with lock.locked(out):
        held = json.loads((out / lock.LOCK).read_text())
        assert (held["pid"], held["host"]) == (os.getpid(), socket.gethostname())
        words = rf"another run \(pid {held['pid']} on {held['host']}, since .*\) .* or remove \.lock if it is gone"
        with pytest.raises(InputError, match=words), lock.locked(out):
            pass
        storage.check(out, {"v1"}, force=False)  # the lock is no foreign file
        storage.begin(out, {"v1"}, {"exotrack": "0"})
        assert (out / lock.LOCK).is_file()
    assert not (out / lock.LOCK).exists()
    with suppress(KeyboardInterrupt), lock.locked(out):
        raise KeyboardInterrupt
    assert not (out / lock.LOCK).exists()


def test_the_lock_of_a_dead_run_is_taken_over(tmp_path):
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    (tmp_path / lock.LOCK).write_text(lock_of(int(process.stdout), socket.gethostname()))
    with lock.locked(tmp_path):
        assert json.loads((tmp_path / lock.LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system does not say when a process started")
def test_a_number_that_another_process_bears_now_is_a_dead_run(tmp_path):
    (tmp_path / lock.LOCK).write_text(lock_of(os.getpid(), socket.gethostname(), born="1"))
    with lock.locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", ["", "{", "[]", lock_of(1, "elsewhere"), lock_of("x", socket.gethostname()), lock_of(0, "")]
)
def test_a_lock_that_may_be_alive_is_left_alone(tmp_path, content):
    (tmp_path / lock.LOCK).write_text(content)
    with pytest.raises(InputError, match="another run"), lock.locked(tmp_path):
        pass
    assert (tmp_path / lock.LOCK).read_text() == content


def test_a_lock_that_was_faster_is_given_back(tmp_path, monkeypatch):
    dead, live = lock_of(-1, "here"), lock_of(1, "elsewhere")
    (tmp_path / lock.LOCK).write_text(dead)

    def lives(_):
        (tmp_path / lock.LOCK).write_text(live)
        return False

    monkeypatch.setattr(lock.socket, "gethostname", lambda: "here")
    monkeypatch.setattr(lock, "_lives", lives)
    with pytest.raises(InputError, match="pid 1 on elsewhere"), lock.locked(tmp_path):
        pass
    assert (tmp_path / lock.LOCK).read_text() == live


def test_a_removed_lock_does_not_cost_the_next_run_its_own(tmp_path):
    with lock.locked(tmp_path):
        (tmp_path / lock.LOCK).write_text(lock_of(1, "elsewhere"))
    assert (tmp_path / lock.LOCK).is_file()


def test_a_folder_that_is_not_ours_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not a result folder"):
        storage.check(tmp_path, {"v1"}, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="not a folder"):
        storage.check(tmp_path / "thesis.txt", {"v1"}, force=True)
    with pytest.raises(InputError, match=r"no run\.json"):
        storage.open_results(tmp_path)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    )
)
def test_json_is_strict_whatever_the_values(value):
    plain = files.plain({"value": value})
    text = json.dumps(plain, allow_nan=False)
    assert json.loads(text) == plain


def test_numpy_values_become_plain(tmp_path):
    value = {"a": np.float32(1.5), "b": np.arange(2), "c": (np.int64(3), np.nan), "d": Path("x"), "e": float("inf")}
    storage.write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1.5, "b": [0, 1], "c": [3, None], "d": "x", "e": None}


def test_tables_read_back_with_units_and_provenance(tmp_path):
    table = localizations(100)
    storage.write_table(tmp_path / "a.parquet", table, {"protocol_sha256": "abc"})
    back = storage.read_table(tmp_path / "a.parquet", Localizations)
    for name in Localizations.columns():
        np.testing.assert_array_equal(getattr(back, name), getattr(table, name))
    schema = pq.read_schema(tmp_path / "a.parquet")
    assert schema.field("y").metadata[b"unit"] == b"px"
    assert json.loads(schema.metadata[b"exotrack"]) == {"protocol_sha256": "abc"}


def test_equal_tables_are_equal_bytes(tmp_path):
    for name in ("a", "b"):
        storage.write_table(tmp_path / name, localizations(5000), {"z": 1, "a": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("content", [None, b"", b"PAR1 not really"])
def test_a_damaged_table_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read"):
        storage.read_table(tmp_path / "a.parquet", Localizations)


def test_results_read_back(tmp_path):
    out = tmp_path / "out"
    folder_of_one_video(out)
    results = storage.open_results(out)
    assert len(results.localizations("v1")) == 7
    assert results.videos.loc[0, ["video_id", "donor", "tracks"]].tolist() == ["v1", "7", 0]
    assert list(results.particles().to_pandas()["video_id"]) == []
    assert results.failures["v2"]["reason"] == "it is truncated"
    with pytest.raises(InputError, match="'v2' failed: it is truncated"):
        results.tracks("v2")
    with pytest.raises(InputError, match=r"'v3' is not in .* known: v1"):
        results.tracks("v3")


def test_an_unfinished_run_says_how_to_resume(tmp_path):
    folder_of_one_video(tmp_path)
    storage.write_json(tmp_path / "run.json", {"exotrack": "0", "finished_utc": None})
    with pytest.raises(InputError, match="resume"):
        storage.open_results(tmp_path)


def test_an_incomplete_video_is_not_taken_for_done(tmp_path):
    folder_of_one_video(tmp_path)
    folder = tmp_path / "videos" / "v1"
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert storage.read_record(folder) is not None
    for name, content in whole.items():
        (folder / name).write_bytes(content[:-2])
        assert storage.read_record(folder) is None, name
        (folder / name).unlink()
        assert storage.read_record(folder) is None, name
        (folder / name).write_bytes(content)
    assert storage.read_record(folder) is not None


def test_a_new_record_leaves_a_complete_folder(tmp_path):
    folder_of_one_video(tmp_path)
    folder = tmp_path / "videos" / "v1"
    storage.update_record(folder, {**(storage.read_record(folder) or {}), "batch": "Lot 7"})
    assert storage.read_record(folder)["batch"] == "Lot 7"
    assert storage.completion(folder)["key"] == "k"


def test_results_of_other_videos_stay_unless_forced(tmp_path):
    folder_of_one_video(tmp_path)
    finished = (tmp_path / "run.json").read_bytes()
    with pytest.raises(InputError, match=r"not in this sample sheet \(v1\)"):
        storage.check(tmp_path, {"v9"}, force=False)
    assert (tmp_path / "run.json").read_bytes() == finished
    storage.check(tmp_path, {"v9"}, force=True)
    storage.begin(tmp_path, {"v9"}, {"exotrack": "0"})
    assert not (tmp_path / "videos" / "v1").exists()


def test_a_run_killed_at_once_can_be_given_again(tmp_path):
    storage.begin(tmp_path / "out", {"v1"}, {"exotrack": "0"})
    storage.check(tmp_path / "out", {"v1"}, force=False)
    (tmp_path / "bare").mkdir()
    storage.check(tmp_path / "bare", {"v1"}, force=False)


@pytest.mark.parametrize(("flow", "n_steps"), [("uniform", 3), ("affine", 3), ("affine", 0)])
def test_tracks_read_back_with_what_linking_found_out(tmp_path, flow, n_steps):
    rng = np.random.default_rng(1)
    linking = LinkSummary(
        n_links=5,
        gate_px=4.5,
        mislink_index=0.1 / 3,
        density_px2=1e-3,
        flow_y_px=rng.normal(size=n_steps),
        flow_x_px=rng.normal(size=n_steps),
        flow_centre_px=(59.5, 79.5),
        flow_gradient=rng.normal(size=(n_steps, 2, 2)) if flow == "affine" else None,
        shear_px=0.3,
        n_shrunk=0,
    )
    folder_without_rows(tmp_path / "v1", {"linking": {**dataclasses.asdict(linking), "flow_y_px_mean": 0.0}})
    back = storage.read_tracks(tmp_path / "v1").linking
    for name, value in vars(linking).items():
        np.testing.assert_array_equal(getattr(back, name), value)
        assert np.shape(getattr(back, name)) == np.shape(value)


@pytest.mark.parametrize("record", [{}, {"linking": None}, {"linking": {"n_links": 0}}])
def test_tracks_of_an_older_version_are_refused_with_a_remedy(tmp_path, record):
    folder_without_rows(tmp_path / "v1", record)
    with pytest.raises(InputError, match=r"video\.json: what linking found.*run the study again with --force"):
        storage.read_tracks(tmp_path / "v1")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="states of processes are read from /proc")
def test_a_run_that_ended_and_is_still_listed_is_dead(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        for _ in range(100):
            if lock._born(ended.pid) == "never":
                break
            time.sleep(0.1)
        (tmp_path / lock.LOCK).write_text(lock_of(ended.pid, socket.gethostname(), born="1"))
        with lock.locked(tmp_path):
            pass
