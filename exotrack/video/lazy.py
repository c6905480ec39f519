"""`Video`: lazy (t, y, x) access to one recording, whatever its container."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array
import numpy as np

from exotrack.acquisition import Acquisition
from exotrack.camera import Camera
from exotrack.errors import InputError, VideoError
from exotrack.tables import Array
from exotrack.video import metadata as _metadata
from exotrack.video.calibration import CameraFile
from exotrack.video.colour import Colour, to_grey
from exotrack.video.omezarr import ZarrSource
from exotrack.video.source import Source, failures_named


@dataclass(frozen=True)
class Video:
    """A grey video (t, y, x) on disk or at a URL, made by `open_video`.

    It holds no open handles and no pixels, can be pickled and sent to workers, and reads what is asked for.
    `len(video)` is the number of frames.
    """

    path: Path | str
    """File, folder, pattern or URL."""
    source: Source
    """Reader of the container."""
    colour: Colour
    """How colour becomes grey; without effect on a grey video."""
    container: Mapping[str, Any]
    """Format, codec, pixel format, how colour became grey …: what a record of the analysis should keep."""
    metadata: Mapping[str, tuple[Any, str]]
    """Everything known: name of the sample sheet's column → (value, origin)."""
    warnings: tuple[str, ...] = ()
    """Faults worth a line in the report."""
    calibration: Camera | CameraFile | None = None
    """What `camera` is made from: maps, or their file; None where the camera is not known pixel by pixel."""

    @property
    def camera(self) -> Camera | None:
        """Offset, gain and read noise of every pixel, in the size of the frames; None where they are not known.

        Raises
        ------
        VideoError
            If the file of the maps is no longer what it was when the video was opened.
        """
        return self.calibration.camera if isinstance(self.calibration, CameraFile) else self.calibration

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height and width in px."""
        return self.source.facts.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 or uint16, native byte order."""
        return self.source.facts.dtype

    @property
    def sequential(self) -> bool:
        """True where a frame can only be reached by decoding those before it: read such a video once, in order."""
        return self.source.facts.sequential

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def acquisition(self) -> Acquisition:
        """Physical description of the recording.

        Raises
        ------
        InputError
            If pixel size or frame interval are not known; the message says where to write them.
        """
        return _metadata.acquisition(self.path, dict(self.metadata), self.shape)

    def read(self, start: int, stop: int) -> Array:
        """Frames `start` to `stop` − 1 as an array (n, y, x).

        Raises
        ------
        InputError
            Unless 0 ≤ start ≤ stop ≤ number of frames.
        VideoError
            If a frame cannot be decoded or is missing.
        """
        self._check_range(start, stop)
        if start == stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        with closing(self._blocks(stop - start, start, stop)) as blocks:
            return next(blocks)[1]

    def blocks(
        self, block_frames: int, start: int = 0, stop: int | None = None
    ) -> Generator[tuple[int, Array], None, None]:
        """Walk the video in order, each frame decoded once; of an OME-Zarr twice, if its chunk is of two blocks.

        Parameters
        ----------
        block_frames
            Frames per block; the last one may be shorter.
        start, stop
            Range of frames; to the end by default.

        Yields
        ------
        first, block
            Number of the block's first frame, and its frames (n, y, x) in an array of their own.

        Raises
        ------
        InputError
            If the range or the block size is not valid.
        VideoError
            If frames are damaged, missing or of another size than the header states.
        """
        stop = len(self) if stop is None else stop
        self._check_range(start, stop)
        if block_frames < 1:
            raise InputError(f"block_frames = {block_frames}: a block has at least one frame")
        return self._blocks(block_frames, start, stop)

    def to_dask(self, block_frames: int = 64) -> Any:
        """A dask array (t, y, x), chunked along t; each chunk opens the file, reads its frames and closes it.

        On a sequential video every chunk decodes from the first frame: prefer `blocks`, or convert the video.
        """
        n_frames = len(self)
        lengths = tuple(min(block_frames, n_frames - first) for first in range(0, n_frames, block_frames))
        return dask.array.map_blocks(
            _read_chunk,
            self,
            chunks=(lengths, (self.shape[1],), (self.shape[2],)),
            dtype=self.dtype,
            meta=np.empty((0, 0, 0), self.dtype),
        )

    def sha256(self) -> str:
        """SHA-256 of the file; of several files, of names within their folder and contents, in order.

        A video at a URL has no files here: the hash is that of its shape, dtype and decoded frames.

        Raises
        ------
        VideoError
            If a file cannot be read.
        """
        files = self.source.facts.files
        folder = os.path.commonpath([file.parent for file in files]) if files else ""
        digest = hashlib.sha256()
        with failures_named(self.path):
            if not files:
                digest.update(f"{self.shape} {self.dtype.str}".encode())
                for _, block in self.blocks(16):
                    digest.update(block.data)
            for file in files:
                if len(files) > 1:
                    digest.update(f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode())
                with open(file, "rb") as stream:
                    while piece := stream.read(2**20):
                        digest.update(piece)
        return digest.hexdigest()

    def _check_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= len(self):
            raise InputError(f"{self.path}: frames {start} to {stop} were asked for, it has frames 0 to {len(self)}")

    def _blocks(self, block_frames: int, start: int, stop: int) -> Generator[tuple[int, Array], None, None]:
        if isinstance(self.source, ZarrSource) and block_frames >= min(self.source.run, stop - start):
            yield from self._decoded_in_place(self.source, block_frames, start, stop)
            return
        with failures_named(self.path), closing(self.source.frames(start, stop)) as frames:
            for first in range(start, stop, block_frames):
                block = np.empty((min(block_frames, stop - first), *self.shape[1:]), self.dtype)
                for offset in range(len(block)):
                    block[offset] = self._checked(next(frames, None), first + offset)
                if first + len(block) == stop:
                    next(frames, None)  # a source that knows better than its header speaks up here
                yield first, block

    def _decoded_in_place(
        self, source: ZarrSource, block_frames: int, start: int, stop: int
    ) -> Generator[tuple[int, Array], None, None]:
        """Blocks of at least a run, or the only one: no other block needs the chunks again, but those at its edges."""
        for first in range(start, stop, block_frames):
            block = np.empty((min(block_frames, stop - first), *self.shape[1:]), self.dtype)
            with failures_named(self.path):
                source.read_into(first, block)
            yield first, block

    def _checked(self, frame: Array | None, number: int) -> Array:
        n_frames, height, width = self.shape
        if frame is None:
            raise VideoError(
                f"{self.path}: the header promises {n_frames} frames, only {number} could be decoded; the file ends "
                "early: copy it again from the instrument"
            )
        grey = to_grey(frame, self.colour)
        if grey.shape != (height, width) or grey.dtype.newbyteorder("=") != self.dtype:
            raise VideoError(
                f"{self.path}: frame {number} is {grey.shape[1]}×{grey.shape[0]} px of {grey.dtype.name}, the header "
                f"says {width}×{height} px of {self.dtype.name}; all frames of a video must be alike"
            )
        return grey


def _read_chunk(video: Video, block_info: Any = None) -> Array:
    start, stop = block_info[None]["array-location"][0]
    return video.read(start, stop)
