"""The command devices: what will run where on this machine."""

from __future__ import annotations

import os

from exotrack.cli import terminal

CODECS = ("rawvideo", "mjpeg", "h264", "hevc", "ffv1", "png")
"""Decoders that matter for particle video."""
PACKAGES = ("numba", "numpy", "dask", "distributed", "av", "tifffile", "imagecodecs", "zarr", "scikit-image")


def devices() -> None:
    """Show backends, processor, codecs and versions.

    Example: exotrack devices
    """
    from exotrack import backends
    from exotrack.pipeline.provenance import device, package_version

    rows = [["cpu", "yes", f"{device()}, {os.cpu_count()} cores"]]
    reason = backends.why_no_cuda()
    rows.append(["cuda", "yes", device("cuda")] if reason is None else ["cuda", "no", reason])
    terminal.table(
        "Backends", ["backend", "usable", "what"], [*rows, ["auto", "", f"means {backends.resolve('auto')}"]]
    )
    terminal.table("Video decoders", ["codec", "usable"], [[name, _decodes(name)] for name in CODECS])
    terminal.table("Versions", ["package", "version"], [[name, package_version(name)] for name in PACKAGES])


def _decodes(codec: str) -> str:
    import av

    return "yes" if codec in av.codecs_available else "no"
