"""How frames reach the operations: on the CPU they are where they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from exotrack.tables import Array

IN_FLIGHT = 1
"""Windows under way at the same time: threads share a window."""
BLOCK_FRAMES = 25
"""Frames of a block."""


def upload(array: Array) -> Array:
    """The array where the operations use it, to be given to several of them."""
    return array


def frame_buffer(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array to decode frames into."""
    return np.empty(shape, dtype)


def has_room(nbytes: int) -> bool:  # noqa: ARG001  # they are where they are
    """Whether frames may be kept for operations to come."""
    return True


def block_frames(frame_bytes: int, in_flight: int) -> int:  # noqa: ARG001  # decided by the cache, not by the frames
    """Frames to work on at a time. It never changes a result."""
    return BLOCK_FRAMES
