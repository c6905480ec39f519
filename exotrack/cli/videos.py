"""Commands that write videos: simulate, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exotrack.cli import terminal


def simulate(
    spec: Annotated[Path, typer.Argument(help="What to simulate.", metavar="SPEC.toml")],
    out: Annotated[Path, typer.Option(help="Folder for videos, truth tables and samplesheet.csv.")],
) -> None:
    """Simulate the videos of a study, with their truth.

    Example: exotrack simulate spec.toml --out simulated

    The file holds settings for all videos under [simulation] and one table [[sample]] per sample, with its batch,
    n_videos and sizes; the README has an example. An unknown setting is answered with the list of all.
    """
    from exotrack.simulate import write

    with terminal.progress() as show:
        sheet = write(spec, out, progress=lambda done, total: show("frames", done, total))
    terminal.say(f"Sample sheet: {sheet}")


def convert(
    video: Annotated[str, typer.Argument(help="File, folder of frames, or URL.", metavar="VIDEO")],
    out: Annotated[Path, typer.Option(help="OME-Zarr folder to write.", metavar="V.zarr")],
    pixel_size_um: Annotated[
        float | None, typer.Option(help="Side of a pixel, if the video does not state it.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second, if the video does not state them.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace V.zarr.")] = False,
) -> None:
    """Write a video as lossless, checksummed OME-Zarr, and verify it frame by frame.

    Example: exotrack convert run1.avi --out run1.zarr --pixel-size-um 0.166 --fps 30
    """
    from exotrack.video import convert as write
    from exotrack.video import open_video

    source = open_video(video, pixel_size_um=pixel_size_um, fps=fps)
    with terminal.progress() as show:
        written = write(source, out, overwrite=overwrite, progress=lambda done, total: show("frames", done, total))
    frames, height, width = written.shape
    terminal.say(f"{out}: {frames} frames of {width}×{height} px, verified")
    for name in ("pixel_size_um", "frame_interval_s"):
        if name not in written.metadata:
            terminal.say(f"note: {name} is not known and not written; give --pixel-size-um and --fps")
