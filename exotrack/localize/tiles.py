"""Tiles of a frame on which noise is measured, and the smooth map between their centres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exotrack.localize.matched import MatchedFilter
from exotrack.tables import F32, F64, I64, Array

TILE = 32
"""Side of the tiles, px."""


@dataclass(frozen=True)
class Tiles:
    """Tiles of about 32 × 32 px that have their borders on a lattice, and the interpolation between their centres."""

    ys: I64
    """Borders along y in lattice points."""
    xs: I64
    shape: tuple[int, ...]
    """Height and width, px."""
    step: int

    @classmethod
    def of(cls, shape: tuple[int, ...], matched: MatchedFilter) -> Tiles:
        """Tiles for frames of a height and width."""
        points = matched.lattice(shape[0], shape[1])
        borders = []
        for length, count in zip(shape, points, strict=True):
            borders.append(np.linspace(0, count, max(1, round(length / TILE)) + 1).round().astype(np.int64))
        return cls(borders[0], borders[1], shape, matched.step)

    def on_lattice(self, tiles: F64) -> F32:
        """Values of the tiles, bilinear between their centres, at the lattice points."""
        at_y, at_x = (np.arange(borders[-1]) for borders in (self.ys, self.xs))
        return self._interpolated(tiles, at_y, at_x)

    def on_pixels(self, tiles: F64) -> F32:
        """The same at every pixel."""
        at_y, at_x = (np.arange(length) / self.step for length in self.shape)
        return self._interpolated(tiles, at_y, at_x)

    def _interpolated(self, tiles: F64, at_y: Array, at_x: Array) -> F32:
        rows = np.stack([np.interp(at_x, _centres(self.xs), row) for row in tiles]).astype(np.float32)
        centres = _centres(self.ys)
        place = np.interp(at_y, centres, np.arange(len(centres)))
        below = np.minimum(place.astype(np.int64), max(len(centres) - 2, 0))
        share = (place - below).astype(np.float32)[:, None]
        steps = np.diff(rows, axis=0, append=rows[-1:])
        return np.asarray(rows[below] + share * steps[below], np.float32)


def _centres(borders: I64) -> F64:
    """Centres of tiles in lattice points."""
    return np.asarray(0.5 * (borders[1:] + borders[:-1] - 1))
