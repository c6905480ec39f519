"""The matched filter on the device, and how a lattice is cut into tiles."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from exotrack.backends.cuda import device
from exotrack.backends.cuda.device import Uploaded
from exotrack.errors import BackendError
from exotrack.tables import F32, Array

PIXEL_TYPES: Final = {"uint8": "unsigned char", "uint16": "unsigned short", "float32": "float"}
"""C++ types of the pixels."""
SHARED_BYTES: Final = 48 * 2**10
"""Shared memory that every device gives a block."""
_SPAN: Final = 256  # columns of pixels of a tile: a thread for each, where the filter is not wider
_TILE_ROWS: Final = 8  # two more are filtered at the borders: a quarter of the work of a tile


def tile(taps: F32, box_half: int, step: int, dtype: Any, *, margin: int) -> dict[str, Any]:
    """Constants for which a kernel that filters tiles is compiled.

    Parameters
    ----------
    taps, box_half, step
        As in `matched_filter`.
    dtype : dtype
        Of the frames.
    margin : int
        Lattice points around a tile that are filtered as well.

    Raises
    ------
    BackendError
        The filter is too wide for the shared memory of a block: widths of several hundred pixels.
    """
    radius = len(taps) - 1
    reach = max(radius, box_half)
    columns = max((_SPAN - 1 - 2 * reach) // step + 1 - 2 * margin, 4)
    rows = _TILE_ROWS + 2 * margin
    span = (columns + 2 * margin - 1) * step + 1 + 2 * reach
    held = min((SHARED_BYTES // 4 - rows * (columns + 2 * margin)) // (2 * span), rows)
    if held < 1:
        raise BackendError(f"a filter of {2 * reach + 1} px is too wide for the CUDA backend; use --backend cpu")
    return {
        "PIXEL": PIXEL_TYPES[np.dtype(dtype).name],
        "STEP": step,
        "RADIUS": radius,
        "BOX_HALF": box_half,
        "TILE_H": _TILE_ROWS,
        "TILE_W": columns,
        "MARGIN": margin,
        "HELD": held,
        "THREADS": min(-(-span // 32) * 32, 256),
    }


def lattice(height: int, width: int, step: int) -> tuple[int, int]:
    """Lattice points along y and x."""
    return -(-height // step), -(-width // step)


def tiles(constants: dict[str, Any], shape: tuple[int, int]) -> tuple[int, int]:
    """Tiles along y and x that cover a lattice."""
    return -(-shape[0] // constants["TILE_H"]), -(-shape[1] // constants["TILE_W"])


def matched_filter(frames: Array | Uploaded, taps: F32, *, box_half: int, step: int, pedestal: float) -> F32:
    """As `exotrack.backends.cpu.matched_filter`, to a few units in the last place of the pixels' values."""
    n, height, width = frames.shape
    points = lattice(height, width, step)
    if n == 0:
        return np.empty((0, *points), np.float32)
    constants = tile(taps, box_half, step, frames.dtype, margin=0)
    with device.lane("matched_filter") as lane:
        filtered = lane.empty((n, *points), np.float32)
        lane.launch(
            "matched_filter",
            "filter",
            (n, *tiles(constants, points)),
            constants["THREADS"],
            (
                *(lane.put(frames), lane.put(taps)),
                *(np.int32(height), np.int32(width), np.float32(pedestal), *map(np.int32, points)),
                filtered,
            ),
            constants,
        )
        return lane.get(filtered)
