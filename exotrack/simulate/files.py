"""Frames into files that any tool opens, a block at a time: AVI for 8 bits, TIFF for any depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import tifffile

from exotrack.errors import InputError

Append = Callable[[npt.NDArray[Any]], None]
"""Appends a block of frames, shape (n, height, width)."""

CLASSIC_TIFF_BYTES = 2**32 - 2**26
"""Size up to which a TIFF can address all of its pixels and tags with 32 bits."""


def open_writer(
    path: Path, *, shape: tuple[int, int, int], dtype: npt.DTypeLike, frame_interval_s: float
) -> AbstractContextManager[Append]:
    """A new video file, open for blocks of frames until the context ends.

    Parameters
    ----------
    path : Path
        Its suffix decides the format: `.avi` (uncompressed grey, 8 bits) or `.tif`, `.tiff`.
    shape : tuple of int
        Frames, height and width of the whole video.
    dtype : data type
        uint8 or uint16.
    frame_interval_s : float
        Written into an AVI as its frame rate; a TIFF does not state it.

    Raises
    ------
    InputError
        Another suffix, or more than 8 bits into an AVI.
    """
    if path.suffix == ".avi" and np.dtype(dtype) == np.uint8:
        return _avi(path, shape, frame_interval_s)
    if path.suffix in (".tif", ".tiff"):
        return _tiff(path, math.prod(shape) * np.dtype(dtype).itemsize)
    raise InputError(f"{path}: {np.dtype(dtype)} frames are written as .tif or .tiff, uint8 frames also as .avi")


@contextmanager
def _avi(path: Path, shape: tuple[int, int, int], frame_interval_s: float) -> Iterator[Append]:
    rate = (1 / Fraction(frame_interval_s).limit_denominator(10**6)).limit_denominator(10**6)
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("rawvideo", rate=rate)
        stream.height, stream.width, stream.pix_fmt = shape[1], shape[2], "gray"

        def append(frames: npt.NDArray[Any]) -> None:
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))

        yield append
        container.mux(stream.encode())


@contextmanager
def _tiff(path: Path, n_bytes: int) -> Iterator[Append]:
    with tifffile.TiffWriter(path, bigtiff=n_bytes > CLASSIC_TIFF_BYTES) as writer:

        def append(frames: npt.NDArray[Any]) -> None:
            for frame in frames:
                writer.write(frame, photometric="minisblack", contiguous=True)

        yield append
