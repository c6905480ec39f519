"""Likelihood rows of tracks on the device, a block for each track."""

from __future__ import annotations

import numpy as np

from exotrack.backends.cuda import device
from exotrack.errors import BackendError
from exotrack.tables import F32, F64, I32, I64, Array

_THREADS = 128
_CONSTANTS = {"THREADS": _THREADS, "STEPS_PER_LOG": 16}
_MOST_CLASSES = 6016
"""Diffusion coefficients whose totals fit into the shared memory of a block."""


def likelihood(
    step_y: F64,
    step_x: F64,
    gap: I32,
    variance_y: F64,
    variance_x: F64,
    blur: F64,
    offsets: I64,
    diffusion_um2_s: F64,
    *,
    frame_interval_s: float,
    own_velocity: bool = False,
) -> F32:
    """As `exotrack.backends.cpu.likelihood`, to the rounding of float32."""
    n_tracks, n_grid = len(offsets) - 1, len(diffusion_um2_s)
    scale = 2.0 * frame_interval_s * np.ascontiguousarray(diffusion_um2_s)
    if n_tracks == 0 or n_grid == 0:
        return np.empty((n_tracks, n_grid), np.float32)
    if n_grid > _MOST_CLASSES:
        raise BackendError(f"{n_grid} diffusion coefficients are too many for the CUDA backend; use --backend cpu")
    with device.lane("likelihood") as lane:
        rows = lane.empty((n_tracks, n_grid), np.float32)
        arrays: tuple[Array, ...] = (step_y, step_x, gap, variance_y, variance_x, blur, offsets, scale)
        lane.launch(
            "likelihood",
            "rows_of_tracks",
            (n_tracks, 1, 1),
            _THREADS,
            (*map(lane.put, arrays), np.int32(n_grid), rows),
            {"ROOM": -(-n_grid // 64) * 64, "OWN_VELOCITY": int(own_velocity), **_CONSTANTS},
        )
        result: F32 = lane.get(rows)
        return result
