"""Statistics of pixels on the device."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from exotrack.backends.cpu.noise import BINS, ROWS
from exotrack.backends.cuda import device
from exotrack.backends.cuda.filter import PIXEL_TYPES
from exotrack.tables import F32, F64, I64, Array

_ROW_THREADS, _TILE_THREADS, _POINT_THREADS = 64, 128, 256


def frame_levels(frames: Array, limit: float) -> F64:
    """As `exotrack.backends.cpu.frame_levels`, to the bit. Only the rows that are looked at are uploaded."""
    n, height, width = frames.shape
    stride = max(height // ROWS, 1)
    looked_at = frames[:, stride // 2 :: stride]
    if n == 0:
        return np.empty((0, 4))
    with device.lane("frame_levels") as lane:
        levels = lane.empty((n, 4), np.float64)
        sizes = (np.int32(looked_at.shape[1]), np.int32(width))
        lane.launch(
            "frame_levels",
            "levels_of_rows",
            (n, 1, 1),
            _ROW_THREADS,
            (lane.put(looked_at), lane.put(frames[:, 0, 0]), *sizes, np.float64(limit), levels),
            {"PIXEL": PIXEL_TYPES[frames.dtype.name], "THREADS": _ROW_THREADS},
        )
        result: F64 = lane.get(levels)
        return result


def tile_noise(filtered: F32, inverse_gain: F32, quiet: npt.NDArray[np.bool_], ys: I64, xs: I64) -> F64:
    """As `exotrack.backends.cpu.tile_noise`, to the bit. Only the rows of the tiles are uploaded."""
    band = slice(int(ys[0]), int(ys[-1]))
    shape = (len(ys) - 1, len(xs) - 1)
    n, width = len(filtered), filtered.shape[2]
    with device.lane("tile_noise") as lane:
        tiles = lane.empty(shape, np.float64)
        arrays = (filtered[:, band], inverse_gain[band], quiet[:, band], ys - ys[0], xs)
        sizes = (np.int32(n), np.int32(band.stop - band.start), np.int32(width), np.int64(band.start))
        grid = (shape[1], shape[0], 1)
        constants = {"BINS": BINS, "THREADS": _TILE_THREADS}
        lane.launch("tile_noise", "median", grid, _TILE_THREADS, (*map(lane.put, arrays), *sizes, tiles), constants)
        result: F64 = lane.get(tiles)
        return result


def quieten(filtered: F32, limit: F32, radius: int, quiet: npt.NDArray[np.bool_]) -> None:
    """As `exotrack.backends.cpu.quieten`: `quiet` is changed in place, on the host."""
    n, height, width = filtered.shape
    if filtered.size == 0:
        return
    with device.lane("quieten") as lane:
        left = lane.put(quiet)
        sizes = (np.int64(n), np.int32(height), np.int32(width), np.int32(radius))
        arguments = (lane.put(filtered), lane.put(limit), *sizes, left)
        grid = (-(-filtered.size // _POINT_THREADS), 1, 1)
        lane.launch("quieten", "silence", grid, _POINT_THREADS, arguments, {"THREADS": _POINT_THREADS})
        quiet[:] = lane.get(left)
