"""From colour frames to grey by a stated rule."""

from __future__ import annotations

from typing import Literal, cast, get_args

import numpy as np

from exotrack.errors import InputError, VideoError
from exotrack.tables import Array

Colour = Literal["luma", "red", "green", "blue"]


def checked(name: object) -> Colour:
    """The rule called `name`.

    Raises
    ------
    InputError
        If there is no such rule.
    """
    if name not in get_args(Colour):
        raise InputError(f"colour = {name!r}: choose one of {', '.join(get_args(Colour))}")
    return cast("Colour", name)


def to_grey(frame: Array, rule: Colour) -> Array:
    """Grey values of a frame in its own dtype.

    Parameters
    ----------
    frame
        (y, x), returned as it is; or (y, x, samples) with 1 (grey), 2 (grey, alpha), 3 (R, G, B) or 4 (R, G, B, alpha)
        samples. Alpha is dropped.
    rule
        "luma", the weights 0.299, 0.587, 0.114 of ITU-R BT.601 rounded to the nearest integer, so that three equal
        channels give exactly their value; or the channel to take.

    Raises
    ------
    VideoError
        For any other number of samples.
    """
    if frame.ndim == 2:
        return frame
    samples = frame.shape[2]
    if samples <= 2:
        return frame[..., 0]
    if samples > 4:
        raise VideoError(f"a frame has {samples} samples per pixel; grey, RGB and their alpha variants are read")
    red, green, blue = (frame[..., k] for k in range(3))
    if rule != "luma":
        return {"red": red, "green": green, "blue": blue}[rule]
    weighted = 299 * red.astype(np.uint32) + 587 * green.astype(np.uint32) + 114 * blue.astype(np.uint32)
    return ((weighted + 500) // 1000).astype(frame.dtype)


def describe(frame: Array, rule: Colour) -> str | None:
    """How this frame becomes grey, for the record; None if it is grey already."""
    if frame.ndim == 2 or frame.shape[2] <= 2:
        return None
    if np.array_equal(frame[..., 0], frame[..., 1]) and np.array_equal(frame[..., 0], frame[..., 2]):
        return "three equal channels (first frame): their common value"
    return "luma (ITU-R BT.601)" if rule == "luma" else f"{rule} channel"
