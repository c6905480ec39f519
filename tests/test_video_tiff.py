"""TIFF in its dialects: exact pixels, physical metadata, and damage that the library only logs."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from exotrack.errors import InputError, VideoError
from exotrack.video import open_video


def noise(t=10, h=47, w=65, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (t, h, w), dtype=dtype, endpoint=True)


def write(path, frames, **options):
    tifffile.imwrite(path, frames, **{"photometric": "minisblack", **options})
    return path


def write_pages(path, frames):
    with tifffile.TiffWriter(path) as tif:
        for frame in frames:
            tif.write(frame, contiguous=False, photometric="minisblack", metadata=None)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib"}, {"byteorder": ">"}, {"bigtiff": True}, {"imagej": True, "metadata": {"axes": "TYX"}}],
)
def test_stacks_are_exact(tmp_path, dtype, options):
    frames = noise(dtype=dtype)
    video = open_video(write(tmp_path / "v.tif", frames, **options))
    assert video.shape == frames.shape
    assert (video.dtype, video.dtype.isnative, video.sequential) == (dtype, True, False)
    np.testing.assert_array_equal(video.read(0, 10), frames)
    np.testing.assert_array_equal(video.read(4, 6), frames[4:6])


def test_pages_without_metadata(tmp_path):
    frames = noise()
    np.testing.assert_array_equal(open_video(write_pages(tmp_path / "v.tif", frames)).read(2, 9), frames[2:9])


def test_packed_twelve_bits(tmp_path):
    # 12 bits packed without gaps, as cameras write them: three bytes hold two pixels.
    values = noise(t=1, h=4, w=6, dtype=np.uint16)[0] >> 4
    first, second = values[:, 0::2].ravel(), values[:, 1::2].ravel()
    packed = (
        np.stack([first >> 4, ((first & 15) << 4) | (second >> 8), second & 255], axis=1).astype(np.uint8).tobytes()
    )
    tags = [(256, 6), (257, 4), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 4), (279, len(packed))]
    directory = np.uint16(len(tags)).tobytes() + b"".join(
        np.array([tag, 3], "<u2").tobytes() + np.array([1, value], "<u4").tobytes() for tag, value in tags
    )
    path = tmp_path / "v.tif"
    path.write_bytes(b"II*\0" + np.uint32(8 + len(packed)).tobytes() + packed + directory + bytes(4))
    video = open_video(path)
    assert (video.dtype, video.metadata["bit_depth"]) == (np.uint16, (12, "container"))
    np.testing.assert_array_equal(video.read(0, 1)[0], values)


@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
def test_colour(tmp_path, planarconfig):
    rgb = np.random.default_rng(2).integers(0, 256, (4, 47, 65, 3), dtype=np.uint8)
    stored = rgb if planarconfig == "contig" else np.moveaxis(rgb, 3, 1)
    path = write(tmp_path / "v.tif", stored, photometric="rgb", planarconfig=planarconfig)
    np.testing.assert_array_equal(open_video(path, colour="green").read(0, 4), rgb[..., 1])
    luma = open_video(path)
    assert luma.container["colour"] == "luma (ITU-R BT.601)"
    assert np.abs(luma.read(0, 4) - rgb @ np.array([0.299, 0.587, 0.114])).max() <= 0.5 + 1e-9


def test_imagej_scale_and_interval(tmp_path):
    metadata = {"axes": "TYX", "unit": "um", "finterval": 0.04, "fps": 7.0}
    path = write(tmp_path / "v.tif", noise(), imagej=True, resolution=(1 / 0.166, 1 / 0.166), metadata=metadata)
    video = open_video(path)
    assert video.acquisition.pixel_size_um == pytest.approx(0.166, rel=1e-6)
    # 7 frames/s is the speed of playing, not that of recording.
    assert video.metadata["frame_interval_s"] == (0.04, "container")
    assert video.acquisition.origins["pixel_size_um"] == "container"
    assert video.container["format"] == "ImageJ TIFF"


def test_imagej_hyperstack_with_a_single_directory(tmp_path):
    # What ImageJ writes beyond 4 GB: one directory, all frames behind it. Many of them call time z.
    frames = noise()
    path = write(tmp_path / "v.tif", frames, imagej=True, truncate=True, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path) as tif:
        assert len(tif.pages) == 1
    video = open_video(path)
    np.testing.assert_array_equal(video.read(3, 10), frames[3:])
    assert video.warnings == ("the z axis of 10 planes was read as time",)


def test_ome_units_and_singleton_axes(tmp_path):
    metadata = {
        "axes": "TCZYX",
        "PhysicalSizeX": 166,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 166,
        "PhysicalSizeYUnit": "nm",
        "TimeIncrement": 40,
        "TimeIncrementUnit": "ms",
        "SignificantBits": 12,
        "Plane": {"ExposureTime": [20] * 10, "ExposureTimeUnit": ["ms"] * 10},
    }
    frames = noise(dtype=np.uint16)
    video = open_video(write(tmp_path / "v.ome.tif", frames[:, None, None], metadata=metadata))
    acquisition = video.acquisition
    assert (acquisition.pixel_size_um, acquisition.frame_interval_s, acquisition.exposure_s) == (0.166, 0.04, 0.02)
    assert video.metadata["bit_depth"] == (12, "container")
    np.testing.assert_array_equal(video.read(0, 10), frames)


def test_channels_need_a_choice(tmp_path):
    frames = np.stack([noise(seed=1), noise(seed=2)], axis=1)
    metadata = {"axes": "TCYX", "Channel": {"Name": ["scatter", "CD9"]}}
    for name, options in (("a.ome.tif", {}), ("b.ome.tif", {"compression": "zlib"})):
        path = write(tmp_path / name, frames, metadata=metadata, **options)
        with pytest.raises(InputError, match=r"2 channels; give channel .*scatter, CD9"):
            open_video(path)
        np.testing.assert_array_equal(open_video(path, channel="CD9").read(0, 10), frames[:, 1])
        np.testing.assert_array_equal(open_video(path, settings={"channel": 0}).read(2, 5), frames[2:5, 0])
        with pytest.raises(InputError, match="channel = 'CD63' is not one of"):
            open_video(path, channel="CD63")


def test_a_channel_label_of_a_single_channel_video_is_kept(tmp_path):
    video = open_video(write(tmp_path / "v.tif", noise()), settings={"channel": "488"})
    assert video.metadata["channel"] == ("488", "sample sheet")


def test_two_candidates_for_time(tmp_path):
    frames = noise(t=6).reshape(2, 3, 47, 65)
    path = write(tmp_path / "v.ome.tif", frames, metadata={"axes": "TZYX"})
    with pytest.raises(InputError, match=r"T \(2\) and Z \(3\) could both be time"):
        open_video(path)


def test_positions_need_a_choice(tmp_path):
    path = tmp_path / "v.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tif:
        for seed in (1, 2):
            tif.write(noise(seed=seed), photometric="minisblack", metadata={"axes": "TYX"})
    with pytest.raises(InputError, match="2 images; give position"):
        open_video(path)
    np.testing.assert_array_equal(open_video(path, position=1).read(0, 10), noise(seed=2))


def test_pixels_that_are_not_square(tmp_path):
    path = write(tmp_path / "v.ome.tif", noise(), metadata={"axes": "TYX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.2})
    with pytest.raises(InputError, match="not square"):
        open_video(path, frame_interval_s=0.04)
    assert open_video(path, frame_interval_s=0.04, pixel_size_um=0.1).acquisition.pixel_size_um == 0.1


@pytest.mark.parametrize(("dtype", "name"), [(np.float32, "float32"), (np.int16, "int16"), (np.uint32, "uint32")])
def test_scaled_or_signed_pixels_are_refused(tmp_path, dtype, name):
    with pytest.raises(VideoError, match=f"pixel type {name} is not read"):
        open_video(write(tmp_path / "v.tif", np.zeros((3, 8, 8), dtype)))


def test_series_of_files_in_natural_order(tmp_path):
    frames = noise(t=12)
    for k, frame in enumerate(frames):
        write(tmp_path / f"img_{k}.tif", frame)
    (tmp_path / "._img_3.tif").write_bytes(b"what macOS leaves behind")
    (tmp_path / "notes.txt").write_text("ignored")
    for where in (tmp_path, tmp_path / "img_*.tif"):
        video = open_video(where)
        assert video.container["files"] == 12
        np.testing.assert_array_equal(video.read(0, 12), frames)
        np.testing.assert_array_equal(video.read(9, 11), frames[9:11])


@settings(deadline=None, max_examples=20)
@given(block=st.integers(1, 14), edges=st.tuples(st.integers(0, 12), st.integers(0, 12)))
def test_any_block_size_over_files_of_several_pages(tmp_path_factory, block, edges):
    folder = tmp_path_factory.getbasetemp() / "parts"
    frames = noise(t=12, h=9, w=11)
    if not folder.exists():
        folder.mkdir()
        write(folder / "part_1.tif", frames[:5])
        write(folder / "part_2.tif", frames[5:6])
        write(folder / "part_10.tif", frames[6:], compression="zlib")
    start, stop = min(edges), max(edges)
    blocks = [b for _, b in open_video(folder).blocks(block, start, stop)]
    np.testing.assert_array_equal(np.concatenate([*blocks, frames[:0]]), frames[start:stop])


def ome_files(folder, frames, split):
    """One OME series over two files: both carry the same description, each names where its planes lie."""
    folder.mkdir()
    parts = {"a.ome.tif": frames[:split], "b.ome.tif": frames[split:]}
    uuids = {name: f"urn:uuid:0000000{k}-0000-0000-0000-000000000000" for k, name in enumerate(parts)}
    planes, t = "", 0
    for name, part in parts.items():
        for ifd in range(len(part)):
            where = f'<UUID FileName="{name}">{uuids[name]}</UUID>'
            planes += f'<TiffData IFD="{ifd}" FirstT="{t}" PlaneCount="1">{where}</TiffData>'
            t += 1
    for name, part in parts.items():
        xml = (
            f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuids[name]}">'
            f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="{frames.shape[2]}" '
            f'SizeY="{frames.shape[1]}" SizeZ="1" SizeC="1" SizeT="{len(frames)}" '
            'PhysicalSizeX="0.2" PhysicalSizeY="0.2">'
            f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>'
        )
        write(folder / name, part, description=xml, metadata=None)
    return folder


def test_ome_series_over_files(tmp_path):
    frames = noise()
    folder = ome_files(tmp_path / "set", frames, 6)
    for where in (folder / "a.ome.tif", folder / "b.ome.tif", folder):
        video = open_video(where)
        assert video.metadata["pixel_size_um"] == (0.2, "container")
        assert {p.name for p in video.source.facts.files} == {"a.ome.tif", "b.ome.tif"}
        np.testing.assert_array_equal(video.read(4, 8), frames[4:8])
    assert open_video(folder / "a.ome.tif").sha256() == open_video(folder).sha256()


def test_ome_series_with_a_file_missing(tmp_path):
    folder = ome_files(tmp_path / "set", noise(), 6)
    (folder / "b.ome.tif").unlink()
    with pytest.raises(VideoError, match=r"in none of its files|damaged"):
        list(open_video(folder / "a.ome.tif").blocks(4))


@pytest.mark.parametrize("share", [0.95, 0.55, 0.05])
@pytest.mark.parametrize("kind", ["plain", "pages", "zlib", "imagej", "one directory", "ome"])
def test_truncated_files_are_damaged_not_short(tmp_path, kind, share, capfd):
    path, frames = tmp_path / ("v.ome.tif" if kind == "ome" else "v.tif"), noise()
    if kind == "pages":
        write_pages(path, frames)
    else:
        options = {
            "zlib": {"compression": "zlib"},
            "imagej": {"imagej": True},
            "one directory": {"imagej": True, "truncate": True},
        }
        write(path, frames, **options.get(kind, {}))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(VideoError, match=r"v\.(ome\.)?tif: "):
        list(open_video(path).blocks(3))
    assert capfd.readouterr().err == ""


def test_damage_inside_a_compressed_page(tmp_path):
    path = write(tmp_path / "v.tif", noise(), compression="zlib")
    data = bytearray(path.read_bytes())
    data[16000:16200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"v\.tif: cannot be read .*copy it again"):
        list(open_video(path).blocks(3))


@pytest.mark.parametrize("content", [b"", b"no tiff at all" * 50])
def test_files_that_are_no_tiff(tmp_path, content):
    (tmp_path / "v.tif").write_bytes(content)
    with pytest.raises(VideoError, match=r"v\.tif: .*copy it again"):
        open_video(tmp_path / "v.tif")


def test_frames_of_different_sizes(tmp_path):
    with tifffile.TiffWriter(tmp_path / "v.tif") as tif:
        for height in (40, 41, 40):
            tif.write(noise(t=1, h=height)[0], contiguous=False, photometric="minisblack", metadata=None)
    with pytest.raises(VideoError, match="differ in size"):
        open_video(tmp_path / "v.tif")
    folder = tmp_path / "folder"
    folder.mkdir()
    for k, height in enumerate((40, 41)):
        write(folder / f"{k}.tif", noise(t=1, h=height)[0])
    with pytest.raises(VideoError, match=r"1\.tif: frames of 65×41 px, uint8, those of 0\.tif are 65×40 px"):
        open_video(folder)


def test_coloured_palette_is_refused_but_imagej_tables_are_for_display(tmp_path):
    fire = np.zeros((3, 256), np.uint16)
    fire[0] = np.arange(256) * 257
    with pytest.raises(VideoError, match="palette colours"):
        open_video(write(tmp_path / "v.tif", noise(t=1)[0], photometric="palette", colormap=fire))
    frames = noise()
    lut = np.zeros((3, 256), np.uint8)
    lut[0] = np.arange(256)
    path = write(tmp_path / "ij.tif", frames, imagej=True, metadata={"axes": "TYX", "LUTs": [lut]})
    np.testing.assert_array_equal(open_video(path).read(0, 10), frames)


def test_the_log_of_others_is_left_alone(tmp_path, caplog):
    open_video(write(tmp_path / "v.tif", noise()))
    with caplog.at_level(logging.WARNING, "tifffile"):
        logging.getLogger("tifffile").warning("said by someone else")
    assert "said by someone else" in caplog.text


def test_pickled(tmp_path):
    frames = noise()
    video = pickle.loads(pickle.dumps(open_video(write(tmp_path / "v.tif", frames))))
    np.testing.assert_array_equal(video.read(3, 9), frames[3:9])
