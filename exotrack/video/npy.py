"""NumPy `.npy` files, mapped into memory while they are read."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from exotrack.errors import VideoError
from exotrack.tables import Array
from exotrack.video.source import Facts, checked_dtype

_MAPPED_BYTES = 16 * 2**20
"""Pixels read through one mapping: its pages stay resident until it goes, and memory would grow with the video."""


@dataclass(frozen=True)
class NpySource:
    """Frames of an array (t, y, x), or (t, y, x, samples) in colour, or of one frame (y, x)."""

    path: Path
    facts: Facts

    def frames(self, start: int, stop: int) -> Generator[Array, None, None]:
        """See `Source.frames`."""
        group = max(1, _MAPPED_BYTES // (self.facts.dtype.itemsize * self.facts.shape[1] * self.facts.shape[2]))
        for first in range(start, stop, group):
            yield from _mapped(self.path)[first : min(first + group, stop)]


def open_source(path: Path) -> NpySource:
    """Read the header of a `.npy` file.

    Raises
    ------
    VideoError
        If the array has other than 2 to 4 dimensions, or a pixel type that is not read.
    """
    array = _mapped(path)
    if array.ndim not in (3, 4):
        raise VideoError(f"{path}: an array of shape {array.shape}; save it as (t, y, x)")
    facts = Facts(
        shape=cast("tuple[int, int, int]", array.shape[:3]),
        dtype=checked_dtype(path, array.dtype),
        container={"format": "NumPy"},
        files=(path,),
    )
    return NpySource(path, facts)


def _mapped(path: Path) -> Array:
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array[None] if array.ndim == 2 else array
