"""OME-Zarr images (NGFF 0.5 on Zarr v3, 0.4 on v2), in a local folder or at a URL."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from zarr.buffer.cpu import NDBuffer

from exotrack.errors import InputError, VideoError
from exotrack.tables import Array
from exotrack.video import units
from exotrack.video.axes import Planes, select_planes
from exotrack.video.footprints import files_below
from exotrack.video.source import Facts, checked_dtype

MARKERS = ("zarr.json", ".zgroup", ".zattrs", ".zarray")
_RUN_BYTES = 64 * 2**20
"""Decoded bytes read at once: a shard of a converted video, which is then one request of an object store, or enough
chunks to be fetched and decoded side by side."""


@dataclass(frozen=True)
class ZarrSource:
    """Frames of the full-resolution array of an image."""

    path: str
    array_path: str
    planes: Planes
    facts: Facts
    run: int
    """Frames to read at once: whole shards, or whole chunks where shards are large or absent."""

    def frames(self, start: int, stop: int) -> Generator[Array, None, None]:
        """See `Source.frames`. Each chunk is decoded once, a run at a time."""
        low = start
        while low < stop:
            high = min((low // self.run + 1) * self.run, stop)
            run = np.empty((high - low, *self.facts.shape[1:]), self.facts.dtype)
            self.read_into(low, run)
            yield from run
            low = high

    def read_into(self, start: int, out: Array) -> None:
        """Decode the frames from `start` on straight into an array (n, y, x) in C order.

        Run by run, which bounds what is held beside the result (155 MB for frames of 1280×720 px). Without the copy of
        every frame that takes 6 to 23 % less CPU time; the pipeline zarrs would take off another 0 to 11 %
        (benchmarks/bench_reading.py).
        """
        array = zarr.open_array(self.path, path=self.array_path, mode="r")
        low, stop = start, start + len(out)
        while low < stop:
            high = min((low // self.run + 1) * self.run, stop)
            selection = tuple(slice(low, high) if k is None else k for k in self.planes.index)
            part = out[low - start : high - start]
            if None not in self.planes.index:
                part = part[0]
            array.get_basic_selection(selection, out=NDBuffer.from_ndarray_like(part))
            low = high


def open_source(path: str | Path, *, channel: object = None, position: object = None) -> ZarrSource:
    """Read the metadata of an image; in a collection of images, `position` chooses one.

    Raises
    ------
    VideoError
        If there is no Zarr group, or none that holds an OME image, or shards of a converted video are missing.
    InputError
        If several channels or positions are there and none is chosen.
    """
    try:
        root = zarr.open_group(str(path), mode="r")
    except (FileNotFoundError, zarr.errors.ContainsArrayError):
        raise VideoError(
            f"{path}: no Zarr group is there; give the folder or URL of an OME-Zarr image (with zarr.json or .zattrs)"
        ) from None
    group, prefix = _image_group(path, root, position)
    attributes = _ome(group)
    image = attributes["multiscales"][0]
    array_path = prefix + image["datasets"][0]["path"]
    array = group[image["datasets"][0]["path"]]
    axes = [a if isinstance(a, Mapping) else {"name": a} for a in image["axes"]]
    letters = "".join(str(a["name"])[:1].upper() for a in axes)
    if len(letters) != array.ndim or letters[-2:] != "YX":
        raise VideoError(
            f"{path}: its axes {letters} do not describe its array of shape {array.shape}; write (t, y, x)"
        )
    names = [str(c.get("label")) for c in attributes.get("omero", {}).get("channels", [])]
    planes = select_planes(path, letters[:-2], array.shape[:-2], channel=channel, channel_names=names)
    provenance = cast("Mapping[str, Any]", group.attrs.get("exotrack", {}))
    _check_complete(path, array, provenance)
    dtype = checked_dtype(path, np.dtype(array.dtype))
    facts = Facts(
        shape=(planes.n_frames, array.shape[-2], array.shape[-1]),
        dtype=dtype,
        container={
            "format": f"OME-Zarr {_version(attributes, image)}",
            "zarr_format": array.metadata.zarr_format,
            "chunks": list(array.chunks),
            **({"converted_from": provenance["source"]} if "source" in provenance else {}),
        },
        files=_files(path),
        leads={**_scale_leads(axes, image), **_written_leads(provenance)},
        warnings=(*planes.warnings, *provenance.get("warnings", ())),
    )
    return ZarrSource(str(path), array_path, planes, facts, _run(array, planes, facts))


def _run(array: Any, planes: Planes, facts: Facts) -> int:
    """Frames in whole shards of up to `_RUN_BYTES`, else in whole chunks."""
    if None not in planes.index:
        return 1
    axis = planes.index.index(None)
    most = max(1, _RUN_BYTES // (facts.dtype.itemsize * facts.shape[1] * facts.shape[2]))
    unit = int(array.chunks[axis])
    if array.shards is not None and array.shards[axis] <= most:
        unit = int(array.shards[axis])
    return unit * max(1, most // unit)


def _ome(group: Any) -> Mapping[str, Any]:
    """OME attributes: under the key "ome" from version 0.5 on, at the top before."""
    attributes = group.attrs.asdict()
    return cast("Mapping[str, Any]", attributes.get("ome", attributes))


def _image_group(path: str | Path, root: Any, position: object) -> tuple[Any, str]:
    if _ome(root).get("multiscales"):
        return root, ""
    if "bioformats2raw.layout" not in _ome(root):
        raise VideoError(f"{path}: the Zarr group holds no OME image (no multiscales metadata); export it as OME-Zarr")
    name = str(position).strip() if position is not None else "0"
    several = position is None and "1" in root
    if several or name not in root:
        raise InputError(
            f"{path}: it holds several images; give position (sample sheet column or keyword), 0 for the first"
        )
    return root[name], f"{name}/"


def _version(attributes: Mapping[str, Any], image: Mapping[str, Any]) -> str:
    return str(attributes.get("version", image.get("version", "of unstated version")))


def _scale_leads(axes: list[Any], image: Mapping[str, Any]) -> dict[str, Any]:
    """Physical scale of the axes that state a unit; without one a scale of 1 means that nobody knew."""
    scale = np.ones(len(axes))
    for transforms in (image["datasets"][0].get("coordinateTransformations"), image.get("coordinateTransformations")):
        for transform in transforms or ():
            if transform.get("type") == "scale":
                scale = scale * np.asarray(transform["scale"], float)
    leads: dict[str, Any] = {}
    for axis, value in zip(axes, scale, strict=True):
        if axis["name"] == "t":
            leads["frame_interval_s"] = units.time_s(value, axis.get("unit"))
        elif axis["name"] in ("y", "x"):
            leads[f"pixel_size_{axis['name']}_um"] = units.length_um(value, axis.get("unit"))
    return {name: value for name, value in leads.items() if value is not None}


def _written_leads(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry["value"] for name, entry in provenance.get("metadata", {}).items()}


def _check_complete(path: str | Path, array: Any, provenance: Mapping[str, Any]) -> None:
    """A missing chunk reads as zeros; a converted video has none missing, so a shard that is not there was lost."""
    folder = Path(array.store.root) / array.path / "c" if hasattr(array.store, "root") else None
    if not provenance or folder is None or array.shards is None:
        return
    wanted = -(-array.shape[0] // array.shards[0])
    lost = [k for k in range(wanted) if not (folder / str(k) / "0" / "0").is_file()]
    if lost:
        raise VideoError(
            f"{path}: {len(lost)} of its {wanted} shards are missing, the first is {lost[0]}; copy it again"
        )


def _files(path: str | Path) -> tuple[Path, ...]:
    if "://" in str(path):
        return ()
    return tuple(sorted(files_below(Path(path))))
