"""What will be done, decided before any pixel is read: which videos, with which settings, in which parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exotrack import video as videos
from exotrack.errors import InputError, VideoError
from exotrack.localize import plan_windows
from exotrack.pipeline.provenance import code_sha256, libraries
from exotrack.protocol import Protocol
from exotrack.samplesheet import Row, SampleSheet

PART_BYTES: Final = 100_000_000
"""Least size of a part of a video that is worth a task of its own."""

Part = tuple[int, int]
"""First frame, and the one after the last."""


@dataclass(frozen=True)
class Job:
    """One video and everything that decides its result; small, and fit to be sent to another machine."""

    row: Row
    source: videos.Video | None
    """None where the header could not be read."""
    problem: str
    """Why it could not be read; empty otherwise."""
    parts: tuple[Part, ...]
    """Runs of frames that are localized independently; one for a video that must be decoded in order."""
    protocol: Protocol
    """The study's, with the polarity that the sheet states for this video."""
    backend: str
    """"cpu" or "cuda"."""
    folder: Path
    """Where the results go."""
    force: bool
    """Whether finished results are made again."""
    block_frames: int | None
    """Frames handled at a time; never changes a result."""
    code_sha256: str
    """Hash of the code that planned it."""

    @property
    def n_frames(self) -> int:
        """Frames to localize; 0 where the header could not be read."""
        return self.parts[-1][1] if self.parts else 0

    def key(self, input_sha256: str) -> str:
        """Hash of all that decides the result: input, metadata, camera, settings, code, libraries.

        Equal keys, equal results.

        The libraries are those of the process that asks: the worker on which the video is analysed.
        """
        said = {
            "input": input_sha256,
            "protocol": self.protocol.sha256,
            "metadata": dict(self.source.metadata) if self.source else {},
            "camera": self.source.calibration.sha256 if self.source and self.source.calibration else None,
            "role": self.row.role,
            "backend": self.backend,
            "code": self.code_sha256,
            "libraries": libraries(self.backend),
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def plan_videos(
    sheet: SampleSheet, out: Path, protocol: Protocol, *, backend: str, force: bool, block_frames: int | None
) -> list[Job]:
    """Open every header and plan every video, in the order of the sheet.

    Raises
    ------
    InputError
        If pixel size or frame interval of any video is stated nowhere, or another value is impossible; all such
        videos are listed. A video that is damaged is no error here: its job carries the problem and fails alone.
    """
    jobs: list[Job] = []
    faults: list[str] = []
    for row in sheet:
        own = _with_polarity(protocol, row.polarity)
        source: videos.Video | None = None
        problem = ""
        parts: tuple[Part, ...] = ()
        try:
            source = videos.open_video(row.video, settings=row.settings, protocol=own)
            parts = partition(source, own)
        except InputError as error:
            faults.append(str(error))
        except VideoError as error:
            problem = str(error)
        folder = out / "videos" / row.video_id
        jobs.append(Job(row, source, problem, parts, own, backend, folder, force, block_frames, code_sha256()))
    if faults:
        raise InputError("\n".join([f"{sheet.path}: {len(faults)} video(s) cannot be analysed as described:", *faults]))
    return jobs


def _with_polarity(protocol: Protocol, polarity: str | None) -> Protocol:
    if polarity is None:
        return protocol
    return protocol.model_copy(update={"localize": protocol.localize.model_copy(update={"polarity": polarity})})


def partition(source: videos.Video, protocol: Protocol) -> tuple[Part, ...]:
    """Parts of a video that can be localized independently with the same result as the whole.

    They end on the windows of the global time grid. A video that must be decoded in order is one part.
    """
    windows = plan_windows(source.shape, source.dtype.itemsize, source.acquisition.frame_interval_s, protocol)
    if source.sequential:
        return ((0, source.shape[0]),)
    _, height, width = source.shape
    return group(windows, height * width * source.dtype.itemsize, PART_BYTES)


def group(windows: Sequence[Part], frame_bytes: int, least: int) -> tuple[Part, ...]:
    """Join consecutive windows until each part has at least `least` bytes; a smaller rest joins the last part.

    Examples
    --------
    >>> group([(0, 10), (10, 20), (20, 30), (30, 35)], 1, 15)
    ((0, 20), (20, 35))
    """
    parts: list[Part] = []
    first = windows[0][0] if windows else 0
    for _, stop in windows:
        if (stop - first) * frame_bytes >= least:
            parts.append((first, stop))
            first = stop
    if windows and first < windows[-1][1]:
        before = parts.pop()[0] if parts else first
        parts.append((before, windows[-1][1]))
    return tuple(parts)
