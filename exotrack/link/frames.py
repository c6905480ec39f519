"""Pairs of frames: which rows of a table of localizations may be linked to which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exotrack.tables import I64


@dataclass(frozen=True)
class Frames:
    """Where the frames of a video lie in rows that are ordered by frame."""

    offsets: I64
    """First row of each frame, with one more entry at the end, shape (n_frames + 1,)."""
    sections: I64
    """Number of the uninterrupted piece of video that each frame belongs to, shape (n_frames,)."""

    @classmethod
    def of(cls, frame: I64, n_frames: int, cuts: Sequence[int]) -> Frames:
        """Frames of rows with the given, increasing frame numbers; a new section begins at each cut."""
        numbers = np.arange(n_frames)
        return cls(
            offsets=np.searchsorted(frame, np.arange(n_frames + 1)),
            sections=np.searchsorted(np.sort(np.asarray(cuts, np.int64)), numbers, side="right"),
        )

    @property
    def n_steps(self) -> int:
        """Number of steps from a frame to the next."""
        return max(len(self.sections) - 1, 0)

    def pairs(self, lag: int, sources: I64 | None = None, targets: I64 | None = None) -> tuple[I64, I64]:
        """Pairs of frames `lag` apart in one section that both have rows.

        Parameters
        ----------
        lag : int
            Frames from source to target; 0 pairs each frame with itself.
        sources, targets : int64 (n_frames + 1,), optional
            Where the sources and the targets of each frame begin; `offsets` if not given.

        Returns
        -------
        first : int64 (n_pairs,)
            Frame of the sources of each pair.
        pairs : int64 (n_pairs, 4)
            First and one-past-last row of the sources, then of the targets.
        """
        sources = self.offsets if sources is None else sources
        targets = self.offsets if targets is None else targets
        first = np.arange(max(len(self.sections) - lag, 0))
        second = first + lag
        pairs = np.stack([sources[first], sources[first + 1], targets[second], targets[second + 1]], axis=1)
        linkable = (pairs[:, 1] > pairs[:, 0]) & (pairs[:, 3] > pairs[:, 2])
        linkable &= self.sections[first] == self.sections[second]
        return first[linkable], np.ascontiguousarray(pairs[linkable])


def sample(pairs: I64, most: int) -> I64:
    """Pairs of frames, evenly spread over all of them, that have about `most` sources; all if they have no more.

    Returns the places of the chosen rows of `pairs`, increasing, one at least.
    """
    sources = int((pairs[:, 1] - pairs[:, 0]).sum())
    n = len(pairs) if sources <= most else max(1, round(len(pairs) * most / sources))
    return (2 * np.arange(n) + 1) * len(pairs) // (2 * n)
