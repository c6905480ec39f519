"""What is known about a recording, and from where: argument, sample sheet, sidecar, container or protocol default."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from exotrack.acquisition import Acquisition
from exotrack.depth import DepthTable
from exotrack.errors import InputError
from exotrack.protocol import Protocol
from exotrack.samplesheet import FILES
from exotrack.video.source import Facts

Metadata = dict[str, tuple[Any, str]]
"""Name → (value, origin); names are those of the sample sheet's columns."""
Layer = tuple[str, Mapping[str, Any]]
"""Origin and the values that it states."""

_NUMBERS = (
    "pixel_size_um", "frame_interval_s", "fps", "exposure_s", "temperature_c", "viscosity_mpa_s", "dilution",
    "depth_um",
)  # fmt: skip
_ACQUISITION = tuple(f.name for f in fields(Acquisition) if f.name not in ("frame_shape", "n_frames", "origins"))
_DEPTHS = ("depth_um", "depth_table")
"""Two ways to state one thing: that of the highest layer holds."""
_SAME_RATE = 0.005
"""fps and frame interval given together may differ by this much: 0.033 s and 30 fps are one statement, rounded."""


def sidecar(path: Path) -> Layer | None:
    """Values beside the video in `<file name>.json` or, failing that, `<stem>.json`; None if neither exists.

    Paths of further files are relative to the sidecar, and handed on with its folder.

    Raises
    ------
    InputError
        If the file is not a JSON object.
    """
    for candidate in (path.with_name(path.name + ".json"), path.with_suffix(".json")):
        if not candidate.is_file():
            continue
        try:
            values = json.loads(candidate.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{candidate}: the sidecar of {path.name} cannot be read as JSON ({error})") from None
        if not isinstance(values, dict):
            raise InputError(f'{candidate}: a sidecar is a JSON object such as {{"pixel_size_um": 0.166}}')
        for name in FILES:
            if isinstance(values.get(name), str) and values[name].strip():
                values[name] = str(candidate.parent / Path(values[name]).expanduser())
        return f"sidecar {candidate.name}", values
    return None


def stated(path: object, layers: Sequence[Layer]) -> Metadata:
    """Merge layers, highest first; empty values (None, "", NaN) state nothing.

    Raises
    ------
    InputError
        If a number or a depth table cannot be read as one, or two values of the same layer contradict each other.
    """
    merged: Metadata = {}
    for origin, values in layers:
        found = _parsed(path, origin, values)
        if any(name in merged for name in _DEPTHS):
            found = {name: value for name, value in found.items() if name not in _DEPTHS}
        elif all(name in found for name in _DEPTHS):
            raise InputError(f"{path}: {' and '.join(_DEPTHS)} ({origin}) state the same thing; give one of them")
        for name, value in found.items():
            merged.setdefault(name, (value, origin))
    return merged


def resolve(path: object, known: Metadata, facts: Facts, protocol: Protocol) -> tuple[Metadata, tuple[str, ...]]:
    """Add what the container states and the protocol's defaults to what was stated above them.

    Returns
    -------
    metadata, warnings
        Warnings tell of a container's values that deserve doubt.

    Raises
    ------
    InputError
        If the container's pixels are not square and nothing above it states their size, or a value is out of range.
    """
    leads, warnings = _container_values(path, known, facts)
    merged = {**{name: (value, "container") for name, value in leads.items()}, **known}
    defaults = {"temperature_c": protocol.conditions.temperature_c, "medium": protocol.conditions.medium}
    for name, value in defaults.items():
        merged.setdefault(name, (value, "protocol default"))
    depth, origin = merged["bit_depth"]
    if not (isinstance(depth, int) and 1 <= depth <= 8 * facts.dtype.itemsize):
        raise InputError(f"{path}: bit_depth = {depth!r} ({origin}) is not between 1 and {8 * facts.dtype.itemsize}")
    cuts, origin = merged.get("cuts", ((), ""))
    if any(not 0 < cut < facts.shape[0] for cut in cuts):
        raise InputError(
            f"{path}: cuts = {list(cuts)} ({origin}): each must lie within frames 1 to {facts.shape[0] - 1}"
        )
    return merged, warnings


def acquisition(path: object, metadata: Metadata, shape: tuple[int, int, int]) -> Acquisition:
    """The physical description of the recording.

    Raises
    ------
    InputError
        If the pixel size or the frame interval is known from nowhere, or a value is out of its range.
    """
    missing = missing_names(metadata)
    if missing:
        columns = " and ".join(missing)
        example = ", ".join(f'"{name}": …' for name in missing)
        raise InputError(
            f"{path}: {columns} not known: no sample sheet, sidecar or container states it; write it in the sample "
            f"sheet (column {columns}), in a file {Path(str(path)).name}.json beside the video ({{{example}}}), or "
            "pass it to open_video"
        )
    present = {name: metadata[name] for name in _ACQUISITION if name in metadata}
    origins = {name: origin for name, (_, origin) in present.items()}
    try:
        return Acquisition(
            **{name: value for name, (value, _) in present.items()},
            frame_shape=shape[1:],
            n_frames=shape[0],
            origins=origins,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def missing_names(metadata: Metadata) -> list[str]:
    """Names of the values that no analysis can do without and that are not known."""
    return [name for name in ("pixel_size_um", "frame_interval_s") if name not in metadata]


def _parsed(path: object, origin: str, values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        value = value.item() if isinstance(value, np.generic) else value
        if value is None or (isinstance(value, str) and not value.strip()) or value != value:  # NaN
            continue
        if name in _NUMBERS:
            value = _number(path, origin, name, value)
        elif name == "bit_depth":
            value = int(_number(path, origin, name, value))
        elif name == "cuts":
            value = _cuts(path, origin, value)
        elif name == "depth_table":
            value = _depth_table(path, origin, value)
        elif not isinstance(value, str | int | float | list | dict):
            value = str(value)
        found[str(name)] = value
    return _interval_of(path, origin, found)


def _number(path: object, origin: str, name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f"{path}: {name} = {value!r} ({origin}) is not a number; write it with a decimal point and no unit"
        )
    return number


def _depth_table(path: object, origin: str, value: Any) -> DepthTable:
    """The table itself: where its file lies is no part of what is known about the recording."""
    if isinstance(value, DepthTable):
        return value
    try:
        return DepthTable.from_csv(str(value))
    except InputError as error:
        raise InputError(f"{path}: its depth_table ({origin}) cannot be used: {error}") from None


def _cuts(path: object, origin: str, value: Any) -> tuple[int, ...]:
    """Frame numbers from a list, or from text separated by spaces, commas or semicolons."""
    items = value.replace(",", " ").replace(";", " ").split() if isinstance(value, str) else value
    items = [items] if isinstance(items, int | float) else items
    try:
        numbers = [float(item) for item in items]
        if any(number != int(number) for number in numbers):
            raise ValueError
    except (TypeError, ValueError):
        raise InputError(
            f"{path}: cuts = {value!r} ({origin}) is not a list of frame numbers such as [500, 1000]"
        ) from None
    return tuple(sorted({int(number) for number in numbers}))


def _interval_of(path: object, origin: str, found: dict[str, Any]) -> dict[str, Any]:
    """Replace fps by the frame interval."""
    if "fps" not in found:
        return found
    fps = found.pop("fps")
    if fps <= 0:
        raise InputError(f"{path}: fps = {fps:g} ({origin}) is not a positive number")
    interval = found.setdefault("frame_interval_s", 1 / fps)
    if abs(interval * fps - 1) > _SAME_RATE:
        raise InputError(
            f"{path}: fps = {fps:g} and frame_interval_s = {interval:g} ({origin}) contradict; give one of them"
        )
    return found


def _container_values(path: object, known: Metadata, facts: Facts) -> tuple[dict[str, Any], tuple[str, ...]]:
    leads = dict(facts.leads)
    warnings: list[str] = []
    leads.setdefault("bit_depth", 8 * facts.dtype.itemsize)
    if "fps" in leads:
        fps = leads.pop("fps")
        leads["frame_interval_s"] = 1 / fps
        if "frame_interval_s" not in known:
            warnings.append(
                f"the frame interval {1 / fps:.6g} s was taken from the {fps:.6g} frames/s in the file's header, which "
                "many programs write without measuring: state frame_interval_s in the sample sheet"
            )
    height, width = leads.pop("pixel_size_y_um", None), leads.pop("pixel_size_x_um", None)
    if "pixel_size_um" not in leads and "pixel_size_um" not in known and width is not None:
        if height is not None and abs(height / width - 1) > 1e-3:
            raise InputError(
                f"{path}: pixels of {width:g} µm (x) by {height:g} µm (y) are not square; if the header is wrong, "
                "state pixel_size_um in the sample sheet"
            )
        leads["pixel_size_um"] = width
    if isinstance(leads.get("cuts"), list):
        leads["cuts"] = tuple(leads["cuts"])
    return leads, tuple(warnings)
