"""Blocks of frames on a device that may be full or fail."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from exotrack.errors import DeviceError, DeviceLostError, DeviceMemoryError

logger = logging.getLogger(__name__)
T = TypeVar("T")


def once_more(work: Callable[[], T], what: str) -> T:
    """Do something on a device; where it fails it is asked once more, unless it is full or lost."""
    try:
        return work()
    except (DeviceLostError, DeviceMemoryError):
        raise
    except DeviceError as error:
        # Its words alone: the traceback of an error that is kept keeps the arrays of the device.
        logger.warning("%s once more: %s", what, str(error))
    return work()


def in_pieces(
    work: Callable[[int, int], T], first: int, last: int, *, make_room: Callable[[], None] = lambda: None
) -> list[T]:
    """Do a block of frames as a whole, or where the device has no room for it in halves of halves.

    A device that fails is given the same frames once more; what it then says is final. The work is never done
    elsewhere.

    Parameters
    ----------
    work : callable
        Takes the first frame and the one after the last.
    first, last : int
        Those of the block.
    make_room : callable
        Called before a block is halved, to free what is kept for speed alone.

    Returns
    -------
    list
        Results of the pieces, in order.

    Raises
    ------
    DeviceMemoryError
        There is no room for a single frame.
    DeviceLostError
        The device does not answer any more.
    DeviceError
        The device failed twice.
    """
    try:
        return [once_more(partial(work, first, last), f"frames {first} to {last - 1}")]
    except DeviceMemoryError as error:
        if last - first < 2:
            raise
        logger.info("frames %d to %d in halves: %s", first, last - 1, str(error))
    make_room()  # the error is gone, and with it what its traceback held
    middle = (first + last) // 2
    return [
        result for a, b in ((first, middle), (middle, last)) for result in in_pieces(work, a, b, make_room=make_room)
    ]
