"""One frame per PNG or JPEG file."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import imagecodecs

from exotrack.errors import VideoError
from exotrack.tables import Array
from exotrack.video.source import Facts, checked_dtype, failures_named

_DECODERS = {".png": imagecodecs.png_decode, ".jpg": imagecodecs.jpeg8_decode, ".jpeg": imagecodecs.jpeg8_decode}
SUFFIXES = tuple(_DECODERS)


@dataclass(frozen=True)
class ImageSource:
    """Frames from image files, in the order given."""

    paths: tuple[Path, ...]
    facts: Facts

    def frames(self, start: int, stop: int) -> Generator[Array, None, None]:
        """See `Source.frames`; a frame of another size names its file.

        Raises
        ------
        VideoError
            If an image cannot be decoded or differs in size from the first.
        """
        for path in self.paths[start:stop]:
            frame = _decode(path)
            if frame.shape[:2] != self.facts.shape[1:]:
                raise _size_differs(path, frame, self.facts)
            yield frame


def open_source(paths: Sequence[Path]) -> ImageSource:
    """Describe a series of image files from the first of them."""
    first = _decode(paths[0])
    kind = paths[0].suffix.lower().lstrip(".")
    facts = Facts(
        shape=(len(paths), *first.shape[:2]),
        dtype=checked_dtype(paths[0], first.dtype),
        container={"format": "JPEG series" if kind.startswith("jp") else "PNG series", "files": len(paths)},
        files=tuple(paths),
        warnings=("JPEG is lossy: noise and faint spots are altered",) if kind.startswith("jp") else (),
    )
    return ImageSource(tuple(paths), facts)


def natural_order(path: Path) -> tuple[object, ...]:
    """Sort key under which img2 comes before img10."""
    pieces = re.split(r"(\d+)", path.name)
    # Odd pieces are digits. The name itself breaks ties such as img01 and img1.
    return (*((int(p), "") if k % 2 else (-1, p.lower()) for k, p in enumerate(pieces)), (-1, path.name))


def _decode(path: Path) -> Array:
    with failures_named(path):
        return _DECODERS[path.suffix.lower()](path.read_bytes())


def _size_differs(path: Path, frame: Array, facts: Facts) -> VideoError:
    height, width = frame.shape[:2]
    return VideoError(
        f"{path}: {width}×{height} px, the frames before it {facts.shape[2]}×{facts.shape[1]} px; "
        "keep the frames of one video in a folder of their own"
    )
