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
    """
    from exotrack.simulate import write

    with terminal.progress() as show:
        sheet = write(spec, out, progress=lambda done, total: show("frames", done, total))
    terminal.say(f"Sample sheet: {sheet}")


def convert(
    video: Annotated[str, typer.Argument(help="File, folder of frames, or URL.", metavar="VIDEO")],
    out: Annotated[Path, typer.Option(help="OME-Zarr folder to write.", metavar="V.zarr")],
) -> None:
    """Write a video as lossless, checksummed OME-Zarr, and verify it frame by frame.

    Example: exotrack convert run1.avi --out run1.zarr
    """
    from exotrack.video import convert as write

    with terminal.progress() as show:
        written = write(video, out, progress=lambda done, total: show("frames", done, total))
    frames, height, width = written.shape
    terminal.say(f"{out}: {frames} frames of {width}×{height} px, verified")
