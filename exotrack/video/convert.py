"""Lossless conversion of any readable video to sharded, checksummed OME-Zarr."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from exotrack.errors import InputError, VideoError
from exotrack.tables import Array
from exotrack.video.lazy import Video
from exotrack.video.opening import open_video

Progress = Callable[[int, int], None]

# Measured by benchmarks/bench_reading.py. Noise cannot be predicted, only coded, which the fastest level of zstd does:
# ratios of 2.74 on real 8-bit frames and 2.39 on simulated ones at 1.4 and 1.0 s of CPU time per GB to read, where
# level 3 on bit planes had 2.19 and 1.96 at 1.9 and 1.0 s. The bytes of 16 bits are coded apart.
_LEVEL = 1
# Blosc's own choice of blocks for this level: 1 to 2 % larger, a third to a half more time to read.
_BLOSC_BYTES = 2**20
# One frame a chunk takes 14 to 46 % more time to read, four up to 31 % more, 32 no less.
_CHUNK_BYTES = 16 * 2**20
_CHUNK_FRAMES = 16
# One object of a store, read in one request and held beside the result; 16 and 256 MB are read as fast from a disk.
# More would cost memory and mostly lie outside a window of some hundred frames, less would make many more objects.
_SHARD_BYTES = 64 * 2**20


def convert(
    video: Video | str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Video:
    """Write a video as OME-Zarr (NGFF 0.5, Zarr v3), read it back, and compare every frame.

    Chunks hold up to 16 whole frames, shards about 64 MB of them (uncompressed), Blosc/zstd with byte shuffle; each
    chunk and each shard index carries a CRC-32C. The axes have their physical scale where it is known. What is known
    about the recording is stored with its origins, except for protocol defaults, which are not knowledge; opening the
    store gives the same frames and the same values, then of origin "container". A camera is to be stated again: its
    maps stay a file of their own. The store appears under its name only once it is complete and verified. Memory holds
    one shard, whatever the length of the video.

    Parameters
    ----------
    video
        What to convert; a path is opened with `open_video`.
    out
        New folder, by custom ending in ``.zarr``.
    overwrite
        Replace an existing folder.
    progress
        Called with frames done and frames in total, where writing and verifying each frame count once.

    Returns
    -------
    Video
        The converted video, opened.

    Raises
    ------
    InputError
        If `out` exists and is not to be overwritten, is the video itself, or does not end in ``.zarr``.
    VideoError
        If the source cannot be decoded, or what was written differs from it.

    References
    ----------
    .. [1] OME-NGFF: a next-generation file format for expanding bioimaging data-access strategies, Nature Methods 18,
       1496–1498 (2021), doi:10.1038/s41592-021-01326-w
    """
    video = video if isinstance(video, Video) else open_video(video)
    target = Path(out)
    _check_target(video, target, overwrite)
    try:
        _write_verified(video, target, progress)
    except OSError as error:
        raise VideoError(
            f"{target}: cannot be written ({error.strerror}); free some space or choose another place"
        ) from None
    return open_video(target)


def _write_verified(video: Video, target: Path, progress: Progress | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # A private folder beside the target: on the same file system, so that the rename at the end is atomic.
    private = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        fresh = private / "fresh.zarr"
        digests = _write(video, fresh, progress)
        _verify(video, fresh, digests, progress)
        if target.exists():
            os.replace(target, private / "replaced.zarr")
        os.replace(fresh, target)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _check_target(video: Video, target: Path, overwrite: bool) -> None:
    if target.suffix != ".zarr":
        raise InputError(
            f"{target}: the name of an OME-Zarr folder ends in .zarr; name it {target.with_suffix('.zarr').name}"
        )
    if not target.exists():
        return
    if isinstance(video.path, Path) and video.path.exists() and target.samefile(video.path):
        raise InputError(f"{target}: source and target are the same; choose another name")
    if not overwrite:
        raise InputError(f"{target}: exists already; remove it, choose another name or ask for overwriting")


def _write(video: Video, path: Path, progress: Progress | None) -> list[bytes]:
    """Write the store shard by shard; returns the digest of each frame."""
    n_frames = len(video)
    chunk, shard = _layout(video)
    root = zarr.open_group(str(path), mode="w", zarr_format=3)
    root.update_attributes({"ome": _ngff(video), "exotrack": _provenance(video)})
    array = root.create_array(
        "0",
        shape=video.shape,
        dtype=video.dtype,
        chunks=(chunk, *video.shape[1:]),
        shards=(shard, *video.shape[1:]),
        compressors=[
            BloscCodec(
                cname="zstd", clevel=_LEVEL, shuffle="shuffle", typesize=video.dtype.itemsize, blocksize=_BLOSC_BYTES
            ),
            Crc32cCodec(),
        ],
        dimension_names=["t", "y", "x"],
        # All-black chunks are written too: a chunk that is absent was lost.
        config={"write_empty_chunks": True},
    )
    digests: list[bytes] = []
    for first, block in video.blocks(shard):
        array[first : first + len(block)] = block
        digests.extend(_digest(frame) for frame in block)
        if progress is not None:
            progress(first + len(block), 2 * n_frames)
    return digests


def _verify(video: Video, path: Path, digests: list[bytes], progress: Progress | None) -> None:
    n_frames = len(digests)
    for first, block in open_video(path).blocks(_layout(video)[1]):
        for offset, frame in enumerate(block):
            if _digest(frame) != digests[first + offset]:
                raise VideoError(
                    f"{video.path}: frame {first + offset} read back from the converted video differs from the source; "
                    "the result was removed: check the disk and convert again"
                )
        if progress is not None:
            progress(n_frames + first + len(block), 2 * n_frames)


def _digest(frame: Array) -> bytes:
    return hashlib.sha256(frame.data).digest()


def _layout(video: Video) -> tuple[int, int]:
    """Frames per chunk and per shard; the latter a multiple of the former."""
    frame_bytes = video.dtype.itemsize * video.shape[1] * video.shape[2]
    chunk = max(1, min(_CHUNK_FRAMES, _CHUNK_BYTES // frame_bytes, len(video)))
    chunks = max(1, min(_SHARD_BYTES // (chunk * frame_bytes), -(-len(video) // chunk)))
    return chunk, chunk * chunks


def _ngff(video: Video) -> dict[str, Any]:
    interval, side = (video.metadata.get(name, (None, ""))[0] for name in ("frame_interval_s", "pixel_size_um"))
    space = {"type": "space", **({"unit": "micrometer"} if side else {})}
    axes = [
        {"name": "t", "type": "time", **({"unit": "second"} if interval else {})},
        {"name": "y", **space},
        {"name": "x", **space},
    ]
    scale = {"type": "scale", "scale": [interval or 1.0, side or 1.0, side or 1.0]}
    image = {
        "name": Path(str(video.path)).stem,
        "axes": axes,
        "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
    }
    return {"version": "0.5", "multiscales": [image]}


def _provenance(video: Video) -> dict[str, Any]:
    return {
        "source": {"name": Path(str(video.path)).name, "sha256": video.sha256(), "container": dict(video.container)},
        "metadata": {
            name: {"value": value, "origin": origin}
            for name, (value, origin) in video.metadata.items()
            if origin != "protocol default" and name != "depth_table"  # of the instrument, not of the file
        },
        "warnings": list(video.warnings),
    }
