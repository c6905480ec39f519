"""Reading OME-Zarr: codecs, frames per chunk, size of shards, and ways to read, of which `exotrack convert` has one.

Lossless codecs with a CRC-32C per chunk, as converted videos have. A store is read as exotrack localizes: windows of
300 frames, in order, from the operating system's cache; once one window at a time, and once by two threads that read
different windows. Decoding competes with localization for the cores, so CPU time counts before wall time.

The real frames have 8 bits: 1 µm spheres in bright field, `bulk_water` of soft-matter/trackpy-examples as one TIFF file
that the environment variable `BULK_WATER_TIFF` names; without it they are left out. Their 120 frames are repeated, at a
distance that no chunk spans. The other frames are simulated: 8 bits as NanoSight exports them, and 16 bits with the
noise of an sCMOS camera (2 DN per electron). The pipelines `zarrs` (the package of that name) and, from zarr 3.3
on, `fused` are measured where they are installed.
"""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from harness import main
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

import exotrack
from exotrack.tables import Array

WINDOW = 300
DEFAULT = "blosc-zstd 1, bytes, 1 MiB"
PIPELINES = {
    "batched": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "fused": "zarr.core.codec_pipeline.FusedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}


class Layout(NamedTuple):
    """How frames are stored."""

    codec: str = DEFAULT
    chunk_frames: int = 16
    shard_mb: int = 64


def codecs(itemsize: int) -> dict[str, list[Any]]:
    """Compressors by name; none for the frames as they are."""

    def blosc(name: str, level: int, shuffle: str, block: int = 0) -> list[Any]:
        return [BloscCodec(cname=name, clevel=level, shuffle=shuffle, typesize=itemsize, blocksize=block)]

    return {
        DEFAULT: blosc("zstd", 1, "shuffle", 2**20),
        "none": [],
        "zstd 1": [ZstdCodec(level=1)],
        "zstd 3": [ZstdCodec(level=3)],
        "zstd 5": [ZstdCodec(level=5)],
        "blosc-zstd 1, bytes": blosc("zstd", 1, "shuffle"),
        "blosc-zstd 3, bytes": blosc("zstd", 3, "shuffle"),
        "blosc-zstd 1, bits": blosc("zstd", 1, "bitshuffle"),
        "blosc-zstd 3, bits": blosc("zstd", 3, "bitshuffle"),
        "blosc-lz4 1, bits": blosc("lz4", 1, "bitshuffle"),
    }


def samples(quick: bool) -> dict[str, Array]:
    """Frames to store by name."""
    if quick:
        shape = {"frame_shape": (64, 80), "n_frames": 40, "particles_per_frame": 3.0}
        return {"simulated, 8 bits": simulated(**shape), "simulated, 16 bits": simulated(**shape, bit_depth=16)}
    found = {
        "simulated, 8 bits": simulated(frame_shape=(720, 1280), n_frames=600, particles_per_frame=60.0),
        "simulated, 16 bits": simulated(
            frame_shape=(512, 512),
            n_frames=600,
            particles_per_frame=80.0,
            bit_depth=16,
            gain_dn=2.0,
            offset_dn=100.0,
            background_dn=200.0,
            read_noise_e=1.6,
            unevenness=0.3,
        ),
    }
    if "BULK_WATER_TIFF" in os.environ:
        video = exotrack.open_video(os.environ["BULK_WATER_TIFF"])
        found = {"real, 8 bits": np.concatenate([video.read(0, len(video))] * 5), **found}
    return found


def simulated(**settings: Any) -> Array:
    """Frames of a simulated video."""
    video, _ = exotrack.simulate(**settings, snr=12.0, seed=3)
    return np.concatenate([block for _, block in video.blocks(64)])


def store(path: Path, frames: Array, layout: Layout) -> float:
    """Write an OME-Zarr shard by shard; returns the time that it took, s."""
    chunk = min(layout.chunk_frames, len(frames))
    shard = chunk * max(1, layout.shard_mb * 2**20 // (chunk * frames[0].nbytes))
    root = zarr.open_group(str(path), mode="w", zarr_format=3)
    axes = [{"name": "t", "type": "time"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": []}]}
    root.update_attributes({"ome": {"version": "0.5", "multiscales": [image]}})
    array = root.create_array(
        "0",
        shape=frames.shape,
        dtype=frames.dtype,
        chunks=(chunk, *frames.shape[1:]),
        shards=(shard, *frames.shape[1:]),
        compressors=[*codecs(frames.dtype.itemsize)[layout.codec], Crc32cCodec()],
        config={"write_empty_chunks": True},
    )
    start = time.perf_counter()
    for first in range(0, len(frames), shard):
        array[first : first + shard] = frames[first : first + shard]
    return time.perf_counter() - start


def in_place(path: Path) -> Callable[[int, int], Array]:
    """As exotrack reads: shard by shard, decoded into the result."""
    return exotrack.open_video(path).read


def copied(path: Path) -> Callable[[int, int], Array]:
    """The plain way, for comparison: 16 MB at a time, frames copied into the result."""

    def read(start: int, stop: int) -> Array:
        array = zarr.open_array(str(path), path="0", mode="r")
        step = array.chunks[0] * max(1, 2**24 // (array.chunks[0] * array[0].nbytes))
        out, low = np.empty((stop - start, *array.shape[1:]), array.dtype), start
        while low < stop:
            high = min((low // step + 1) * step, stop)
            for offset, frame in enumerate(array[low:high]):
                out[low - start + offset] = frame
            low = high
        return out

    return read


def pipeline(name: str) -> AbstractContextManager[Any] | None:
    """zarr's setting for a codec pipeline; None where it is not installed."""
    module, _, attribute = PIPELINES[name].rpartition(".")
    try:
        getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return None
    return zarr.config.set({"codec_pipeline.path": PIPELINES[name]})


def timed(path: Path, frames: Array, way: Callable[[Path], Callable[[int, int], Array]], repeats: int) -> list[float]:
    """CPU s and wall s to read all frames in windows, then both for two threads; the least of some rounds."""
    windows = [(first, min(first + WINDOW, len(frames))) for first in range(0, len(frames), WINDOW)]
    read = way(path)
    for first, last in windows:
        if not np.array_equal(read(first, last), frames[first:last]):
            raise AssertionError(f"{path.name}: what was read differs from what was written")

    def touch(window: tuple[int, int]) -> int:
        return read(*window).nbytes  # the frames themselves are let go

    result = []
    with ThreadPoolExecutor(2) as pool:
        for run in (map, pool.map):
            rounds = []
            for _ in range(repeats):
                wall, cpu = time.perf_counter(), time.process_time()
                list(run(touch, windows))
                rounds.append((time.process_time() - cpu, time.perf_counter() - wall))
            result += [min(column) for column in zip(*rounds, strict=True)]
    return result


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row per sample, layout and way to read."""
    everything = samples(quick)
    names = list(codecs(1))
    layouts = [Layout(name) for name in (names[:2] if quick else names)]
    sizes = [Layout(chunk_frames=n) for n in (1, 4, 32)] + [Layout(shard_mb=n) for n in (16, 256)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v.zarr"
        for sample, frames in everything.items():
            for layout in layouts + ([] if quick else sizes):
                seconds = store(path, frames, layout)
                size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                ways = [("batched", "in place", in_place)]
                if layout == Layout():
                    ways += [("batched", "copied", copied), ("fused", "in place", in_place)]
                    ways += [("zarrs", "in place", in_place), ("zarrs", "copied", copied)]
                for name, how, way in ways:
                    setting = pipeline(name)
                    if setting is None:
                        continue
                    with setting:
                        cpu, wall, cpu_two, wall_two = timed(path, frames, way, 1 if quick else 4)
                    rows.append(
                        {
                            "frames": sample,
                            **layout._asdict(),
                            "pipeline": name,
                            "read": how,
                            "ratio": frames.nbytes / size,
                            "write, MB/s": frames.nbytes / seconds / 1e6,
                            "CPU s/GB": cpu / frames.nbytes * 1e9,
                            "MB/s": frames.nbytes / wall / 1e6,
                            "CPU s/GB, two threads": cpu_two / frames.nbytes * 1e9,
                            "MB/s, two threads": frames.nbytes / wall_two / 1e6,
                        }
                    )
                shutil.rmtree(path)
    return rows


if __name__ == "__main__":
    main("reading", measure)
