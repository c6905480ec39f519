"""What does not move in a stack of frames, on the device."""

from __future__ import annotations

import numpy as np

from exotrack.backends.cuda import device
from exotrack.backends.cuda.filter import PIXEL_TYPES, SHARED_BYTES
from exotrack.backends.cuda.sources import Constants
from exotrack.errors import BackendError
from exotrack.tables import F32, I64, Array


def still_background(frames: Array, picked: I64, *, rows: tuple[int, int]) -> F32:
    """As `exotrack.backends.cpu.still_background`, to the bit. Only the rows of the picked frames are uploaded.

    Raises
    ------
    BackendError
        More frames than 32 threads can sort in shared memory: 384 of float32, 768 of uint16, 1536 of uint8.
    """
    m, width = len(picked), frames.shape[2]
    shape = (rows[1] - rows[0], width)
    threads = min(SHARED_BYTES // (m * frames.itemsize) // 32 * 32, 128)
    if shape[0] < 1:
        return np.empty(shape, np.float32)
    if threads < 32:
        raise BackendError(f"a background of {m} frames of {frames.dtype} is too long for the CUDA backend; use fewer")
    values = np.stack([frames[k, rows[0] : rows[1]] for k in picked])
    constants: Constants = {
        "PIXEL": PIXEL_TYPES[frames.dtype.name],
        "FRAMES": m,
        "FIRST": m // 3,
        "LAST": m - m // 3,
        "THREADS": threads,
    }
    n = shape[0] * width
    with device.lane("still_background") as lane:
        mean = lane.empty(shape, np.float32)
        lane.launch(
            "still_background",
            "central_mean",
            (-(-n // threads), 1, 1),
            threads,
            (lane.put(values), np.int64(n), mean),
            constants,
        )
        return lane.get(mean)
