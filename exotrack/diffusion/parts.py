"""Rows of `Displacements` that belong to one track: several where a track is stepped through."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from exotrack.displacements import Displacements
from exotrack.tables import F32, I64


class Parts:
    """The rows of `Displacements` that are parts of one track: one, or as many as the stride where it is larger."""

    def __init__(self, d: Displacements) -> None:
        self.first: I64 = np.flatnonzero(np.diff(d.particle, prepend=d.particle[:1] - 1))
        self.count: I64 = np.diff(self.first, append=len(d))
        self.of_row: I64 = np.repeat(np.arange(len(self.first)), self.count)

    def total(self, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sum over the parts of each track."""
        return np.add.reduceat(value, self.first) if len(self.first) else value

    def largest(self, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Largest over the parts of each track."""
        return np.maximum.reduceat(value, self.first) if len(self.first) else value

    def smallest(self, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Smallest over the parts of each track."""
        return np.minimum.reduceat(value, self.first) if len(self.first) else value

    def mean_rows(self, rows: F32) -> F32:
        """Mean log-likelihood over the parts, which overlap in time: no more certain than one of them."""
        if len(self.first) == len(rows):
            return rows
        mean = np.add.reduceat(rows, self.first, axis=0) / self.count[:, None].astype(np.float32)
        return np.asarray(mean - mean.max(axis=1, keepdims=True), np.float32)
