"""What linking works on: positions in order, frames, and where the work is done."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np

from exotrack.acquisition import Acquisition
from exotrack.backends.contract import Backend
from exotrack.errors import InputError
from exotrack.link.frames import Frames
from exotrack.protocol import LinkSection
from exotrack.tables import F64, I32, I64, Localizations

T = TypeVar("T")

PARTS = 64
"""Parts in which threads share the work."""
MOST_FRAMES = 10_000_000
"""Frames that a video may have: a larger number is a time or an error."""
SMALLEST_FIELD = 64.0
"""Height and width, px, that a field of unknown size has at least: a few spots do not span theirs."""


@dataclass(frozen=True)
class Material:
    """The spots of a video, ordered by frame, then y, then x."""

    y: F64
    x: F64
    frame: I64
    frames: Frames
    extent: tuple[float, float]
    """Height and width of the field, px; where it is not known, of the box around all spots."""
    centre: tuple[float, float]
    """Centre of the field or of that box, px."""
    settings: LinkSection
    engine: Backend
    """The backend."""
    executor: Executor | None
    """Threads that share the work; None for none."""

    @classmethod
    def of(
        cls,
        spots: Localizations,
        order: I64,
        acquisition: Acquisition,
        settings: LinkSection,
        engine: Backend,
        executor: Executor | None,
    ) -> Self:
        """Material of spots whose rows are taken in the given order."""
        y, x, frame = spots.y[order], spots.x[order], spots.frame[order].astype(np.int64)
        n_frames = int(frame[-1]) + 1 if len(frame) else 0
        frames = Frames.of(frame, max(n_frames, acquisition.n_frames or 0), acquisition.cuts)
        if acquisition.frame_shape is not None:
            height, width = map(float, acquisition.frame_shape)
            centre = 0.5 * (height - 1.0), 0.5 * (width - 1.0)
        else:
            height, width = (max(float(np.ptp(axis)) if len(axis) else 0.0, SMALLEST_FIELD) for axis in (y, x))
            middle_y, middle_x = (0.5 * float(axis.min() + axis.max()) if len(axis) else 0.0 for axis in (y, x))
            centre = middle_y, middle_x
        return cls(y, x, frame, frames, (height, width), centre, settings, engine, executor)

    @property
    def area(self) -> float:
        """Area of the field, px², times the number of frames."""
        return self.extent[0] * self.extent[1] * max(len(self.frames.sections), 1)

    def each(self, work: Callable[[I64], T], rows: I64) -> list[T]:
        """Results of some work on the parts of an array, such as pairs of frames, in order."""
        if self.executor is None:
            return [work(rows)]
        return list(self.executor.map(work, np.array_split(rows, PARTS)))


def in_order(spots: Localizations) -> I64:
    """Rows by frame, y, x: the order in which ties are decided. The other columns settle what these leave open.

    Raises
    ------
    InputError
        For a frame number that is negative or too large, or a position that is not finite.
    """
    countable = (spots.frame >= 0) & (spots.frame < MOST_FRAMES)
    wrong = np.flatnonzero(~(countable & np.isfinite(spots.y) & np.isfinite(spots.x)))
    if len(wrong):
        row = wrong[0]
        raise InputError(
            f"localizations: row {row} has frame = {spots.frame[row]}, y = {spots.y[row]:g}, x = {spots.x[row]:g}; "
            f"frames count from 0 to {MOST_FRAMES - 1} and positions are finite; mend or remove such rows "
            f"({len(wrong)} in all)"
        )
    order = np.arange(len(spots))
    if not _increasing(spots.frame, spots.y):
        # A single key sorts five times faster than several, and almost always right.
        order = np.argsort(spots.frame * (2.0 * np.ptp(spots.y) + 1.0) + spots.y)
    if not _increasing(spots.frame[order], spots.y[order]):
        others = [name for name in Localizations.columns() if name not in ("frame", "y", "x")]
        order = np.lexsort([getattr(spots, name) for name in (*others, "x", "y", "frame")])
    return order


def _increasing(frame: I32, y: F64) -> bool:
    """Whether rows are ordered by frame, then y, without ties."""
    later = (frame[1:] > frame[:-1]) | ((frame[1:] == frame[:-1]) & (y[1:] > y[:-1]))
    return bool(later.all())
