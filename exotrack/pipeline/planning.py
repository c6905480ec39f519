"""What will be done, decided before any pixel is read: which videos, with which settings, in which parts."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from exotrack import storage
from exotrack import video as videos
from exotrack.errors import InputError, VideoError
from exotrack.journal import CRASHES_MOST, Journal
from exotrack.localize import plan_windows
from exotrack.pipeline.provenance import code_sha256, libraries
from exotrack.protocol import Protocol
from exotrack.samplesheet import FILES, Row, SampleSheet
from exotrack.video.calibration import CameraFile
from exotrack.video.footprints import files_of

PART_BYTES: Final = 100_000_000
"""Least size of a part of a video that is worth a task of its own."""

Part = tuple[int, int]
"""First frame, and the one after the last."""


@dataclass(frozen=True)
class Job:
    """One video and everything that decides its result; small, and fit to be sent to another machine."""

    row: Row
    source: videos.Video | None
    """As its header says; None where that could not be read, or was not, since finished results are kept."""
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
    seen: str | None
    """What decides the result as far as it can be told without opening the video, hashed; None where it cannot."""
    kept: Mapping[str, Any] | None
    """Where an earlier run saw the same: what its run.json says of the input. Its results hold."""

    @property
    def n_frames(self) -> int:
        """Frames to localize; 0 where the header was not read."""
        return self.parts[-1][1] if self.parts else 0

    @property
    def n_bytes(self) -> int:
        """Size of the pixels to localize."""
        return 0 if self.source is None else math.prod(self.source.shape) * self.source.dtype.itemsize

    def opened(self) -> videos.Video:
        """The video, its header read.

        Raises
        ------
        VideoError, InputError
            If it cannot be.
        """
        if self.problem:
            raise VideoError(self.problem)
        if self.source is not None:
            return self.source
        return videos.open_header(self.row.video, settings=self.row.settings, protocol=self.protocol)

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
        return _hashed(said)


def plan_videos(
    sheet: SampleSheet,
    out: Path,
    protocol: Protocol,
    *,
    backend: str,
    force: bool,
    block_frames: int | None,
    versions: Mapping[str, str] | None = None,
    earlier: Mapping[str, Any] | None = None,
) -> list[Job]:
    """Plan every video, in the order of the sheet, from its header; no pixel is read.

    Parameters
    ----------
    sheet : SampleSheet
    out : Path
        Result folder.
    protocol : Protocol
    backend : str
        "cpu" or "cuda".
    force : bool
        Make finished results again.
    block_frames : int, optional
    versions : mapping, optional
        Libraries of the workers; those of this process if not given.
    earlier : mapping, optional
        What `run.json` of an earlier run says of the inputs. A video whose files, row and settings are what they were
        then, and whose results are complete, is not even opened.

    Raises
    ------
    InputError
        If pixel size or frame interval of any video is stated nowhere, or another value is impossible; all such
        videos are listed. A video that is damaged is no error here: its job carries the problem and fails alone.
    """
    jobs: list[Job] = []
    faults: list[str] = []
    decided = {"backend": backend, "code": code_sha256(), "libraries": dict(versions or libraries(backend))}
    journal = Journal.of_this_process()
    for row in sheet:
        own = _with_polarity(protocol, row.polarity)
        folder = out / "videos" / row.video_id
        seen = _seen(row, {**decided, "protocol": own.sha256})
        source: videos.Video | None = None
        parts: tuple[Part, ...] = ()
        problem = ""
        again = force and row.video_id not in journal.done  # a run that crashed and goes on makes nothing twice
        kept = None if again else _kept(folder, seen, (earlier or {}).get(row.video_id))
        if kept is None:
            try:
                source = _open(row, own, journal)
                parts = partition(source, own)
            except InputError as error:
                faults.append(str(error))
            except VideoError as error:
                problem = str(error)
            if source is not None and not _foreseen(row, source):
                seen = None
        job = Job(row, source, problem, parts, own, backend, folder, again, block_frames, code_sha256(), seen, kept)
        jobs.append(job)
    if faults:
        raise InputError("\n".join([f"{sheet.path}: {len(faults)} video(s) cannot be analysed as described:", *faults]))
    return jobs


def _open(row: Row, protocol: Protocol, journal: Journal) -> videos.Video:
    """The header of a video; one that has crashed the program before is not opened a third time."""
    if journal.crashes(f"header of {row.video_id}") > CRASHES_MOST:
        raise VideoError(f"{row.video}: the program crashed twice while its header was read; export the video again")
    with journal.doing(f"header of {row.video_id}"):
        return videos.open_header(row.video, settings=row.settings, protocol=protocol)


def _seen(row: Row, decided: Mapping[str, Any]) -> str | None:
    files = [Path(str(row.settings[name])) for name in FILES if name in row.settings]
    found = videos.footprint(row.video, files)
    return None if found is None else _hashed({**decided, "row": asdict(row), "footprint": found})


def _foreseen(row: Row, source: videos.Video) -> bool:
    """Whether a footprint covers every file that decides the result of a video."""
    beside = {origin for name, (_, origin) in source.metadata.items() if name in FILES}
    if isinstance(source.calibration, CameraFile):
        beside.add(source.calibration.origin)
    files = source.source.facts.files
    covered = set(files_of(Path(row.video))) if files else set()
    if not covered.issuperset(files):  # a file may be named in another way; to resolve all names takes long
        covered, files = {file.resolve() for file in covered}, tuple(file.resolve() for file in files)
    return beside <= {"sample sheet"} and covered.issuperset(files)


def _kept(folder: Path, seen: str | None, before: Any) -> Mapping[str, Any] | None:
    """What an earlier run recorded of a video, if that still holds."""
    if seen is None or not isinstance(before, dict) or before.get("seen") != seen:
        return None
    done = storage.completion(folder)
    return before if done is not None and done.get("key") == before.get("key") else None


def _hashed(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


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
