"""Blocks of frames on a device that may be full or fail."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from exotrack.errors import DeviceError, DeviceLostError, DeviceMemoryError

logger = logging.getLogger(__name__)
T = TypeVar("T")


def once_more(work: Callable[[], T], what: str) -> T:
    """Do what cannot be divided; a device that fails at it is asked once more."""
    try:
        return work()
    except DeviceLostError:
        raise
    except DeviceError as error:
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
    pieces = [(first, last)]
    try:
        return [work(first, last)]
    except DeviceMemoryError as error:
        if last - first < 2:
            raise
        logger.info("frames %d to %d in halves: %s", first, last - 1, str(error))
        make_room()
        pieces = [(first, (first + last) // 2), ((first + last) // 2, last)]
    except DeviceLostError:
        raise
    except DeviceError as error:
        logger.warning("frames %d to %d once more: %s", first, last - 1, str(error))
    # Not before here is the error gone, and with it the arrays of the device that its traceback holds: the log gets its
    # words alone for the same reason.
    if len(pieces) == 1:
        return [work(first, last)]
    return [result for piece in pieces for result in in_pieces(work, *piece, make_room=make_room)]
