"""Local maxima of the matched filter on the device."""

from __future__ import annotations

import numpy as np

from exotrack.backends.cpu.detect import PLAIN
from exotrack.backends.cuda import device
from exotrack.backends.cuda.device import Uploaded
from exotrack.backends.cuda.filter import SHARED_BYTES, lattice, tile, tiles
from exotrack.errors import BackendError
from exotrack.tables import F32, I32, Array

_ROOM = 256
"""Peaks per frame for which there is room at first; where more are found, the search is repeated with room for all."""
_WARPS = 4


def detect(
    frames: Array | Uploaded,
    level: F32 | Uploaded,
    inverse_noise: F32 | Uploaded,
    limit: F32 | Uploaded,
    taps: F32,
    *,
    box_half: int,
    step: int,
    sign: float,
    pedestal: float,
) -> tuple[I32, F32, F32, F32]:
    """As `exotrack.backends.cpu.detect`.

    The same lattice points, unless two differ by the rounding of float32; positions to 10⁻⁴ px and signal-to-noise
    ratios to 10⁻⁵ where the frames are of integers.

    Raises
    ------
    BackendError
        Spots wider than about 60 px.
    """
    n, height, width = frames.shape
    points = lattice(height, width, step)
    if n == 0:
        nothing = np.empty(0, np.float32)
        return np.empty(0, np.int32), nothing, nothing, nothing
    constants = tile(taps, box_half, step, frames.dtype, margin=1)
    constants |= {"WARPS": _warps(taps, box_half, step), "PLAIN": PLAIN}
    sizes = (np.int32(height), np.int32(width), *map(np.int32, points))
    room = n * _ROOM
    with device.lane("detect") as lane:
        pixels, still, inverse, bound, weights = (lane.put(a) for a in (frames, level, inverse_noise, limit, taps))
        while True:
            count = lane.zeros(1, np.int32)
            key, found = lane.empty(room, np.int64), lane.empty((room, 3), np.float32)
            lane.launch(
                "detect",
                "peaks",
                (n, *tiles(constants, points)),
                constants["THREADS"],
                (
                    *(pixels, still, inverse, bound, weights, *sizes, np.float32(pedestal), np.float64(sign)),
                    *(count, key, found, np.int32(room)),
                ),
                constants,
            )
            n_found = int(lane.get(count)[0])
            if n_found <= room:
                break
            room = n_found
        if n_found > 0:
            lane.launch(
                "detect",
                "locate",
                (-(-n_found // constants["WARPS"]), 1, 1),
                32 * constants["WARPS"],
                (
                    *(pixels, still, inverse, weights, *sizes, np.float32(pedestal), np.float64(sign)),
                    *(key, found, np.int32(n_found)),
                ),
                constants,
            )
        keys, values = lane.get(key[:n_found]), lane.get(found[:n_found])
    order = np.argsort(keys)
    frame = (keys[order] // (points[0] * points[1])).astype(np.int32)
    y, x, snr = np.ascontiguousarray(values[order].T)
    return frame, y, x, snr


def _warps(taps: F32, box_half: int, step: int) -> int:
    """Warps of a block of `locate` for which the shared memory suffices."""
    half = step // 2 + 1
    line = 2 * (half + max(len(taps) - 1, box_half)) + 1
    warps = SHARED_BYTES // (4 * (2 * line + (2 * half + 1) ** 2))
    if warps < 1:
        raise BackendError(f"spots seen on every {step}-th pixel are too wide for the CUDA backend; use --backend cpu")
    return min(_WARPS, warps)
