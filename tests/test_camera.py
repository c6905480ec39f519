"""Camera calibration: what it means, what is refused, and its way from a file to the record of a result."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import exotrack as et
from exotrack import samplesheet
from exotrack.camera import MAPS
from exotrack.cli import inspection
from exotrack.errors import InputError, VideoError
from exotrack.pipeline import planning, work

SHAPE = (64, 80)
ROW = "video,batch,sample,pixel_size_um,fps,camera\nv.npy,B,S,0.3,30,"


def sensor(shape=SHAPE, excess=1.0, seed=0):
    """A camera like that of `simulate`, but with pixels that differ."""
    rng = np.random.default_rng(seed)
    return et.Camera(
        offset=rng.normal(4.0, 0.05, shape).astype(np.float32),
        gain=rng.uniform(0.24, 0.26, shape).astype(np.float32),
        variance=rng.gamma(16, 1 / 64, shape).astype(np.float32),
        excess=excess,
    )


def maps_of(camera):
    return {name: getattr(camera, name) for name in MAPS}


def expose(camera, electrons, n_frames, seed):
    """Frames of even light, not rounded."""
    rng = np.random.default_rng(seed)
    photons = rng.poisson(electrons, (n_frames, *camera.shape))
    return photons * camera.gain + camera.offset + rng.normal(0, np.sqrt(camera.variance), photons.shape)


@pytest.fixture
def folder(tmp_path):
    """A video and the file of its camera."""
    video, _ = et.simulate(frame_shape=SHAPE, n_frames=40, particles_per_frame=6.0, snr=12.0, seed=2)
    np.save(tmp_path / "v.npy", video.frames)
    sensor().save(tmp_path / "camera.npz")
    return tmp_path


# Maps ----------------------------------------------------------------------------------------------------------------


def test_electrons_of_a_stack_and_of_a_frame():
    camera = sensor()
    frames = np.random.default_rng(1).integers(0, 4096, (3, *SHAPE), dtype=np.uint16)
    electrons = camera.electrons(frames)
    assert electrons.dtype == np.float32
    np.testing.assert_allclose(electrons, (frames.astype(float) - camera.offset) / camera.gain, rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(camera.electrons(frames[1]), electrons[1])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_electrons_below_the_offset_are_negative(dtype):
    assert (sensor().electrons(np.zeros(SHAPE, dtype)) < 0).all()


@pytest.mark.parametrize("shape", [(80, 64), (3, 64, 81), (2, 3, 64, 80), (80,)])
def test_frames_of_another_size_are_refused(shape):
    with pytest.raises(InputError, match=rf"{re.escape(str(shape))} and camera maps of shape \(64, 80\).*cut the maps"):
        sensor().electrons(np.zeros(shape, np.uint8))


def test_read_variance_is_in_electrons():
    camera = sensor()
    expected = camera.variance.astype(float) / camera.gain.astype(float) ** 2
    np.testing.assert_allclose(camera.read_variance, expected, rtol=1e-6)
    assert camera.read_variance.dtype == np.float32


def test_a_camera_does_not_change_with_the_array_it_was_made_from():
    offset = np.zeros(SHAPE, np.float32)
    camera = et.Camera(**{**maps_of(sensor()), "offset": offset})
    offset += 1
    assert (camera.offset == 0).all()


def test_maps_become_float32_and_cannot_be_written():
    camera = et.Camera(np.full(SHAPE, 100), np.full(SHAPE, 2.0), np.ones(SHAPE, np.uint8), excess=np.float32(2))
    for values in maps_of(camera).values():
        assert values.dtype == np.float32
        with pytest.raises(ValueError, match="read-only"):
            values[0, 0] = 1
    assert camera.excess == 2.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gain": np.ones((64, 81))}, r"offset \(64, 80\), gain \(64, 81\), variance \(64, 80\)"),
        ({"gain": np.ones(80)}, r"gain is float64 of shape \(80,\); give one real number per pixel"),
        ({"offset": 100.0}, r"offset is float64 of shape \(\)"),
        ({"offset": np.ones((0, 80))}, r"offset is float64 of shape \(0, 80\)"),
        ({"offset": np.ones(SHAPE, complex)}, "offset is complex128"),
        ({"offset": np.full(SHAPE, "1")}, "offset is <U1"),
        ({"excess": 0.5}, "excess = 0.5: .* 1 or more"),
        ({"excess": np.nan}, "excess = nan"),
        ({"excess": np.inf}, "excess = inf"),
        ({"excess": True}, "excess = True"),
        ({"excess": 2j}, "excess = 2j"),
        ({"excess": "2"}, "excess = '2'"),
        ({"excess": None}, "excess = None"),
    ],
)
def test_what_is_no_camera(changes, words):
    with pytest.raises(InputError, match=words):
        et.Camera(**{**maps_of(sensor()), **changes})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("offset", np.nan, "replace what is not finite"),
        ("offset", 1e39, "not finite"),  # more than float32 holds
        ("variance", np.inf, "not finite"),
        ("gain", 0.0, "a positive number"),
        ("gain", -2.0, "a positive number"),
        ("variance", -1.0, "0 or more"),
    ],
)
def test_an_impossible_pixel_is_named(name, value, words):
    wrong = np.array(maps_of(sensor())[name], float)
    wrong[3, 7] = wrong[5, 1] = value
    with pytest.raises(InputError, match=rf"^{name} = .* at pixel \(y 3, x 7\) and 1 more: .*{words}"):
        et.Camera(**{**maps_of(sensor()), name: wrong})


def test_the_hash_knows_maps_excess_and_shape():
    same = sensor().sha256
    assert sensor().sha256 == same
    assert sensor(excess=2.0).sha256 != same
    for name in MAPS:
        other = np.array(maps_of(sensor())[name])
        other[0, 0] = np.nextafter(other[0, 0], np.float32(np.inf))
        assert et.Camera(**{**maps_of(sensor()), name: other}).sha256 != same
    even = [et.Camera(*(np.ones(shape) for _ in MAPS)).sha256 for shape in ((2, 6), (3, 4))]
    assert even[0] != even[1]


# The file ------------------------------------------------------------------------------------------------------------

values = st.floats(2.0**-20, 2.0**20, width=32)
one_map = hnp.arrays(np.float32, (2, 3), elements=values)


@given(offset=one_map, gain=one_map, variance=one_map, excess=st.floats(1, 4))
def test_a_saved_camera_is_read_back(tmp_path_factory, offset, gain, variance, excess):
    camera = et.Camera(offset, gain, variance, excess)
    file = tmp_path_factory.getbasetemp() / "camera.npz"
    camera.save(file)
    again = et.Camera.from_file(file)
    for field in fields(et.Camera):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(camera, field.name))
    assert again.sha256 == camera.sha256


def test_equal_cameras_are_equal_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        sensor().save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    sensor().save(tmp_path / "camera.npz")
    before = (tmp_path / "camera.npz").read_bytes()

    def full(stream, **_):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match=r"camera\.npz: cannot be written \(No space left on device\)"):
        sensor(seed=1).save(tmp_path / "camera.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["camera.npz"]
    assert (tmp_path / "camera.npz").read_bytes() == before


def test_save_into_no_folder(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        sensor().save(tmp_path / "none" / "camera.npz")


def test_single_numbers_hold_for_all_pixels(tmp_path):
    np.savez(tmp_path / "camera.npz", offset=100, gain=sensor().gain, variance=np.float64(8))
    camera = et.Camera.from_file(tmp_path / "camera.npz")
    assert (camera.offset == 100).all()
    assert (camera.variance == 8).all()
    assert (camera.shape, camera.excess) == (SHAPE, 1.0)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"offset": 1.0, "gain": 1.0, "variance": 1.0}, "none of offset, gain, variance is a map"),
        ({"offset": np.ones(SHAPE), "dark": 1.0}, "lacks gain, variance; it holds offset, dark"),
        ({}, "lacks offset, gain, variance; it holds nothing"),
        ({**maps_of(sensor()), "gain": -1.0}, "gain = -1 at pixel"),
        ({**maps_of(sensor()), "gain": np.ones((3, *SHAPE))}, r"gain is float64 of shape \(3, 64, 80\)"),
        ({**maps_of(sensor()), "excess": 0.9}, "excess = 0.9"),
        ({**maps_of(sensor()), "excess": np.ones(3)}, "excess = array"),
        ({**maps_of(sensor()), "gain": np.full(SHAPE, None)}, "cannot be read .*allow_pickle"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, arrays, words):
    np.savez(tmp_path / "camera.npz", **arrays)
    with pytest.raises(InputError, match=rf"camera\.npz: .*{words}"):
        et.Camera.from_file(tmp_path / "camera.npz")


def test_what_is_no_npz_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.npz: no such file"):
        et.Camera.from_file(tmp_path / "none.npz")
    with pytest.raises(InputError, match="no such file"):
        et.Camera.from_file(tmp_path)
    np.save(tmp_path / "gain.npy", np.ones(SHAPE))
    (tmp_path / "text.npz").write_text("offset 100")
    (tmp_path / "empty.npz").touch()
    sensor().save(tmp_path / "camera.npz")
    whole = (tmp_path / "camera.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("gain.npy", "text.npz", "empty.npz", "short.npz"):
        with pytest.raises(InputError, match=rf"{name}: not a NumPy \.npz file, or cut short"):
            et.Camera.from_file(tmp_path / name)


def test_a_damaged_file(tmp_path):
    sensor().save(tmp_path / "camera.npz")
    content = bytearray((tmp_path / "camera.npz").read_bytes())
    content[5000] ^= 255
    (tmp_path / "camera.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"camera\.npz: cannot be read .*CRC.*copy it again"):
        et.Camera.from_file(tmp_path / "camera.npz")


def test_an_unreadable_file(tmp_path, monkeypatch):
    sensor().save(tmp_path / "camera.npz")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match=r"camera\.npz: permission denied"):
        et.Camera.from_file(tmp_path / "camera.npz")


# Calibration ---------------------------------------------------------------------------------------------------------


def test_a_camera_is_calibrated_from_its_frames():
    true, n_frames, levels = sensor((24, 32)), 600, (20, 60, 150, 300)
    flats = [expose(true, level, n_frames, seed=k) for k, level in enumerate(levels, 1)]
    found = et.Camera.calibrate(expose(true, 0, n_frames, seed=0), flats)
    np.testing.assert_allclose(found.offset, true.offset, atol=5 * np.sqrt(true.variance.max() / n_frames))
    np.testing.assert_allclose(found.variance, true.variance, rtol=5.5 * np.sqrt(2 / n_frames))
    ratio = found.gain / true.gain
    assert 0.5 < ratio.std() / np.sqrt(2 / n_frames) < 1.05  # the scatter is that of chance
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(ratio.size)


def test_the_excess_is_not_taken_for_gain():
    true = sensor((16, 16))
    frames = [expose(true, level, 100, seed=level) for level in (0, 50, 200)]
    plain = et.Camera.calibrate(frames[0], frames[1:])
    multiplied = et.Camera.calibrate(frames[0], frames[1:], excess=2.0)
    np.testing.assert_allclose(multiplied.gain, plain.gain / 2, rtol=1e-6)
    assert multiplied.excess == 2.0


def test_defective_pixels_count_for_nothing():
    true = sensor((16, 16))
    frames = [expose(true, level, 200, seed=level) for level in (0, 50, 200)]
    for stack in frames:
        stack[:, 2, 3], stack[:, 5, 5] = 65535, 100  # hot and dead
    found = et.Camera.calibrate(frames[0], frames[1:])
    signal = 200 * np.median(true.gain)
    for y, x in ((2, 3), (5, 5)):
        assert found.gain[y, x] == pytest.approx(np.median(found.gain), rel=1e-3)
        assert np.sqrt(found.variance[y, x]) > signal


@pytest.mark.parametrize(
    ("dark", "flats", "excess", "words"),
    [
        ((9, 8, 8), [(9, 8, 8)], 1.0, r"1 level\(s\) of light; give frames at 2 or more"),
        ((1, 8, 8), [(9, 8, 8)] * 2, 1.0, r"dark: an array of shape \(1, 8, 8\); give two frames or more"),
        ((8, 8), [(9, 8, 8)] * 2, 1.0, r"dark: an array of shape \(8, 8\)"),
        ((9, 8, 8), [(9, 8, 8), (9, 8, 9)], 1.0, r"flats\[1\]: frames of shape \(8, 9\), the dark ones are \(8, 8\)"),
        ((9, 8, 8), [(9, 8, 8)] * 2, 0.0, "excess = 0.0"),
        ((9, 8, 8), [(9, 8, 8)] * 2, 1.0, "in 64 of 64 pixels the noise does not grow with the light"),
    ],
)
def test_frames_that_calibrate_nothing(dark, flats, excess, words):
    with pytest.raises(InputError, match=words):
        et.Camera.calibrate(np.zeros(dark), [np.zeros(shape) for shape in flats], excess)


# The camera of a video -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("give", [lambda file: file, str, et.Camera.from_file], ids=["path", "text", "camera"])
def test_a_video_knows_its_camera(folder, give):
    video = et.open_video(folder / "v.npy", camera=give(folder / "camera.npz"))
    assert video.camera.sha256 == sensor().sha256
    assert "camera" not in video.metadata


def test_without_a_camera(folder):
    assert et.open_video(folder / "v.npy").camera is None
    assert et.open_video(folder / "v.npy", settings={"camera": ""}).camera is None


def test_the_sidecar_names_the_camera_from_where_it_lies(folder, monkeypatch):
    (folder / "maps").mkdir()
    sensor(seed=1).save(folder / "maps" / "other.npz")
    (folder / "v.npy.json").write_text(json.dumps({"camera": "maps/other.npz"}))
    monkeypatch.chdir(folder / "maps")
    assert et.open_video(folder / "v.npy").camera.sha256 == sensor(seed=1).sha256
    monkeypatch.chdir(folder)
    video = et.open_video("v.npy", camera="camera.npz")  # the argument wins
    monkeypatch.chdir(folder / "maps")
    assert video.camera.sha256 == sensor().sha256


@pytest.mark.parametrize("as_file", [True, False])
def test_maps_of_another_size_are_refused_at_opening(folder, as_file):
    wrong = sensor((80, 64))
    wrong.save(folder / "wrong.npz")
    with pytest.raises(
        InputError, match=r"v\.npy: its frames have the shape \(64, 80\) .* \(argument\) have \(80, 64\); give maps of"
    ):
        et.open_video(folder / "v.npy", camera=folder / "wrong.npz" if as_file else wrong)


@pytest.mark.parametrize(
    ("sidecar", "words"),
    [
        ({"camera": "none.npz"}, r"v\.npy: its camera \(sidecar v\.json\) cannot be used: .*none\.npz: no such file"),
        ({"camera": "v.npy"}, r"v\.npy: its camera \(sidecar v\.json\) cannot be used: .*not a NumPy \.npz file"),
        ({"camera": 3}, r"v\.npy: camera = 3 \(sidecar v\.json\) is no path"),
    ],
)
def test_a_camera_that_cannot_be_used_is_named_with_its_video(folder, sidecar, words):
    (folder / "v.json").write_text(json.dumps(sidecar))
    with pytest.raises(InputError, match=words):
        et.open_video(folder / "v.npy")


def test_a_video_stays_small_and_reads_its_camera_once(folder, monkeypatch):
    reads = []
    read = et.Camera.from_file
    monkeypatch.setattr(et.Camera, "from_file", lambda path: reads.append(path) or read(path))
    videos = [et.open_video(folder / "v.npy", camera=folder / "camera.npz") for _ in range(3)]
    sent = pickle.dumps(videos[0])
    assert len(sent) < 2000
    received = pickle.loads(sent)
    assert received == videos[0]
    assert received.camera is videos[1].camera
    assert len(reads) == 1


def test_a_camera_in_memory_is_sent_with_its_video(folder):
    video = et.open_video(folder / "v.npy", camera=sensor(excess=2.0))
    assert pickle.loads(pickle.dumps(video)).camera.sha256 == sensor(excess=2.0).sha256


def test_maps_that_change_under_a_video_are_an_error(folder):
    video = et.open_video(folder / "v.npy", camera=folder / "camera.npz")
    sensor(seed=1).save(folder / "camera.npz")
    os.utime(folder / "camera.npz", (0, 0))
    with pytest.raises(VideoError, match=r"camera\.npz: the camera's maps changed"):
        _ = video.camera
    assert et.open_video(folder / "v.npy", camera=folder / "camera.npz").camera.sha256 == sensor(seed=1).sha256


def test_inspect_tells_where_the_camera_came_from(folder, capsys):
    (folder / "v.json").write_text(json.dumps({"camera": "camera.npz"}))
    inspection._show_metadata(et.open_video(folder / "v.npy"))
    assert re.search(r"\bcamera\b.*sidecar v\.json", capsys.readouterr().out)


# The camera in a study -----------------------------------------------------------------------------------------------


def sheet_of(folder, text):
    (folder / "sheet.csv").write_text(text, encoding="utf-8")
    return folder / "sheet.csv"


def job_of(folder, camera="camera.npz"):
    sheet = samplesheet.read(sheet_of(folder, f"{ROW}{camera}\n"))
    (folder / "out" / "videos").mkdir(parents=True, exist_ok=True)
    return planning.plan_videos(sheet, folder / "out", et.Protocol(), backend="cpu", force=False, block_frames=None)[0]


def test_the_path_is_relative_to_the_sheet(folder):
    (row,) = samplesheet.read(sheet_of(folder, f"{ROW}camera.npz\n"))
    assert row.settings["camera"] == str((folder / "camera.npz").resolve())
    assert row.columns["camera"] == "camera.npz"
    (row,) = samplesheet.read(sheet_of(folder, f"{ROW}\n"))
    assert "camera" not in row.settings


def test_a_missing_camera_is_a_fault_among_the_others(folder):
    sheet = sheet_of(folder, f"{ROW}none.npz\nw.npy,B,S,-1,30,camera.npz\n")
    with pytest.raises(InputError) as error:
        et.run(sheet, folder / "out")
    text = str(error.value)
    assert "3 fault(s)" in text
    assert "line 2, camera = 'none.npz': not found; looked for" in text
    assert "line 3, video = 'w.npy'" in text
    assert "line 3, pixel_size_um = '-1'" in text
    assert not (folder / "out").exists()


def test_a_wrong_camera_starts_nothing(folder):
    sensor((80, 64)).save(folder / "wrong.npz")
    shutil.copy(folder / "v.npy", folder / "w.npy")
    sheet = sheet_of(folder, f"{ROW}wrong.npz\nw.npy,B,S,0.3,30,v.npy\n")
    with pytest.raises(InputError, match=r"(?s)2 video\(s\) cannot be analysed.*\(80, 64\).*not a NumPy \.npz file"):
        et.run(sheet, folder / "out")
    assert not (folder / "out").exists()


def test_the_camera_decides_the_result_and_its_place_does_not(folder):
    sensor().save(folder / "same.npz")
    sensor(seed=1).save(folder / "other.npz")
    sensor(excess=2.0).save(folder / "multiplied.npz")
    first, same, *others = (
        job_of(folder, name).key("x") for name in ("camera.npz", "same.npz", "other.npz", "multiplied.npz", "")
    )
    assert first == same
    assert len({first, *others}) == 4


def test_the_record_names_the_camera_and_results_are_kept_while_it_is_the_same(folder):
    job = job_of(folder)
    begun = work.begin(job)
    done = work.finish(job, begun, *(work.find(job, begun, part, None) for part in job.parts))
    assert isinstance(done, work.Done), done

    def recorded():
        return json.loads((job.folder / "video.json").read_text())["camera"]

    used = {"file": str((folder / "camera.npz").resolve()), "sha256": sensor().sha256, "excess": 1.0}
    assert recorded() == used
    (folder / "camera.npz").rename(folder / "moved.npz")
    assert isinstance(work.begin(job_of(folder, "moved.npz")), work.Done)
    assert recorded() == {**used, "file": str((folder / "moved.npz").resolve())}
    sensor(seed=1).save(folder / "moved.npz")
    assert isinstance(work.begin(job_of(folder, "moved.npz")), work.Begun)
    assert isinstance(work.begin(job_of(folder, "")), work.Begun)
