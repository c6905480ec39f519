"""`open_video` as a whole: metadata and their origins, arrays, image folders, memory, and words for what is wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import tracemalloc

import imagecodecs
import numpy as np
import psutil
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from exotrack.errors import InputError, VideoError
from exotrack.protocol import Protocol
from exotrack.video import images, npy, open_video, units
from exotrack.video.colour import to_grey


def noise(t=10, h=47, w=65, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (t, h, w), dtype=dtype, endpoint=True)


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "v.npy", noise())
    return tmp_path / "v.npy"


class TestMetadata:
    def test_order_of_origins(self, path):
        sidecar = {"pixel_size_um": 0.1, "exposure_s": 0.01, "temperature_c": 21.0, "fps": 25, "laser": "488 nm"}
        path.with_name("v.npy.json").write_text(json.dumps(sidecar))
        settings = {
            "pixel_size_um": 0.2,
            "exposure_s": "0.02",
            "batch": "B1",
            "dilution": None,
            "depth_um": float("nan"),
            "medium": "",
        }
        video = open_video(path, pixel_size_um=0.3, settings=settings)
        assert video.metadata == {
            "pixel_size_um": (0.3, "argument"),
            "exposure_s": (0.02, "sample sheet"),
            "batch": ("B1", "sample sheet"),
            "temperature_c": (21.0, "sidecar v.npy.json"),
            "frame_interval_s": (0.04, "sidecar v.npy.json"),
            "laser": ("488 nm", "sidecar v.npy.json"),
            "bit_depth": (8, "container"),
            "medium": ("water", "protocol default"),
            "colour": ("luma", "protocol default"),
        }
        acquisition = video.acquisition
        assert (acquisition.pixel_size_um, acquisition.frame_shape, acquisition.n_frames) == (0.3, (47, 65), 10)
        assert acquisition.origins["exposure_s"] == "sample sheet"
        assert acquisition.origins["temperature_c"] == "sidecar v.npy.json"

    def test_defaults_come_from_the_protocol(self, path):
        video = open_video(path, protocol=Protocol.from_dict({"conditions": {"temperature_c": 37.0}}))
        assert video.metadata["temperature_c"] == (37.0, "protocol default")

    def test_sidecar_by_stem(self, path):
        path.with_suffix(".json").write_text('{"pixel_size_um": 0.1, "frame_interval_s": 0.04, "cuts": [3, 6]}')
        acquisition = open_video(path).acquisition
        assert acquisition.cuts == (3, 6)
        assert acquisition.origins["cuts"] == "sidecar v.json"

    @pytest.mark.parametrize("text", ["3, 6", "3;6", "6 3", [3, 6, 3], (3.0, 6.0)])
    def test_cuts_in_the_sheet(self, path, text):
        assert open_video(path, pixel_size_um=1, fps=1, settings={"cuts": text}).acquisition.cuts == (3, 6)

    @pytest.mark.parametrize("content", ["[1, 2]", "{", "\xff"])
    def test_broken_sidecar(self, path, content):
        path.with_suffix(".json").write_bytes(content.encode("latin-1"))
        with pytest.raises(InputError, match=r"v\.json: .*JSON"):
            open_video(path)

    @pytest.mark.parametrize(
        ("keywords", "message"),
        [
            ({}, r"v\.npy: pixel_size_um and frame_interval_s not known.*column.*v\.npy\.json.*open_video"),
            ({"fps": 25}, r"v\.npy: pixel_size_um not known"),
            ({"pixel_size_um": 0.1}, r"v\.npy: frame_interval_s not known"),
        ],
    )
    def test_missing_values_say_where_to_write_them(self, path, keywords, message):
        video = open_video(path, **keywords)
        with pytest.raises(InputError, match=message):
            _ = video.acquisition

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"pixel_size_um": "0,166"}, r"pixel_size_um = '0,166' \(sample sheet\) is not a number"),
            ({"pixel_size_um": True}, "pixel_size_um = True"),
            ({"pixel_size_um": -0.1}, "pixel_size_um = -0.1 is not a positive number"),
            ({"exposure_s": 1.0}, "exposure_s = 1 is longer than the frame interval"),
            ({"fps": 0}, "fps = 0"),
            ({"fps": 30, "frame_interval_s": 0.04}, "contradict"),
            ({"cuts": [0]}, r"cuts = \[0\] .* within frames 1 to 9"),
            ({"cuts": [10]}, "within frames 1 to 9"),
            ({"cuts": "2.5"}, "not a list of frame numbers"),
            ({"cuts": {"a": 1}}, "not a list of frame numbers"),
            ({"bit_depth": 12}, "bit_depth = 12 .* not between 1 and 8"),
            ({"colour": "cyan"}, "colour = 'cyan': choose one of luma, red, green, blue"),
            ({"medium": "beer"}, "beer"),
        ],
    )
    def test_wrong_values_name_file_and_field(self, path, settings, message):
        complete = {"pixel_size_um": 0.1, **({} if "fps" in settings else {"frame_interval_s": 0.04}), **settings}
        with pytest.raises(InputError, match=rf"(?s)v\.npy: .*{message}"):
            open_video(path, settings=complete)

    def test_rounded_rate_and_interval_agree(self, path):
        assert open_video(path, fps=30, frame_interval_s=0.0333).metadata["frame_interval_s"] == (0.0333, "argument")

    def test_bit_depth_of_twelve_bit_values_can_be_stated(self, tmp_path):
        np.save(tmp_path / "v.npy", noise(dtype=np.uint16) >> 4)
        assert open_video(tmp_path / "v.npy").metadata["bit_depth"] == (16, "container")
        assert open_video(tmp_path / "v.npy", settings={"bit_depth": 12}).metadata["bit_depth"] == (12, "sample sheet")


class TestArrays:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_exact(self, tmp_path, dtype, order):
        frames = noise(dtype=dtype)
        np.save(tmp_path / "v.npy", np.asarray(frames, order=order))
        np.testing.assert_array_equal(open_video(tmp_path / "v.npy").read(2, 9), frames[2:9])

    def test_foreign_byte_order(self, tmp_path):
        frames = noise(dtype=np.uint16)
        np.save(tmp_path / "v.npy", frames.astype(">u2"))
        block = open_video(tmp_path / "v.npy").read(0, 10)
        assert block.dtype.isnative
        np.testing.assert_array_equal(block, frames)

    def test_one_frame_and_colour(self, tmp_path):
        frames = noise()
        np.save(tmp_path / "one.npy", frames[0])
        np.testing.assert_array_equal(open_video(tmp_path / "one.npy").read(0, 1), frames[:1])
        np.save(tmp_path / "rgb.npy", np.stack([frames, 255 - frames, frames, frames], axis=3))
        np.testing.assert_array_equal(open_video(tmp_path / "rgb.npy", colour="green").read(0, 10), 255 - frames)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((2, 3, 4), np.float32), "pixel type float32 is not read"),
            (np.zeros((2, 3, 4), np.int64), "pixel type int64"),
            (np.zeros((2, 3, 4), bool), "pixel type bool"),
            (np.zeros(5, np.uint8), r"an array of shape \(5,\)"),
            (np.zeros((2, 3, 4, 7), np.uint8), "7 samples per pixel"),
            (np.zeros((0, 3, 4), np.uint8), "the video is empty"),
            (np.array([{"a": 1}], dtype=object), r"v\.npy: cannot be read"),
        ],
    )
    def test_refused(self, tmp_path, array, message):
        np.save(tmp_path / "v.npy", array)
        with pytest.raises(VideoError, match=message):
            open_video(tmp_path / "v.npy")

    def test_truncated(self, path):
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(VideoError, match=r"v\.npy: cannot be read"):
            open_video(path)


class TestImageFolders:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_png_in_natural_order(self, tmp_path, dtype):
        frames = noise(t=12, dtype=dtype)
        for k, frame in enumerate(frames):
            (tmp_path / f"img{k}.png").write_bytes(imagecodecs.png_encode(frame))
        (tmp_path / "img3.txt").write_text("ignored")
        for where in (tmp_path, tmp_path / "img*.png"):
            video = open_video(where)
            assert (video.dtype, video.container["files"]) == (dtype, 12)
            np.testing.assert_array_equal(video.read(0, 12), frames)
            np.testing.assert_array_equal(video.read(1, 4), frames[1:4])

    def test_single_image_is_a_one_frame_video(self, tmp_path):
        frame = noise()[0]
        (tmp_path / "v.png").write_bytes(imagecodecs.png_encode(frame))
        np.testing.assert_array_equal(open_video(tmp_path / "v.png").read(0, 1)[0], frame)

    def test_colour_and_alpha(self, tmp_path):
        rgba = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
        (tmp_path / "1.png").write_bytes(imagecodecs.png_encode(rgba))
        np.testing.assert_array_equal(open_video(tmp_path, colour="blue").read(0, 1)[0], rgba[..., 2])

    def test_jpeg_is_lossy(self, tmp_path):
        y, x = np.mgrid[0:32, 0:48]
        smooth = (2 * y + 3 * x).astype(np.uint8)
        (tmp_path / "1.jpg").write_bytes(imagecodecs.jpeg8_encode(smooth, level=95))
        video = open_video(tmp_path)
        assert np.abs(video.read(0, 1)[0].astype(int) - smooth).max() <= 4
        assert "lossy" in video.warnings[0]

    def test_sizes_differ(self, tmp_path):
        for k, h in enumerate((20, 21)):
            (tmp_path / f"{k}.png").write_bytes(imagecodecs.png_encode(noise(t=1, h=h)[0]))
        with pytest.raises(VideoError, match=r"1\.png: 65×21 px, the frames before it 65×20 px"):
            list(open_video(tmp_path).blocks(2))

    def test_bit_depths_differ(self, tmp_path):
        for k, dtype in enumerate((np.uint8, np.uint16)):
            (tmp_path / f"{k}.png").write_bytes(imagecodecs.png_encode(noise(t=1, dtype=dtype)[0]))
        with pytest.raises(VideoError, match="frame 1 is 65×47 px of uint16, the header says 65×47 px of uint8"):
            list(open_video(tmp_path).blocks(2))

    def test_damaged_image_is_named(self, tmp_path):
        for k in range(3):
            (tmp_path / f"{k}.png").write_bytes(imagecodecs.png_encode(noise()[k]))
        (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:500])
        with pytest.raises(VideoError, match=r"1\.png: cannot be read"):
            list(open_video(tmp_path).blocks(2))

    def test_folders_that_are_no_video(self, tmp_path):
        with pytest.raises(VideoError, match="no TIFF, PNG or JPEG frames"):
            open_video(tmp_path)
        (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(noise()[0]))
        (tmp_path / "b.jpg").write_bytes(imagecodecs.jpeg8_encode(noise()[0]))
        with pytest.raises(VideoError, match="JPEG and PNG frames; give a pattern"):
            open_video(tmp_path)
        with pytest.raises(VideoError, match="no TIFF, PNG or JPEG frames"):
            open_video(tmp_path / "c*.png")


class TestFiles:
    def test_missing(self, tmp_path):
        with pytest.raises(VideoError, match=r"none\.avi: no such file"):
            open_video(tmp_path / "none.avi")

    def test_unknown_suffix_lists_what_is_read(self, tmp_path):
        (tmp_path / "v.xyz").write_bytes(b"1")
        with pytest.raises(VideoError, match=r"files of type \.xyz are not read; what is read: AVI, .*TIFF.*OME-Zarr"):
            open_video(tmp_path / "v.xyz")

    def test_nim_is_refused_with_the_way_out(self, tmp_path):
        (tmp_path / "v.nim").write_bytes(b"1")
        with pytest.raises(VideoError, match="export TIFF"):
            open_video(tmp_path / "v.nim")

    def test_unreadable(self, path, monkeypatch):
        monkeypatch.setattr("os.access", lambda *_: False)
        with pytest.raises(VideoError, match=r"v\.npy: permission denied"):
            open_video(path)

    def test_access_lost_while_reading(self, path, monkeypatch):
        video = open_video(path)

        def denied(*_):
            raise PermissionError(errno.EACCES, "no")

        monkeypatch.setattr(npy, "_mapped", denied)
        with pytest.raises(VideoError, match=r"v\.npy: permission denied"):
            video.read(0, 1)

    def test_hash_is_that_of_the_file(self, path):
        assert open_video(path).sha256() == hashlib.sha256(path.read_bytes()).hexdigest()

    def test_hash_of_a_folder_knows_names_and_contents(self, tmp_path):
        def folder(name, files):
            (tmp_path / name).mkdir()
            for file, k in files.items():
                (tmp_path / name / file).write_bytes(imagecodecs.png_encode(noise()[k]))
            return open_video(tmp_path / name).sha256()

        original = folder("a", {"1.png": 0, "2.png": 1})
        assert folder("b", {"1.png": 0, "2.png": 1}) == original
        assert folder("c", {"1.png": 1, "2.png": 0}) != original
        assert folder("d", {"1.png": 0, "3.png": 1}) != original

    def test_memory_is_that_of_a_block(self, tmp_path):
        frames = noise(t=200, h=100, w=100)
        np.save(tmp_path / "v.npy", frames)
        video = open_video(tmp_path / "v.npy")
        tracemalloc.start()
        try:
            for _ in video.blocks(5):
                pass
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # Two blocks of 50 kB may live at once, one in the making and one in use; all frames are 2 MB.
        assert peak < 300_000

    @pytest.mark.parametrize("name", ["v.npy", "v.tif"])
    def test_resident_memory_does_not_grow_with_the_video(self, tmp_path, name):
        shape = (2000, 256, 256)  # 131 MB, a hole on most file systems
        if name == "v.npy":
            np.lib.format.open_memmap(tmp_path / name, "w+", np.uint8, shape)
        else:
            tifffile.memmap(tmp_path / name, shape=shape, dtype=np.uint8, photometric="minisblack")
        video = open_video(tmp_path / name)
        process = psutil.Process()
        before = process.memory_info().rss
        assert max(process.memory_info().rss for _ in video.blocks(16)) - before < 60e6

    def test_a_block_reads_its_own_frames_only(self, tmp_path, monkeypatch):
        for k, frame in enumerate(noise()):
            (tmp_path / f"{k}.png").write_bytes(imagecodecs.png_encode(frame))
        video = open_video(tmp_path)
        read = []
        decode = imagecodecs.png_decode
        monkeypatch.setitem(
            images._DECODERS,
            ".png",
            lambda d: read.append(1) or decode(d),
        )
        video.read(3, 6)
        assert len(read) == 3
        blocks = video.blocks(2)
        next(blocks)
        next(blocks)
        assert len(read) == 7


class TestColour:
    @given(hnp.arrays(st.sampled_from([np.dtype(np.uint8), np.dtype(np.uint16)]), (3, 4)))
    def test_equal_channels_are_their_value(self, grey):
        np.testing.assert_array_equal(to_grey(np.repeat(grey[..., None], 3, axis=2), "luma"), grey)

    @given(hnp.arrays(np.uint16, (3, 4, 3)))
    def test_luma_is_the_rounded_weighted_sum(self, rgb):
        exact = rgb.astype(float) @ np.array([0.299, 0.587, 0.114])
        assert np.abs(to_grey(rgb, "luma") - exact).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [(166, "nm", 0.166), (0.166, "µm", 0.166), (1.66e-4, "mm", 0.166), (1, "pixel", None), (1, None, None),
     (0, "µm", None), (-1, "um", None), ("nan", "um", None), ("abc", "um", None), (None, "um", None),
     (0.2, "micron", 0.2), (0.2, "\\u00B5m", 0.2)],
)  # fmt: skip
def test_lengths(value, unit, expected):
    assert units.length_um(value, unit) == expected


@pytest.mark.parametrize(
    ("value", "unit", "expected"), [(40, "ms", 0.04), (0.04, "sec", 0.04), (1, "min", 60.0), (1, "frame", None)]
)
def test_times(value, unit, expected):
    assert units.time_s(value, unit) == expected
