"""The camera of a video: read once per process, however many videos and tasks share it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from exotrack.camera import Camera
from exotrack.errors import InputError, VideoError

KEPT: Final = 2
"""Calibrations that a process keeps in memory; the maps of one of 2048×2048 px are 50 MB."""


@dataclass(frozen=True)
class CameraFile:
    """A calibration on disk, in place of its maps: small, and fit to be sent to workers with each task."""

    path: Path
    """Absolute path of the .npz file."""
    origin: str
    """Who named it: "argument", "sample sheet" or "sidecar NAME"."""
    sha256: str
    """See `Camera.sha256`."""
    excess: float
    """See `Camera.excess`."""

    @property
    def camera(self) -> Camera:
        """The calibration.

        Raises
        ------
        VideoError
            If the file is no longer what it was when the video was opened.
        """
        camera = _read(self.path)
        if camera.sha256 != self.sha256:
            raise VideoError(f"{self.path}: the camera's maps changed after the video was opened; run again")
        return camera


def calibration_of(video: object, camera: Any, origin: str, frame_shape: tuple[int, int]) -> Camera | CameraFile:
    """What a video keeps of a camera that was given as maps or as the path of their file.

    Raises
    ------
    InputError
        If the file cannot be read as a camera, or the maps are not of the size of the frames.
    """
    kept: Camera | CameraFile
    if isinstance(camera, Camera):
        kept = maps = camera
    elif isinstance(camera, str):
        path = Path(camera).expanduser().resolve()
        try:
            maps = _read(path)
        except InputError as error:
            raise InputError(f"{video}: its camera ({origin}) cannot be used: {error}") from None
        kept = CameraFile(path, origin, maps.sha256, maps.excess)
    else:
        raise InputError(f"{video}: camera = {camera!r} ({origin}) is no path; give that of the .npz file of its maps")
    if maps.shape != frame_shape:
        raise InputError(
            f"{video}: its frames have the shape {frame_shape} (height, width), the maps of its camera ({origin}) have "
            f"{maps.shape}; give maps of the part of the sensor that was recorded, in the orientation of the frames"
        )
    return kept


def _read(path: Path) -> Camera:
    if not path.is_file():
        return Camera.from_file(path)  # which says so
    status = path.stat()
    return _read_state(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=KEPT)
def _read_state(path: Path, mtime_ns: int, size: int) -> Camera:  # noqa: ARG001  # they tell states of a file apart
    return Camera.from_file(path)
