"""TIFF, OME-TIFF and ImageJ stacks, in one file or several, through tifffile."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import tifffile

from exotrack.errors import InputError, VideoError
from exotrack.place import is_remote
from exotrack.tables import Array
from exotrack.video import units
from exotrack.video.axes import Planes, select_planes
from exotrack.video.opened import opened
from exotrack.video.source import Facts, checked_dtype, failures_named

SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")


@dataclass(frozen=True)
class _Part:
    """Frames of one file (or of one OME series, which may itself span files)."""

    path: Path
    series: int
    planes: Planes
    leading: tuple[int, ...]
    page_axes: str
    """Axes of a page: YX, or with samples YXS, SYX."""
    page_shape: tuple[int, ...]
    stored_dtype: str
    offset: int | None
    """Where the frames lie one after the other, uncompressed; None if they must be read page by page."""

    def frames(self, start: int, stop: int) -> Generator[Array, None, None]:
        selection = tuple(slice(None) if k is None else k for k in self.planes.index)
        numbers = np.arange(int(np.prod(self.leading, dtype=np.int64))).reshape(self.leading)[selection]
        pages = (int(number) for number in np.atleast_1d(numbers)[start:stop])
        yield from map(
            self._samples_last, self._decoded(pages) if self.offset is None else self._raw(pages, self.offset)
        )

    def _raw(self, pages: Iterable[int], offset: int) -> Iterator[Array]:
        # Read rather than mapped: the pages of a mapping stay resident and the process seems to grow with the video.
        dtype, count = np.dtype(self.stored_dtype), int(np.prod(self.page_shape))
        with opened(self.path) if is_remote(self.path) else self.path.open("rb") as file:
            for number in pages:
                file.seek(offset + number * count * dtype.itemsize)
                yield np.frombuffer(file.read(count * dtype.itemsize), dtype, count).reshape(self.page_shape)

    def _decoded(self, pages: Iterable[int]) -> Iterator[Array]:
        with _opened(self.path) as tif, ExitStack() as other_files:
            series = tif.series[self.series]
            for number in pages:
                page = series.pages[number]
                if page is None:
                    raise VideoError(
                        f"{self.path}: the plane {number} is named in its metadata but is in none of its files"
                    )
                handle = page.parent.filehandle
                if handle.closed:
                    other_files.close()  # one file of the series is open at a time, besides the first
                    handle.open()
                    other_files.callback(handle.close)
                yield page.asarray()

    def _samples_last(self, page: Array) -> Array:
        return np.moveaxis(page, 0, -1) if self.page_axes == "SYX" else page


@dataclass(frozen=True)
class TiffSource:
    """Frames of one or more TIFF files, one after the other."""

    parts: tuple[_Part, ...]
    facts: Facts

    def frames(self, start: int, stop: int) -> Generator[Array, None, None]:
        """See `Source.frames`."""
        first = 0
        for part in self.parts:
            low, high = max(start - first, 0), min(stop - first, part.planes.n_frames)
            if low < high:
                with failures_named(part.path):
                    yield from part.frames(low, high)
            first += part.planes.n_frames


def open_source(paths: Sequence[Path], *, channel: object = None, position: object = None) -> TiffSource:
    """Read the headers of TIFF files; several files follow one another in the order given.

    A file of an OME series that spans files stands for the whole series, and the others of the series add nothing.

    Raises
    ------
    VideoError
        If a file is damaged or frames differ in size or pixel type.
    InputError
        If the file holds several channels or positions and none is chosen.
    """
    parts: list[_Part] = []
    covered: set[Path] = set()
    described: Facts | None = None
    for path in paths:
        if path.resolve() in covered:
            continue
        with failures_named(path):
            part, facts = _read_header(path, channel, position)
        covered.update(file.resolve() for file in facts.files)
        parts.append(part)
        if described is None:
            described = facts
        elif (facts.shape[1:], facts.dtype) != (described.shape[1:], described.dtype):
            raise VideoError(
                f"{path}: frames of {_size(facts)}, those of {parts[0].path.name} are {_size(described)}; "
                "keep the frames of one video in a folder of their own"
            )
    assert described is not None
    n_frames = sum(part.planes.n_frames for part in parts)
    container = dict(described.container) if len(parts) == 1 else {**described.container, "files": len(parts)}
    files = described.files if len(parts) == 1 else tuple(part.path for part in parts)
    return TiffSource(
        tuple(parts),
        Facts(
            shape=(n_frames, *described.shape[1:]),
            dtype=described.dtype,
            container=container,
            files=files,
            leads=described.leads,
            warnings=described.warnings,
        ),
    )


def _size(facts: Facts) -> str:
    return f"{facts.shape[2]}×{facts.shape[1]} px, {facts.dtype.name}"


def _read_header(path: Path, channel: object, position: object) -> tuple[_Part, Facts]:
    with _opened(path) as tif:
        number = _series_number(path, tif, position)
        series = tif.series[number]
        page = series.keyframe
        page_axes = page.axes
        if page_axes not in ("YX", "YXS", "SYX"):
            raise VideoError(f"{path}: pages with axes {page_axes} are not read; export one frame per page")
        # A single frame's series has the axes of its page, a stack's has more in front.
        n_leading = len(series.axes) - len(page_axes)
        leading = tuple(int(n) for n in series.shape[:n_leading])
        ome = _ome_image(tif, number)
        names = (
            [] if ome is None else [str(c.get("Name")) for c in ome.iterfind("./{*}Pixels/{*}Channel") if c.get("Name")]
        )
        planes = select_planes(path, series.axes[:n_leading], leading, channel=channel, channel_names=names)
        dtype = checked_dtype(path, np.dtype(series.dtype))
        _check_palette(path, tif, page)
        files = sorted({Path(p.parent.filehandle.path) for p in series.pages if p is not None})
        if is_remote(path):
            files = []
        stored = np.dtype(series.dtype).newbyteorder(tif.byteorder)
        page_shape = tuple(int(n) for n in series.shape[n_leading:])
        part = _Part(
            path=path,
            series=number,
            planes=planes,
            leading=leading,
            page_axes=page_axes,
            page_shape=page_shape,
            stored_dtype=stored.str,
            offset=_contiguous_offset(path, series, page, stored.itemsize),
        )
        height, width = (page_shape[page_axes.index(a)] for a in "YX")
        facts = Facts(
            shape=(planes.n_frames, height, width),
            dtype=dtype,
            container={
                "format": "ImageJ TIFF" if tif.is_imagej else "OME-TIFF" if tif.is_ome else "TIFF",
                "compression": page.compression.name.lower(),
                "photometric": page.photometric.name.lower(),
            },
            files=tuple(files),
            leads={"bit_depth": int(page.bitspersample), **_leads(tif, ome)},
            warnings=planes.warnings,
        )
    return part, facts


def _series_number(path: Path, tif: Any, position: object) -> int:
    series = tif.series
    if not series:
        raise VideoError(f"{path}: it holds no image")
    if len(series) == 1:
        return 0
    shapes = {tuple(s.shape) for s in series}
    if len(shapes) > 1 and not tif.is_ome:
        found = ", ".join("×".join(str(n) for n in s) for s in sorted(shapes))
        raise VideoError(f"{path}: its frames differ in size ({found}); export frames of one size")
    text = str(position).strip()
    if text.isdecimal() and int(text) < len(series):
        return int(text)
    raise InputError(
        f"{path}: it holds {len(series)} images; give position (sample sheet column or keyword), 0 to {len(series) - 1}"
    )


def _contiguous_offset(path: Path, series: Any, page: Any, itemsize: int) -> int | None:
    """Where the pixels begin if they lie in one run; a run that ends after the file does is a truncated file."""
    if series.dataoffset is None or page.compression != 1 or page.bitspersample != 8 * itemsize:
        return None
    wanted = series.dataoffset + int(np.prod(series.shape, dtype=np.int64)) * itemsize
    present = path.stat().st_size
    if present < wanted:
        raise VideoError(
            f"{path}: the file ends early: {present} bytes of the {wanted} that its header promises; copy it again"
        )
    return int(series.dataoffset)


def _check_palette(path: Path, tif: Any, page: Any) -> None:
    """ImageJ's colour table is for display and the index is the value; elsewhere a coloured palette is an image."""
    if page.photometric != tifffile.PHOTOMETRIC.PALETTE or tif.is_imagej or page.colormap is None:
        return
    red, green, blue = page.colormap
    if not (np.array_equal(red, green) and np.array_equal(red, blue)):
        raise VideoError(f"{path}: palette colours are not read; export grey values")


def _leads(tif: Any, ome: ET.Element | None) -> dict[str, Any]:
    if ome is not None:
        return _ome_leads(ome)
    return _imagej_leads(tif) if tif.is_imagej else {}


def _ome_image(tif: Any, number: int) -> ET.Element | None:
    if not tif.is_ome or not tif.ome_metadata:
        return None
    images = ET.fromstring(tif.ome_metadata).findall("./{*}Image")
    return images[number] if number < len(images) else None


def _ome_leads(image: ET.Element) -> dict[str, Any]:
    pixels = image.find("./{*}Pixels")
    if pixels is None:
        return {}
    leads: dict[str, Any] = {
        "pixel_size_y_um": units.length_um(pixels.get("PhysicalSizeY"), pixels.get("PhysicalSizeYUnit", "µm")),
        "pixel_size_x_um": units.length_um(pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit", "µm")),
        "frame_interval_s": units.time_s(pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s")),
    }
    plane = pixels.find("./{*}Plane")
    if plane is not None:
        leads["exposure_s"] = units.time_s(plane.get("ExposureTime"), plane.get("ExposureTimeUnit", "s"))
    bits = pixels.get("SignificantBits")
    if bits is not None and bits.isdecimal():
        leads["bit_depth"] = int(bits)
    return {name: value for name, value in leads.items() if value is not None}


def _imagej_leads(tif: Any) -> dict[str, Any]:
    # "fps" is left out: it is the speed at which ImageJ plays the stack, not the one at which it was recorded.
    described = tif.imagej_metadata or {}
    tags = tif.pages[0].tags
    unit = described.get("unit")
    leads = {
        "pixel_size_y_um": units.length_um(_per_pixel(tags, "YResolution"), described.get("yunit", unit)),
        "pixel_size_x_um": units.length_um(_per_pixel(tags, "XResolution"), unit),
        "frame_interval_s": units.time_s(described.get("finterval"), described.get("tunit", "s")),
    }
    return {name: value for name, value in leads.items() if value is not None}


def _per_pixel(tags: Any, name: str) -> float | None:
    tag = tags.get(name)
    if tag is None or not tag.value[0]:
        return None
    return float(tag.value[1] / tag.value[0])


# tifffile reports damage through its logger and goes on with what it could read, so that a truncated stack looks like
# a shorter one. While this module has a file open, the log of its thread is kept here instead of being printed.
_reports = threading.local()


def _keep(record: logging.LogRecord) -> bool:
    kept: list[logging.LogRecord] | None = getattr(_reports, "kept", None)
    if kept is None:
        return True
    kept.append(record)
    return False


logging.getLogger("tifffile").addFilter(_keep)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open TiffFile; damage that tifffile only logs becomes a VideoError at the end."""
    outer = getattr(_reports, "kept", None)
    kept: list[logging.LogRecord] = []
    _reports.kept = kept
    try:
        with opened(path) as file, tifffile.TiffFile(file) as tif:
            yield tif
    finally:
        _reports.kept = outer
    damage = [record.getMessage() for record in kept if record.levelno >= logging.ERROR]
    if damage:
        raise VideoError(f"{path}: the file is damaged or ends early ({damage[0]}); copy it again from the instrument")
