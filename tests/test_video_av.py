"""AVI, MP4 and MKV: exact pixels where the codec is lossless, and every way in which a file can be broken."""

from __future__ import annotations

import pickle
import struct

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exotrack.errors import InputError, VideoError
from exotrack.video import open_video

GREY_RAMP = [(k, k, k) for k in range(256)]


def noise(t=10, h=46, w=66, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (t, h, w), dtype=dtype, endpoint=True)


def encode(path, frames, codec, pixel_format, *, given="gray", rate=25, options=None):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=given)
            if given != pixel_format:
                picture = picture.reformat(format=pixel_format)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def riff(tag, data):
    return tag + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def dib_avi(path, frames, *, palette=None, bottom_up=True, promise=None, drop=(), fps=25, odd_frame=None):
    """An uncompressed AVI as camera programs write it: 8-bit palettised or 24-bit BGR, rows padded to 4 bytes.

    `promise` is the number of frames in the header, `drop` frames become empty chunks, `odd_frame` replaces the bytes
    of the last one.
    """
    t, h, w = frames.shape[:3]
    bits = 8 if frames.ndim == 3 else 24
    stride = (w * bits // 8 + 3) & ~3
    colours = b"".join(bytes([b, g, r, 0]) for r, g, b in palette or ())
    promise = t if promise is None else promise
    height = h if bottom_up else -h
    header = struct.pack("<IiiHHIIiiII", 40, w, height, 1, bits, 0, stride * h, 0, 0, len(colours) // 4, 0) + colours
    main = struct.pack("<14I", 1_000_000 // fps, 0, 0, 0x10, promise, 0, 1, stride * h, w, h, 0, 0, 0, 0)
    stream = b"vidsDIB " + struct.pack("<IHHIIIIIIiI4H", 0, 0, 0, 0, 1, fps, 0, promise, stride * h, -1, 0, 0, 0, w, h)
    lists = riff(
        b"LIST", b"hdrl" + riff(b"avih", main) + riff(b"LIST", b"strl" + riff(b"strh", stream) + riff(b"strf", header))
    )
    movie, index = b"movi", b""
    for k, frame in enumerate(frames):
        rows = frame.reshape(h, -1)
        rows = np.pad(rows, ((0, 0), (0, stride - rows.shape[1])))
        data = b"" if k in drop else (rows[::-1] if bottom_up else rows).tobytes()
        if odd_frame is not None and k == t - 1:
            data = odd_frame
        index += b"00db" + struct.pack("<III", 0x10, len(movie), len(data))
        movie += riff(b"00db", data)
    body = b"AVI " + lists + riff(b"LIST", movie) + riff(b"idx1", index)
    path.write_bytes(riff(b"RIFF", body))
    return path


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "dtype", "bits"),
    [
        ("raw.avi", "rawvideo", "gray", np.uint8, 8),
        ("ffv1.avi", "ffv1", "gray", np.uint8, 8),
        ("png.avi", "png", "gray", np.uint8, 8),
        ("raw.mov", "rawvideo", "gray16be", np.uint16, 16),
        ("ffv1.mkv", "ffv1", "gray16le", np.uint16, 16),
    ],
)
def test_lossless_grey_is_exact(tmp_path, name, codec, pixel_format, dtype, bits):
    frames = noise(dtype=dtype)
    video = open_video(
        encode(tmp_path / name, frames, codec, pixel_format, given="gray" if bits == 8 else "gray16le"),
        pixel_size_um=0.1,
    )
    assert video.shape == frames.shape
    assert video.dtype == dtype
    assert video.metadata["bit_depth"] == (bits, "container")
    np.testing.assert_array_equal(video.read(0, 10), frames)
    np.testing.assert_array_equal(video.read(6, 9), frames[6:9])


def test_twelve_bits_in_sixteen_keep_their_depth(tmp_path):
    frames = noise(dtype=np.uint16) >> 4
    video = open_video(encode(tmp_path / "v.mkv", frames, "ffv1", "gray12le", given="gray12le"))
    assert video.metadata["bit_depth"] == (12, "container")
    np.testing.assert_array_equal(video.read(0, 10), frames)


@pytest.mark.parametrize("bottom_up", [True, False])
@pytest.mark.parametrize("palette", [GREY_RAMP, None])
def test_palettised_dib(tmp_path, bottom_up, palette):
    frames = noise(w=65)
    video = open_video(dib_avi(tmp_path / "v.avi", frames, palette=palette, bottom_up=bottom_up))
    assert not video.sequential
    np.testing.assert_array_equal(video.read(0, 10), frames)
    np.testing.assert_array_equal(video.read(7, 8), frames[7:8])


def test_coloured_palette_is_looked_up(tmp_path):
    frames = noise(t=2)
    palette = [(k, 255 - k, 0) for k in range(256)]
    video = open_video(dib_avi(tmp_path / "v.avi", frames, palette=palette), colour="green")
    np.testing.assert_array_equal(video.read(0, 2), 255 - frames)


@pytest.mark.parametrize("bottom_up", [True, False])
def test_grey_written_as_bgr_dib_is_that_grey(tmp_path, bottom_up):
    frames = noise(w=65)
    video = open_video(dib_avi(tmp_path / "v.avi", np.repeat(frames[..., None], 3, axis=3), bottom_up=bottom_up))
    np.testing.assert_array_equal(video.read(0, 10), frames)
    assert "equal channels" in video.container["colour"]


@pytest.mark.parametrize(("rule", "plane"), [("blue", 0), ("green", 1), ("red", 2)])
def test_named_channel_of_bgr_dib(tmp_path, rule, plane):
    frames = np.random.default_rng(1).integers(0, 256, (3, 20, 31, 3), dtype=np.uint8)
    video = open_video(dib_avi(tmp_path / "v.avi", frames), colour=rule)
    np.testing.assert_array_equal(video.read(0, 3), frames[..., plane])
    assert video.container["colour"] == f"{rule} channel"


def test_luma_of_bgr_dib_is_bt601(tmp_path):
    frames = np.random.default_rng(1).integers(0, 256, (3, 20, 31, 3), dtype=np.uint8)
    got = open_video(dib_avi(tmp_path / "v.avi", frames)).read(0, 3)
    expected = frames @ np.array([0.114, 0.587, 0.299])
    assert np.abs(got - expected).max() <= 0.5 + 1e-9


def test_packed_camera_format_gives_its_luma(tmp_path):
    frames = noise(t=3)
    packed = np.stack([np.full_like(frames, 128), frames], axis=3)  # U Y V Y
    path = tmp_path / "v.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.height, stream.width, stream.pix_fmt = 46, 66, "uyvy422"
        for frame in packed:
            picture = av.VideoFrame(66, 46, "uyvy422")
            plane = picture.planes[0]
            rows = np.zeros((46, plane.line_size), np.uint8)
            rows[:, : 2 * 66] = frame.reshape(46, -1)
            plane.update(rows.tobytes())
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    video = open_video(path)
    assert video.container["pixel_format"] == "uyvy422"
    np.testing.assert_array_equal(video.read(0, 3), frames)


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"), [("v.avi", "mjpeg", "yuvj420p"), ("v.mp4", "libx264", "yuv420p")]
)
def test_lossy_codecs_give_the_luma_plane_and_a_warning(tmp_path, name, codec, pixel_format):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    y, x = np.mgrid[0:48, 0:64]
    frames = np.stack([(y + x + 40 + 3 * k).astype(np.uint8) for k in range(12)])
    video = open_video(encode(tmp_path / name, frames, codec, pixel_format))
    with av.open(str(tmp_path / name)) as container:
        expected = np.stack([frame.to_ndarray()[:48] for frame in container.decode(video=0)])
    np.testing.assert_array_equal(video.read(0, 12), expected)
    np.testing.assert_array_equal(video.read(5, 7), expected[5:7])
    assert any("lossy" in warning for warning in video.warnings)
    assert video.container["luma_range"] == ("full" if codec == "mjpeg" else "limited")
    assert video.sequential == (codec == "libx264")
    assert np.abs(video.read(0, 12).astype(float) - frames).mean() < 20


def test_the_headers_rate_is_a_lead_with_a_warning(tmp_path):
    path = encode(tmp_path / "v.avi", noise(t=2), "rawvideo", "gray", rate=30)
    lead = open_video(path, pixel_size_um=0.2)
    assert lead.acquisition.frame_interval_s == pytest.approx(1 / 30)
    assert lead.metadata["frame_interval_s"][1] == "container"
    assert any("header" in warning for warning in lead.warnings)
    stated = open_video(path, pixel_size_um=0.2, fps=24.98)
    assert stated.metadata["frame_interval_s"] == (1 / 24.98, "argument")
    assert not any("header" in warning for warning in stated.warnings)


@pytest.mark.parametrize("share", [0.9, 0.55, 0.3])
@pytest.mark.parametrize("make", ["dib", "raw"])
def test_truncated_avi(tmp_path, make, share):
    path = tmp_path / "v.avi"
    frames = noise()
    if make == "dib":
        dib_avi(path, frames, palette=GREY_RAMP)
    else:
        encode(path, frames, "rawvideo", "gray")
    video = open_video(cut(path, share))
    with pytest.raises(VideoError, match=r"v\.avi: the header promises 10 frames, only \d could be decoded"):
        list(video.blocks(4))
    np.testing.assert_array_equal(video.read(0, 1), frames[:1])
    with pytest.raises(VideoError, match="promises 10 frames"):
        video.read(8, 10)


def test_a_frame_that_ends_early_is_never_delivered(tmp_path):
    path = dib_avi(tmp_path / "v.avi", noise(), palette=GREY_RAMP)
    # The last frame has bytes, but not all of them.
    path.write_bytes(path.read_bytes()[: -(16 * 10 + 8) - 1000])
    with pytest.raises(VideoError, match="only 9 could be decoded"):
        open_video(path).read(9, 10)


@pytest.mark.parametrize(
    ("promise", "message"), [(20, "promises 20 frames, only 10"), (5, "promises 5 frames and the file holds more")]
)
def test_header_with_the_wrong_number_of_frames(tmp_path, promise, message):
    video = open_video(dib_avi(tmp_path / "v.avi", noise(), palette=GREY_RAMP, promise=promise))
    assert len(video) == promise
    with pytest.raises(VideoError, match=message):
        list(video.blocks(3))


def test_header_with_the_wrong_frame_size(tmp_path):
    path = tmp_path / "a.avi"
    encode(path, noise(h=240, w=320), "rawvideo", "gray")
    data = bytearray(path.read_bytes())
    at = data.find(b"strf") + 12  # width and height of the stream's format
    assert struct.unpack("<ii", data[at : at + 8]) == (320, 240)
    data[at : at + 8] = struct.pack("<ii", 160, 120)
    path.write_bytes(data)
    with pytest.raises(VideoError, match="160×120 px"):
        open_video(path)


def test_header_without_a_number_is_counted(tmp_path):
    frames = noise()
    video = open_video(dib_avi(tmp_path / "v.avi", frames, palette=GREY_RAMP, promise=0))
    assert len(video) == 10
    np.testing.assert_array_equal(video.read(0, 10), frames)


def test_dropped_frames_are_an_error_whatever_is_read_first(tmp_path):
    video = open_video(dib_avi(tmp_path / "v.avi", noise(), palette=GREY_RAMP, drop=(4,)))
    for read in (lambda: list(video.blocks(3)), lambda: video.read(3, 6)):
        with pytest.raises(VideoError, match="frame 4 is missing, the next one is 5"):
            read()


def test_damage_inside_compressed_frames(tmp_path):
    path = encode(tmp_path / "v.avi", noise(), "mjpeg", "yuvj420p")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2500] = b"\xff" * 2500
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"v\.avi: .*(damaged|missing)"):
        list(open_video(path).blocks(4))


def test_truncated_mp4_has_no_index_and_is_refused(tmp_path):
    if "libx264" not in av.codecs_available:
        pytest.skip("this FFmpeg has no H.264 encoder")
    path = cut(encode(tmp_path / "v.mp4", noise(), "libx264", "yuv420p"), 0.5)
    with pytest.raises(VideoError, match=r"v\.mp4: cannot be read .*copy it again"):
        open_video(path)


@pytest.mark.parametrize("content", [b"", b"no video at all" * 50])
def test_files_that_are_no_video(tmp_path, content):
    path = tmp_path / "v.avi"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"v\.avi: .*copy it again"):
        open_video(path)


def test_empty_video(tmp_path):
    with pytest.raises(VideoError, match="the video is empty"):
        open_video(dib_avi(tmp_path / "v.avi", noise()[:0], palette=GREY_RAMP))


def test_a_chunk_of_the_wrong_size_is_not_a_frame(tmp_path):
    video = open_video(dib_avi(tmp_path / "v.avi", noise(), palette=GREY_RAMP, odd_frame=b"\x01" * 100))
    with pytest.raises(VideoError, match="only 9 could be decoded"):
        list(video.blocks(4))


def test_frames_that_change_size(tmp_path):
    large = encode(tmp_path / "large.avi", noise(t=3, h=48, w=64), "mjpeg", "yuvj420p").read_bytes()
    small = encode(tmp_path / "small.avi", noise(t=1, h=32, w=32), "mjpeg", "yuvj420p").read_bytes()
    with av.open(str(tmp_path / "small.avi")) as container:
        picture = bytes(next(container.demux(video=0)))
    assert picture in small
    # The small picture replaces the last large one; what is left of its chunk follows the end of the image.
    with av.open(str(tmp_path / "large.avi")) as container:
        last = [bytes(packet) for packet in container.demux(video=0) if packet.size][-1]
    (tmp_path / "v.avi").write_bytes(large.replace(last, picture + bytes(len(last) - len(picture))))
    with pytest.raises(VideoError, match=r"frame 2 is 32×32 px of uint8, the header says 64×48 px"):
        list(open_video(tmp_path / "v.avi").blocks(2))


def test_one_frame(tmp_path):
    frames = noise(t=1)
    video = open_video(dib_avi(tmp_path / "v.avi", frames, palette=GREY_RAMP))
    assert len(video) == 1
    np.testing.assert_array_equal(video.read(0, 1), frames)


def test_fifteen_bit_colour_is_refused(tmp_path):
    # FFmpeg reads 16-bit grey in an AVI without a code as RGB 5-5-5: to scale that would be silent damage.
    path = encode(tmp_path / "v.avi", noise(dtype=np.uint16), "rawvideo", "gray16le", given="gray16le")
    with pytest.raises(VideoError, match=r"rgb555le \(5 bits per sample\) is not read"):
        open_video(path)


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    frames = noise(t=23, h=12, w=17)
    folder = tmp_path_factory.mktemp("walk")
    seekable = open_video(dib_avi(folder / "dib.avi", frames, palette=GREY_RAMP))
    in_order = open_video(encode(folder / "ffv1.mkv", frames, "ffv1", "gray"))
    assert (seekable.sequential, in_order.sequential) == (False, True)
    return frames, (seekable, in_order)


@settings(deadline=None, max_examples=25)
@given(block=st.integers(1, 30), edges=st.tuples(st.integers(0, 23), st.integers(0, 23)))
def test_any_block_size_yields_the_same_frames(walked, block, edges):
    frames, videos = walked
    start, stop = min(edges), max(edges)
    for video in videos:
        firsts, blocks = zip(*video.blocks(block, start, stop), strict=True) if start < stop else ((), ())
        assert list(firsts) == list(range(start, stop, block))
        assert all(len(b) <= block for b in blocks)
        np.testing.assert_array_equal(np.concatenate([*blocks, frames[:0]]), frames[start:stop])


def test_ranges_are_checked(walked):
    video = walked[1][0]
    for start, stop in ((-1, 3), (3, 2), (0, 24)):
        with pytest.raises(InputError, match=r"frames .* were asked for"):
            video.read(start, stop)
    with pytest.raises(InputError, match="block_frames = 0"):
        video.blocks(0)
    assert video.read(5, 5).shape == (0, 12, 17)


def test_pickled_videos_read_the_same(walked):
    frames, videos = walked
    for video in videos:
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(video)).read(3, 9), frames[3:9])


def test_dask_view(walked):
    frames, videos = walked
    for video in videos:
        lazy = video.to_dask(10)
        assert lazy.chunks[0] == (10, 10, 3)
        assert lazy.dtype == np.uint8
        np.testing.assert_array_equal(lazy[8:12].compute(scheduler="synchronous"), frames[8:12])
