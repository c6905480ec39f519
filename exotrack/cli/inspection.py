"""The command inspect: what is known about a video, and what is detected in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exotrack.cli import terminal
from exotrack.errors import InputError

if TYPE_CHECKING:
    from exotrack.tables import Array, Localizations
    from exotrack.video import Video

NEEDED = {"pixel_size_um": 1.0, "frame_interval_s": 1 / 30}
"""What sizes cannot do without. Detection works in pixels and frames: these stand in where nothing is stated."""


def inspect(
    video: Annotated[str, typer.Argument(help="File, folder of frames, or URL.", metavar="VIDEO")],
    out: Annotated[Path, typer.Option(help="Picture to write.", metavar="PNG")],
    frame: Annotated[int | None, typer.Option(help="Frame to draw, from 0.  [default: the middle one]")] = None,
) -> None:
    """Show the metadata of a video with their origins, and draw the detections on one of its frames.

    Example: exotrack inspect run1.avi --frame 100 --out detections.png
    """
    from exotrack.video import open_video

    source = open_video(video)
    number = source.shape[0] // 2 if frame is None else frame
    if not 0 <= number < source.shape[0]:
        raise InputError(f"--frame {number}: {video} has frames 0 to {source.shape[0] - 1}")
    _show_metadata(source)
    spots = _detect(source, number)
    _draw(source.read(number, number + 1)[0], spots, out)
    model = spots.model
    assert model is not None  # set by localize
    terminal.say(
        f"{len(spots)} {model.polarity} spots in frame {number}; width of a spot {model.sigma_px:.2f} px (s.d.), "
        f"noise {model.noise_dn:.2f} grey levels, threshold {model.threshold:.1f} times the noise"
    )
    for warning in (*source.warnings, *model.warnings):
        terminal.say(f"note: {warning}")
    terminal.say(f"{out}")


def _show_metadata(source: Video) -> None:
    from exotrack.video.calibration import CameraFile

    frames, height, width = source.shape
    rows = [["size", f"{frames} frames of {width}×{height} px, {source.dtype}", "container"]]
    rows += [[name, str(value), "container"] for name, value in source.container.items()]
    rows += [[name, _shown(value), origin] for name, (value, origin) in source.metadata.items()]
    if isinstance(source.calibration, CameraFile):
        rows += [["camera", str(source.calibration.path), source.calibration.origin]]
    rows += [[name, "NOT STATED", "needed for sizes"] for name in NEEDED if name not in source.metadata]
    terminal.table(str(source.path), ["what", "value", "origin"], rows)


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _detect(source: Video, number: int) -> Localizations:
    """Spots of one frame, found as in a run: with the background and noise of the window that it lies in."""
    from exotrack.localize import calibrate, localize, plan_windows
    from exotrack.protocol import Protocol

    missing = {name: (value, "placeholder") for name, value in NEEDED.items() if name not in source.metadata}
    complete = replace(source, metadata={**source.metadata, **missing})
    interval = complete.acquisition.frame_interval_s
    windows = plan_windows(complete.shape, complete.dtype.itemsize, interval, Protocol())
    start, stop = next(window for window in windows if window[0] <= number < window[1])
    found = localize(complete, model=calibrate(complete), start=start, stop=stop)
    return found.take(found.frame == number)


def _draw(frame: Array, spots: Localizations, out: Path) -> None:
    """A picture of the frame, stretched in contrast, with a circle around each spot."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from exotrack.storage import replacing

    height, width = frame.shape
    scale = max(1.0, 1200 / width)
    figure = Figure(figsize=(width * scale / 100, height * scale / 100), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    low, high = np.percentile(frame, (0.5, 99.8))
    axes.imshow(frame, cmap="gray", vmin=low, vmax=max(high, low + 1), interpolation="nearest")
    radius = 4.0 * (spots.model.sigma_px if spots.model else 1.5)
    points = 72 * scale / 100  # per pixel
    axes.scatter(
        spots.x, spots.y, s=(2 * radius * points) ** 2, facecolors="none", edgecolors="#f5a623", linewidths=1.2
    )
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axes.set_axis_off()
    try:
        with replacing(out) as beside:
            figure.savefig(beside, format="png")
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror}); check the path") from None
