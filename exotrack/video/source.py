"""What every container reader offers, and how its failures become words for a user."""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from exotrack.errors import ExotrackError, VideoError
from exotrack.tables import Array


@dataclass(frozen=True)
class Facts:
    """What a container states about its video, found without decoding all of it."""

    shape: tuple[int, int, int]
    """Frames, height, width."""
    dtype: np.dtype[Any]
    """uint8 or uint16, native byte order."""
    container: Mapping[str, Any]
    """Format, codec, pixel format …: plain values, kept with the results."""
    files: tuple[Path, ...] = ()
    """Files that hold the video; empty for one at a URL."""
    leads: Mapping[str, Any] = field(default_factory=dict)
    """Metadata under the names of the sample sheet's columns; `pixel_size_y_um`, `pixel_size_x_um` per axis."""
    warnings: tuple[str, ...] = ()
    """Faults worth a line in the report that do not prevent reading."""
    sequential: bool = False
    """True where a frame can only be decoded after those before it."""


class Source(Protocol):
    """A video in one container: picklable, without open handles between calls."""

    @property
    def facts(self) -> Facts:
        """What the container states."""

    def frames(self, start: int, stop: int) -> Generator[Array, None, None]:
        """Frames `start` to `stop` − 1 in order; fewer if the file ends early.

        Each is (y, x), or (y, x, samples) in colour, in any byte order, and may be a view that the next one overwrites.
        Handles are open while the generator lives.
        """


GREY_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))


def checked_dtype(path: str | Path, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in native byte order, if it is one that raw camera values have.

    Floats and signed integers are refused rather than guessed at: the number range decides what saturation is and how
    the noise is quantized, and a file that was scaled or offset no longer tells either.

    Raises
    ------
    VideoError
        For anything but uint8 and uint16.
    """
    native = dtype.newbyteorder("=")
    if native in GREY_DTYPES:
        return native
    raise VideoError(
        f"{path}: pixel type {dtype.name} is not read: raw camera values are unsigned 8- or 16-bit integers, and a "
        "scaled or signed copy hides saturation; export the raw values as uint8 or uint16"
    )


@contextmanager
def failures_named(path: str | Path) -> Iterator[None]:
    """Turn whatever a decoding library raises inside into a VideoError that names the file."""
    try:
        yield
    except (ExotrackError, MemoryError):
        raise
    except Exception as error:  # the decoders raise types of their own, many of them undocumented
        # Only EACCES: FFmpeg also says EPERM, for a file in which it cannot seek.
        if isinstance(error, OSError) and error.errno == errno.EACCES:
            raise VideoError(f"{path}: permission denied; give this user read access to it") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        if "://" in str(path):
            remedy = "check the address, and that the server answers range requests"
        else:
            remedy = "the file is damaged or incomplete: copy it again from the instrument"
        raise VideoError(f"{path}: cannot be read ({reason}); {remedy}") from error
