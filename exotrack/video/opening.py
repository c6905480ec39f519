"""`open_video`: from a path to a `Video`."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from exotrack.camera import Camera
from exotrack.depth import DepthTable
from exotrack.errors import InputError, VideoError
from exotrack.place import place
from exotrack.protocol import Protocol
from exotrack.video import av, colour, images, metadata, npy, omezarr, tiff
from exotrack.video.calibration import calibration_of
from exotrack.video.lazy import Video
from exotrack.video.source import Source, failures_named

_READ_HERE = (
    "AVI, MP4, MOV and MKV; TIFF, OME-TIFF and ImageJ stacks; folders or patterns (name_*.tif) of TIFF, PNG or JPEG "
    "frames; .npy; OME-Zarr"
)


def open_video(
    path: str | Path,
    *,
    pixel_size_um: float | None = None,
    frame_interval_s: float | None = None,
    fps: float | None = None,
    exposure_s: float | None = None,
    temperature_c: float | None = None,
    viscosity_mpa_s: float | None = None,
    medium: str | None = None,
    dilution: float | None = None,
    depth_um: float | None = None,
    depth_table: str | Path | DepthTable | None = None,
    channel: str | int | None = None,
    position: str | int | None = None,
    colour: str | None = None,
    camera: str | Path | Camera | None = None,
    settings: Mapping[str, Any] | None = None,
    protocol: Protocol | None = None,
) -> Video:
    """Open a video without reading it: the header and the first frame are looked at.

    Every value is taken from the first of these that states it, and its origin is kept: the keyword, the sample
    sheet's row (`settings`), a sidecar `<file name>.json` or `<stem>.json` beside the video with the same keys, the
    container, the protocol's default. A container's frame rate is a lead and is reported as such.

    Parameters
    ----------
    path
        A file, a folder of frames (in natural order: img2 before img10), a pattern such as ``name_*.tif``, an OME-Zarr
        folder; or the URL of an OME-Zarr, a TIFF or a video file (``s3://``, ``https://`` …).
    pixel_size_um
        Side of a pixel in the sample, µm.
    frame_interval_s, fps
        Time between frames in s, or frames per second; one of them is enough.
    exposure_s
        Time the shutter is open, s.
    temperature_c, viscosity_mpa_s, medium
        Of the sample, in °C and mPa·s; the medium by name where its viscosity is not given.
    dilution, depth_um, depth_table
        Dilution factor, and depth of the observed volume: in µm, or as a table by brightness or size (see
        `DepthTable`) or the path of its CSV file, in a sidecar relative to that.
    channel, position
        In a file of several channels (name or index from 0) or positions (index from 0), the one to read; elsewhere
        labels.
    colour
        How colour becomes grey: "luma", "red", "green" or "blue".
    camera
        Offset, gain and read noise of every pixel, of the size of the frames: a `Camera`, or the path of its .npz file
        (see `Camera.from_file`), in a sidecar relative to that. No container states it.
    settings
        A row of the sample sheet, column → value; unknown columns are kept.
    protocol
        Supplies defaults.

    Raises
    ------
    VideoError
        If the file is missing, unreadable, damaged, empty, or of a kind that is not read.
    InputError
        If a stated value is wrong, a choice (channel, position) is needed, or the camera's maps are missing, wrong or
        of another size than the frames. Missing pixel size and frame interval raise when `Video.acquisition` is asked
        for.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> file = Path(tempfile.mkdtemp()) / "v.npy"
    >>> np.save(file, np.zeros((300, 48, 64), np.uint8))
    >>> video = open_video(file, pixel_size_um=0.166, fps=25, exposure_s=0.02)
    >>> video.shape, video.metadata["temperature_c"]
    ((300, 48, 64), (25.0, 'protocol default'))
    >>> [(first, len(block)) for first, block in video.blocks(128)]
    [(0, 128), (128, 128), (256, 44)]
    """
    protocol = protocol or Protocol()
    keywords = {
        "pixel_size_um": pixel_size_um,
        "frame_interval_s": frame_interval_s,
        "fps": fps,
        "exposure_s": exposure_s,
        "temperature_c": temperature_c,
        "viscosity_mpa_s": viscosity_mpa_s,
        "medium": medium,
        "dilution": dilution,
        "depth_um": depth_um,
        "depth_table": depth_table,
        "channel": channel,
        "position": position,
        "colour": colour,
        "camera": None if isinstance(camera, Camera) else camera,
    }
    layers = [("argument", keywords), ("sample sheet", settings or {})]
    return look(_header(path, layers, protocol, camera if isinstance(camera, Camera) else None))


def open_header(path: str | Path, *, settings: Mapping[str, Any], protocol: Protocol) -> Video:
    """As `open_video`, from the header alone: no pixel is read, so damage to them does not show, see `look`."""
    return _header(path, [("sample sheet", settings)], protocol)


def look(video: Video) -> Video:
    """The video with its first frame looked at, which tells how colour became grey.

    Raises
    ------
    VideoError
        If the frame is damaged, or of another size than the header says.
    """
    with failures_named(video.path), closing(video.source.frames(0, 1)) as frames:
        first = next(frames, None)
    how = None if first is None else colour.describe(first, video.colour)
    video.read(0, 1)
    return video if how is None else replace(video, container={**video.container, "colour": how})


def _header(
    path: Path | str, layers: Sequence[metadata.Layer], protocol: Protocol, maps: Camera | None = None
) -> Video:
    path = path if isinstance(path, str) and "://" in path else Path(path)
    beside = metadata.sidecar(path) if isinstance(path, Path) else None
    known = metadata.stated(path, [*layers, *([beside] if beside else [])])
    if maps is not None:
        known["camera"] = (maps, "argument")
    # Where the file lies is not part of what is known about the recording: results do not depend on it.
    camera = known.pop("camera", None)
    known.setdefault("colour", (protocol.conditions.colour, "protocol default"))
    try:
        rule = colour.checked(known["colour"][0])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    choice: dict[str, Any] = {name: known[name][0] for name in ("channel", "position") if name in known}
    with failures_named(path):
        source = _source(path, rule, choice)
        if 0 in source.facts.shape:
            raise VideoError(f"{path}: the video is empty, it has no frames; record or export it again")
        resolved, doubts = metadata.resolve(path, known, source.facts, protocol)
    video = Video(
        path=path,
        source=source,
        colour=rule,
        container=source.facts.container,
        metadata=resolved,
        warnings=(*source.facts.warnings, *doubts),
        calibration=calibration_of(path, *camera, source.facts.shape[1:]) if camera else None,
    )
    if not metadata.missing_names(resolved):
        _ = video.acquisition  # a wrong number shows here
    return video


def _source(path: Path | str, rule: colour.Colour, choice: Mapping[str, Any]) -> Source:
    if isinstance(path, str):
        return _at_url(path, rule, choice)
    if not path.exists():
        if glob.has_magic(path.name):
            return _series(path, [p for p in path.parent.glob(path.name) if p.is_file()], choice)
        raise VideoError(f"{path}: no such file or folder; check the path")
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, "permission denied")
    if path.is_dir():
        if path.suffix == ".zarr" or any((path / marker).exists() for marker in omezarr.MARKERS):
            return omezarr.open_source(path, **choice)
        return _series(path, [p for p in path.iterdir() if p.is_file()], choice)
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes); copy it again from the instrument")
    suffix = path.suffix.lower()
    if suffix in av.SUFFIXES:
        return av.open_source(path, rule)
    if suffix in tiff.SUFFIXES:
        return tiff.open_source([path], **choice)
    if suffix in images.SUFFIXES:
        return images.open_source([path])
    if suffix == ".npy":
        return npy.open_source(path)
    if suffix == ".nim":
        raise VideoError(f"{path}: the .nim format is not documented; export TIFF from the instrument's software")
    raise VideoError(f"{path}: files of type {suffix or 'without suffix'} are not read; what is read: {_READ_HERE}")


def _at_url(url: str, rule: colour.Colour, choice: Mapping[str, Any]) -> Source:
    """A video file or TIFF that is read block by block; anything else is taken for an OME-Zarr."""
    suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
    if suffix in av.SUFFIXES:
        return av.open_source(place(url), rule)
    if suffix in tiff.SUFFIXES:
        return tiff.open_source([place(url)], **choice)
    return omezarr.open_source(url, **choice)


def _series(where: Path, files: list[Path], choice: Mapping[str, Any]) -> Source:
    """Frames from the images among `files`; hidden files and other types are passed over."""
    frames = [p for p in files if p.suffix.lower() in (*tiff.SUFFIXES, *images.SUFFIXES) and not p.name.startswith(".")]
    if not frames:
        raise VideoError(f"{where}: no TIFF, PNG or JPEG frames and no Zarr metadata are there; check the path")
    kinds = sorted({_kind(p) for p in frames})
    if len(kinds) > 1:
        raise VideoError(f"{where}: it holds {' and '.join(kinds)} frames; give a pattern such as name_*.tif")
    frames.sort(key=images.natural_order)
    if kinds == ["TIFF"]:
        return tiff.open_source(frames, **choice)
    return images.open_source(frames)


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    return "TIFF" if suffix in tiff.SUFFIXES else "PNG" if suffix == ".png" else "JPEG"
