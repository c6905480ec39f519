"""Blocks of frames on a device that may be full or fail."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from exotrack.errors import DeviceError, DeviceMemoryError

logger = logging.getLogger(__name__)
T = TypeVar("T")


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
    DeviceError
        The device failed twice.
    """
    try:
        return [work(first, last)]
    except DeviceMemoryError as error:
        if last - first < 2:
            raise
        logger.info("frames %d to %d in halves: %s", first, last - 1, error)
        make_room()
        middle = (first + last) // 2
        halves = ((first, middle), (middle, last))
        return [result for a, b in halves for result in in_pieces(work, a, b, make_room=make_room)]
    except DeviceError as error:
        logger.warning("frames %d to %d once more: %s", first, last - 1, error)
        return [work(first, last)]
