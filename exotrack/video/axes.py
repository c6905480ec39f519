"""Which plane of a multi-dimensional image is frame t: one rule for TIFF and OME-Zarr."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exotrack.errors import InputError


@dataclass(frozen=True)
class Planes:
    """Selection of a time series from the axes before y and x."""

    index: tuple[int | None, ...]
    """Position along each leading axis; None on the axis of time, which is absent in a one-frame video."""
    n_frames: int
    warnings: tuple[str, ...] = ()


def select_planes(
    path: object, axes: str, shape: Sequence[int], *, channel: object = None, channel_names: Sequence[str] = ()
) -> Planes:
    """Find the axis of time among the leading axes (those before y, x) of an image.

    Axes of length one are dropped. A channel axis needs `channel`, a name or an index from 0. One further axis may
    remain and is time; where it is named otherwise (many programs store video as a z stack) a warning says so.

    Parameters
    ----------
    path
        Names the video in errors.
    axes, shape
        One upper-case letter and one length per leading axis.

    Raises
    ------
    InputError
        If several channels are there and none (or an unknown one) is asked for, or two axes could be time.
    """
    index: list[int | None] = [0] * len(shape)
    candidates = []
    for position, (letter, length) in enumerate(zip(axes, shape, strict=True)):
        if length == 1:
            continue
        if letter == "C":
            index[position] = _channel(path, channel, length, channel_names)
        else:
            candidates.append(position)
    if len(candidates) > 1:
        found = " and ".join(f"{axes[k]} ({shape[k]})" for k in candidates)
        raise InputError(f"{path}: the axes {found} could both be time; export one plane or position per file")
    if not candidates:
        return Planes(tuple(index), 1)
    time = candidates[0]
    index[time] = None
    warnings: tuple[str, ...] = ()
    if axes[time] == "Z":
        warnings = (f"the z axis of {shape[time]} planes was read as time",)
    return Planes(tuple(index), shape[time], warnings)


def _channel(path: object, channel: object, length: int, names: Sequence[str]) -> int:
    options = [str(name) for name in names] if len(names) == length else []
    listed = f"0 to {length - 1}" + (f" or by name: {', '.join(options)}" if options else "")
    if channel is None:
        raise InputError(
            f"{path}: it has {length} channels; give channel (sample sheet column or keyword), {listed}; if they "
            "are frames, save them with T as their axis"
        )
    text = str(channel).strip()
    if text in options:
        return options.index(text)
    if text.isdecimal() and int(text) < length:
        return int(text)
    raise InputError(f"{path}: channel = {channel!r} is not one of its channels, {listed}")
