"""OME-Zarr of both versions, local and by URL, and conversion: same frames, same metadata, or a clear refusal."""

from __future__ import annotations

import http.server
import importlib
import importlib.util
import pickle
import threading

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec

from exotrack.errors import InputError, VideoError
from exotrack.video import convert, open_video

convert_module = importlib.import_module("exotrack.video.convert")
omezarr_module = importlib.import_module("exotrack.video.omezarr")


def noise(t=10, h=47, w=65, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (t, h, w), dtype=dtype, endpoint=True)


def write_image(path, array, axes, *, version="0.5", scale=None, within=None, transform=None, omero=None):
    """A foreign OME-Zarr image, as other programs write it."""
    zarr_format = 3 if version == "0.5" else 2
    root = zarr.open_group(str(path), mode="a", zarr_format=zarr_format)
    group = root.require_group(within) if within else root
    if within:
        layout = {"bioformats2raw.layout": 3}
        root.update_attributes({"ome": {"version": version, **layout}} if zarr_format == 3 else layout)
    group.create_array("s0", data=array, chunks=(4,) + (1,) * (array.ndim - 3) + array.shape[-2:])
    image = {
        "axes": axes,
        "datasets": [
            {"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": scale or [1.0] * array.ndim}]}
        ],
    }
    if transform:
        image["coordinateTransformations"] = [{"type": "scale", "scale": transform}]
    content = {"multiscales": [image], **({"omero": omero} if omero else {})}
    if zarr_format == 3:
        group.update_attributes({"ome": {"version": version, **content}})
    else:
        image["version"] = version
        group.update_attributes(content)
    return path


def axis(name, unit=None):
    kind = {"t": "time", "c": "channel"}.get(name, "space")
    return {"name": name, "type": kind, **({"unit": unit} if unit else {})}


TYX = [axis("t", "millisecond"), axis("y", "nanometer"), axis("x", "nanometer")]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_foreign_images(tmp_path, version, dtype):
    frames = noise(dtype=dtype)
    video = open_video(
        write_image(tmp_path / "v.zarr", frames, TYX, version=version, scale=[20, 83, 83], transform=[2, 2, 2])
    )
    np.testing.assert_array_equal(video.read(0, 10), frames)
    np.testing.assert_array_equal(video.read(3, 9), frames[3:9])
    assert (video.acquisition.pixel_size_um, video.acquisition.frame_interval_s) == (0.166, 0.04)
    assert video.container["format"] == f"OME-Zarr {version}"
    assert not video.sequential


def test_scale_without_unit_is_not_knowledge(tmp_path):
    video = open_video(write_image(tmp_path / "v.zarr", noise(), [axis("t"), axis("y"), axis("x")]))
    with pytest.raises(InputError, match="pixel_size_um and frame_interval_s not known"):
        _ = video.acquisition


def test_five_dimensions(tmp_path):
    both = np.stack([noise(seed=1), noise(seed=2)], axis=1)[:, :, None]
    axes = [axis(name) for name in "tczyx"]
    omero = {"channels": [{"label": "scatter"}, {"label": "CD9"}]}
    path = write_image(tmp_path / "v.zarr", both, axes, omero=omero)
    with pytest.raises(InputError, match=r"2 channels; give channel .*scatter, CD9"):
        open_video(path)
    np.testing.assert_array_equal(open_video(path, channel="CD9").read(2, 7), both[2:7, 1, 0])
    single = write_image(tmp_path / "w.zarr", both[:, :1], axes)
    np.testing.assert_array_equal(open_video(single).read(0, 10), both[:, 0, 0])


def test_one_frame(tmp_path):
    frames = noise(t=1)
    video = open_video(write_image(tmp_path / "v.zarr", frames, TYX))
    assert len(video) == 1
    np.testing.assert_array_equal(video.read(0, 1), frames)


@pytest.mark.parametrize("dtype", [">u2", "<u2"])
def test_decoded_in_place_as_frame_by_frame(tmp_path, dtype):
    # One block is decoded straight into the result, small ones go through runs; either byte order, planes of 5 axes.
    frames = noise(t=11, dtype=np.uint16)
    both = np.stack([frames, noise(t=11, dtype=np.uint16, seed=1)], axis=1)[:, :, None]
    path = write_image(tmp_path / "v.zarr", both.astype(dtype), [axis(name) for name in "tczyx"], version="0.4")
    video = open_video(path, channel=0)
    assert video.read(0, 11).dtype == np.uint16
    for start, stop in ((0, 11), (1, 10), (3, 4), (4, 8), (5, 5)):
        np.testing.assert_array_equal(video.read(start, stop), frames[start:stop])
        small = [block for _, block in video.blocks(3, start, stop)]
        np.testing.assert_array_equal(np.concatenate([*small, frames[:0]]), frames[start:stop])


@pytest.mark.parametrize(("shard", "run_bytes", "run"), [(8, 10, 8), (8, 16, 16), (8, 6, 4), (8, 1, 4), (None, 9, 8)])
def test_runs_are_whole_shards_or_chunks(tmp_path, monkeypatch, shard, run_bytes, run):
    monkeypatch.setattr(omezarr_module, "_RUN_BYTES", run_bytes * 47 * 65)
    frames = noise(t=37)
    path = write_image(tmp_path / "v.zarr", frames, TYX)
    shards = None if shard is None else (shard, 47, 65)
    zarr.open_group(str(path)).create_array("s0", data=frames, chunks=(4, 47, 65), shards=shards, overwrite=True)
    video = open_video(path)
    assert video.source.run == run
    for size in (1, 5, 8, 16, 30, 37):
        parts = list(video.blocks(size, 2, 35))
        assert [first for first, _ in parts] == list(range(2, 35, size))
        np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), frames[2:35])


def test_a_missing_chunk_of_a_foreign_image_is_its_fill_value(tmp_path):
    frames = noise(t=12)
    path = write_image(tmp_path / "v.zarr", frames, TYX)
    (path / "s0" / "c" / "1" / "0" / "0").unlink()
    frames[4:8] = 0
    np.testing.assert_array_equal(open_video(path).read(0, 12), frames)


def test_stores_of_earlier_versions(tmp_path):
    # Zstandard level 3 on bit planes, as `convert` wrote at first.
    frames = noise(t=37, dtype=np.uint16)
    path = write_image(tmp_path / "v.zarr", frames, TYX)
    zarr.open_group(str(path)).create_array(
        "s0",
        data=frames,
        chunks=(16, 47, 65),
        shards=(48, 47, 65),
        compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=2), Crc32cCodec()],
        overwrite=True,
    )
    np.testing.assert_array_equal(open_video(path).read(0, 37), frames)
    shard = path / "s0" / "c" / "0" / "0" / "0"
    damaged = bytearray(shard.read_bytes())
    damaged[200] ^= 0x10
    shard.write_bytes(damaged)
    with pytest.raises(VideoError, match="checksum"):
        open_video(path).read(0, 37)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_collections_need_a_position(tmp_path, version):
    path = tmp_path / "v.zarr"
    write_image(path, noise(seed=1), TYX, version=version, within="0")
    np.testing.assert_array_equal(open_video(path).read(0, 10), noise(seed=1))
    write_image(path, noise(seed=2), TYX, version=version, within="1")
    with pytest.raises(InputError, match="several images; give position"):
        open_video(path)
    np.testing.assert_array_equal(open_video(path, position=1).read(0, 10), noise(seed=2))


def test_folders_that_hold_no_image(tmp_path):
    (tmp_path / "v.zarr").mkdir()
    with pytest.raises(VideoError, match="no Zarr group is there"):
        open_video(tmp_path / "v.zarr")
    zarr.open_group(str(tmp_path / "w.zarr"), mode="w")
    with pytest.raises(VideoError, match="no OME image"):
        open_video(tmp_path / "w.zarr")
    zarr.create_array(str(tmp_path / "a.zarr"), data=noise())
    with pytest.raises(VideoError, match="no Zarr group is there"):
        open_video(tmp_path / "a.zarr")
    wrong = write_image(tmp_path / "x.zarr", noise(), [axis("t"), axis("y")])
    with pytest.raises(VideoError, match="do not describe its array"):
        open_video(wrong)


def source(tmp_path, frames, **keywords):
    np.save(tmp_path / "v.npy", frames)
    keywords = {"pixel_size_um": 0.166, "frame_interval_s": 0.04, "exposure_s": 0.02, **keywords}
    return open_video(tmp_path / "v.npy", settings={"batch": "B1", "cuts": [4]}, **keywords)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_conversion_keeps_frames_and_knowledge(tmp_path, dtype):
    frames = noise(t=37, dtype=dtype)
    frames[5:30] = 0  # all-black chunks are stored too
    video = source(tmp_path, frames)
    steps = []
    converted = convert(video, tmp_path / "out" / "v.zarr", progress=lambda done, total: steps.append((done, total)))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["v.zarr"]
    np.testing.assert_array_equal(converted.read(0, 37), frames)
    ours, theirs = converted.acquisition, video.acquisition
    for name in (
        "pixel_size_um",
        "frame_interval_s",
        "exposure_s",
        "temperature_c",
        "medium",
        "cuts",
        "frame_shape",
        "n_frames",
    ):
        assert getattr(ours, name) == getattr(theirs, name)
    assert converted.metadata["exposure_s"] == (0.02, "container")
    assert converted.metadata["batch"] == ("B1", "container")
    # The protocol's 25 °C was an assumption and must not come back as if the file knew it.
    assert converted.metadata["temperature_c"][1] == "protocol default"
    assert converted.container["converted_from"]["sha256"] == video.sha256()
    assert steps[-1] == (74, 74)
    assert steps == sorted(steps)


def test_converted_store_is_what_it_says(tmp_path):
    convert(source(tmp_path, noise(t=37)), tmp_path / "v.zarr")
    root = zarr.open_group(str(tmp_path / "v.zarr"), mode="r")
    ome = root.attrs["ome"]
    assert ome["version"] == "0.5"
    image = ome["multiscales"][0]
    assert [(a["name"], a["type"], a["unit"]) for a in image["axes"]] == [
        ("t", "time", "second"),
        ("y", "space", "micrometer"),
        ("x", "space", "micrometer"),
    ]
    assert image["datasets"][0]["coordinateTransformations"] == [{"type": "scale", "scale": [0.04, 0.166, 0.166]}]
    array = root["0"]
    assert (array.chunks, array.shards) == ((16, 47, 65), (48, 47, 65))
    assert array.metadata.dimension_names == ("t", "y", "x")
    sharding = array.metadata.to_dict()["codecs"][0]
    assert sharding["name"] == "sharding_indexed"
    assert [c["name"] for c in sharding["configuration"]["codecs"]] == ["bytes", "blosc", "crc32c"]
    assert "crc32c" in [c["name"] for c in sharding["configuration"]["index_codecs"]]
    blosc = sharding["configuration"]["codecs"][1]["configuration"]
    assert (blosc["cname"], blosc["clevel"], blosc["shuffle"]) == ("zstd", 1, "shuffle")
    entry = root.attrs["exotrack"]["metadata"]["pixel_size_um"]
    assert entry == {"value": 0.166, "origin": "argument"}


def test_conversion_without_scale(tmp_path):
    np.save(tmp_path / "v.npy", noise())
    converted = convert(tmp_path / "v.npy", tmp_path / "v.zarr")
    assert "pixel_size_um" not in converted.metadata
    np.testing.assert_array_equal(converted.read(0, 10), noise())


def test_conversion_over_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module, "_SHARD_BYTES", 47 * 65 * 32)
    frames = noise(t=75)
    converted = convert(source(tmp_path, frames), tmp_path / "v.zarr")
    assert sorted(p.name for p in (tmp_path / "v.zarr" / "0" / "c").iterdir()) == ["0", "1", "2"]
    np.testing.assert_array_equal(converted.read(0, 75), frames)
    shard = tmp_path / "v.zarr" / "0" / "c" / "1" / "0" / "0"
    kept = shard.read_bytes()
    damaged = bytearray(kept)
    damaged[200] ^= 0x10
    shard.write_bytes(damaged)
    with pytest.raises(VideoError, match=r"v\.zarr: cannot be read .*checksum"):
        list(open_video(tmp_path / "v.zarr").blocks(10))
    with pytest.raises(VideoError, match=r"v\.zarr: cannot be read .*checksum"):
        open_video(tmp_path / "v.zarr").read(0, 75)
    shard.unlink()
    with pytest.raises(VideoError, match="1 of its 3 shards are missing, the first is 1"):
        open_video(tmp_path / "v.zarr")


def test_existing_target(tmp_path):
    video = source(tmp_path, noise())
    convert(video, tmp_path / "v.zarr")
    with pytest.raises(InputError, match=r"v\.zarr: exists already"):
        convert(video, tmp_path / "v.zarr")
    other = noise(seed=5)
    np.save(tmp_path / "v.npy", other)
    np.testing.assert_array_equal(convert(video, tmp_path / "v.zarr", overwrite=True).read(0, 10), other)
    with pytest.raises(InputError, match="source and target are the same"):
        convert(tmp_path / "v.zarr", tmp_path / "v.zarr", overwrite=True)
    with pytest.raises(InputError, match=r"ends in \.zarr; name it v\.zarr"):
        convert(video, tmp_path / "v.npy", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v.npy", "v.zarr"]


def test_what_differs_from_the_source_is_removed(tmp_path, monkeypatch):
    video = source(tmp_path, noise())
    write = convert_module._write

    def disturbed(*arguments):
        digests = write(*arguments)
        digests[7] = bytes(32)
        return digests

    monkeypatch.setattr(convert_module, "_write", disturbed)
    with pytest.raises(VideoError, match="frame 7 read back from the converted video differs"):
        convert(video, tmp_path / "v.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["v.npy"]


def test_a_target_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(VideoError, match=r"v\.zarr: cannot be written"):
        convert(source(tmp_path, noise()), tmp_path / "file" / "v.zarr")


def test_interruption_leaves_the_old_store(tmp_path):
    video = source(tmp_path, noise())
    convert(video, tmp_path / "v.zarr")

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(video, tmp_path / "v.zarr", overwrite=True, progress=interrupt)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v.npy", "v.zarr"]
    np.testing.assert_array_equal(open_video(tmp_path / "v.zarr").read(0, 10), noise())


def test_warnings_travel_with_the_converted_video(tmp_path):
    frames = noise()
    path = write_image(tmp_path / "z.zarr", frames, [axis("z"), axis("y"), axis("x")])
    assert convert(path, tmp_path / "v.zarr").warnings == ("the z axis of 10 planes was read as time",)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zarr")
    frames = noise(t=40, h=9, w=11)
    np.save(folder / "v.npy", frames)
    return frames, convert(folder / "v.npy", folder / "v.zarr")


@settings(deadline=None, max_examples=15)
@given(block=st.integers(1, 45), edges=st.tuples(st.integers(0, 40), st.integers(0, 40)))
def test_any_block_size_yields_the_same_frames(converted, block, edges):
    frames, video = converted
    start, stop = min(edges), max(edges)
    blocks = [b for _, b in video.blocks(block, start, stop)]
    np.testing.assert_array_equal(np.concatenate([*blocks, frames[:0]]), frames[start:stop])


def test_pickled_and_hashed(converted):
    frames, video = converted
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(video)).read(3, 9), frames[3:9])
    assert len(video.sha256()) == 64


def ranged(folder):
    """A request handler that answers range requests, which sharded arrays are read with."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            file = folder / self.path.lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            data = file.read_bytes()
            asked = self.headers.get("Range", "")
            if asked:
                first, last = asked.removeprefix("bytes=").split("-")
                data = data[int(first) : int(last or len(data)) + 1] if first else data[-int(last) :]
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    return Handler


@pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="HTTP needs the extra exotrack[remote]")
def test_by_url(converted):
    frames, video = converted

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), ranged(video.path.parent)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        remote = open_video(f"{url}/v.zarr")
        assert remote.shape == frames.shape
        np.testing.assert_array_equal(remote.read(0, 40), frames)
        assert len(remote.sha256()) == 64
        with pytest.raises(VideoError, match="no Zarr group is there"):
            open_video(f"{url}/none.zarr")
        server.shutdown()
    with pytest.raises(VideoError, match="cannot be read"):
        open_video(f"{url}/v.zarr")
