"""A frame of the video with what was found in it: circles as SVG over the embedded picture."""

from __future__ import annotations

import base64
import logging
from dataclasses import dataclass

import imagecodecs
import numpy as np
import numpy.typing as npt
from skimage.transform import resize

from exotrack.report.read import Array, Video

logger = logging.getLogger(__name__)

MAX_WIDTH_PX = 640
"""Wider pictures are reduced to this: the report shows where particles were found, it does not archive pixels."""

MAX_CIRCLES = 400
"""More spots than this are not drawn one by one; those with the highest signal-to-noise ratio are."""

_JPEG_QUALITY = 80
Grey = npt.NDArray[np.uint8]

_COLOURS_ON_DARK = ("#ffd400", "#5ad1ff")
_COLOURS_ON_BRIGHT = ("#b3261e", "#1d4ed8")


@dataclass(frozen=True)
class FramePicture:
    """A frame with detections."""

    svg: str
    frame: int | None
    """Index of the frame, where stated."""
    found: int
    """Spots found in it."""
    drawn: int
    """Circles drawn; fewer than found where there are very many."""


def frame_picture(video: Video) -> FramePicture | None:
    """The preview of a video with a circle around every spot, or None where there is no readable preview.

    Solid circles belong to a track, dashed ones do not. Coordinates are those of the tables: (0, 0) is the centre of
    the first pixel, so it lies at (0.5, 0.5) in the drawing.
    """
    picture = _picture(video)
    if picture is None:
        return None
    shape = video.facts.items("shape")
    height, width = shape[-2:] if len(shape) >= 2 else picture.shape
    frame = video.facts.number("preview", "frame")
    spots = None if frame is None else video.table("localizations", ["frame", "y", "x", "snr"])
    circles, found, drawn = "", 0, 0
    if spots is not None:
        chosen = np.flatnonzero(spots["frame"] == frame)
        found = len(chosen)
        brightest = chosen[np.argsort(-spots["snr"][chosen], kind="stable")[:MAX_CIRCLES]]
        drawn = len(brightest)
        tracked = _tracked(video, frame)
        radius = max(4.0, 3.0 * (video.facts.number("spot_model", "sigma_px") or 0.0), width / 100)
        colours = _COLOURS_ON_BRIGHT if picture.mean() > 127 else _COLOURS_ON_DARK
        for i in np.sort(brightest):
            y, x = float(spots["y"][i]), float(spots["x"][i])
            circles += _circle(y, x, radius, colours, float(spots["snr"][i]), tracked.get((y, x)))
    jpeg = base64.b64encode(imagecodecs.jpeg8_encode(_reduced(picture), level=_JPEG_QUALITY)).decode()
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="frame with {drawn} circled spots"><image width="{width}" height="{height}" '
        f'preserveAspectRatio="none" href="data:image/jpeg;base64,{jpeg}"/>'
        f'<g fill="none" stroke-width="{max(1.0, width / 480):.2f}" pointer-events="all">{circles}</g></svg>'
    )
    return FramePicture(svg, None if frame is None else int(frame), found, drawn)


def _picture(video: Video) -> Grey | None:
    path = video.folder / (video.facts.text("preview", "file") or "frame.png")
    # The name comes from a file: it must not lead out of the video's own folder.
    if path.parent != video.folder or not path.is_file():
        return None
    try:
        picture = np.asarray(imagecodecs.png_decode(path.read_bytes()))
    except (OSError, ValueError, imagecodecs.PngError) as error:
        logger.warning("%s cannot be read and is left out of the report: %s", path, error)
        return None
    return picture if picture.ndim == 2 and picture.dtype == np.uint8 else None


def _reduced(picture: Grey) -> Grey:
    height, width = picture.shape
    if width <= MAX_WIDTH_PX:
        return picture
    shape = (max(1, round(height * MAX_WIDTH_PX / width)), MAX_WIDTH_PX)
    reduced = resize(picture, shape, order=1, anti_aliasing=True, preserve_range=True)
    grey: Grey = np.clip(np.rint(reduced), 0, 255).astype(np.uint8)
    return grey


def _tracked(video: Video, frame: float | None) -> dict[tuple[float, float], int]:
    tracks: dict[str, Array] | None = video.table("tracks", ["frame", "y", "x", "particle"])
    if tracks is None:
        return {}
    rows = np.flatnonzero(tracks["frame"] == frame)
    return {(float(tracks["y"][i]), float(tracks["x"][i])): int(tracks["particle"][i]) for i in rows}


def _circle(y: float, x: float, radius: float, colours: tuple[str, str], snr: float, particle: int | None) -> str:
    style = f'stroke="{colours[1]}" stroke-dasharray="3 2"' if particle is None else f'stroke="{colours[0]}"'
    title = f"signal-to-noise {snr:.1f}, " + ("in no track" if particle is None else f"track {particle}")
    return f'<circle cx="{x + 0.5:.2f}" cy="{y + 0.5:.2f}" r="{radius:.1f}" {style}><title>{title}</title></circle>'
