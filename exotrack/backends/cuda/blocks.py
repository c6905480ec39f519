"""How frames reach the device: raw, once, in blocks that fit."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from exotrack.backends.cuda import device
from exotrack.backends.cuda.device import Uploaded
from exotrack.errors import DeviceMemoryError
from exotrack.tables import Array

IN_FLIGHT: Final = 3
"""Windows under way at the same time: one is copied in, one is computed, one waits for the host."""
_BLOCK_BYTES: Final = 64 * 2**20
"""Frames of a block: enough that launching its kernels takes no part of the time to copy it (1.2 ms at 55 GB/s)."""
_SHARE: Final = 0.5
"""Share of the free memory that the frames of all blocks may take; peaks, maps and other videos need the rest."""


def upload(array: Array) -> Uploaded:
    """The array on the device, to be given to several operations, on any thread.

    Raises
    ------
    DeviceMemoryError
        There is no room.
    """
    with device.lane("upload") as lane:
        on_device = lane.put(array)
        lane.wait()
        return Uploaded(array, on_device)


def frame_buffer(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array to decode frames into, in memory from which the device copies by itself."""
    try:
        with device.lane("frame_buffer") as lane:
            buffer: Array = lane.runtime.pinned(shape, dtype)
            return buffer
    except DeviceMemoryError:  # the host has none that it may pin: any memory will do
        return np.empty(shape, dtype)


def has_room(nbytes: int) -> bool:
    """Whether so many bytes of frames may stay on the device: as many as several windows leave to other work."""
    return IN_FLIGHT * nbytes < _SHARE * _free_bytes()


def block_frames(frame_bytes: int, in_flight: int) -> int:
    """Frames to work on at a time: 64 MB of them, or fewer where little memory is free. It never changes a result."""
    free = int(_SHARE * _free_bytes()) // in_flight
    return max(min(_BLOCK_BYTES, free) // frame_bytes, 1)


def _free_bytes() -> int:
    with device.lane("free memory") as lane:
        free: int = lane.runtime.free_bytes()
        return free
