"""The result folder: nothing half-done ever bears a final name, and everything in it reads back as tables.

Files are written beside their place, flushed to disk and renamed; a video's folder is built whole under a temporary
name and then renamed. A run that was killed therefore leaves finished videos, which the next run keeps, and no others.
Parquet files hold no times and no paths: the same input and protocol give the same bytes.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from exotrack.errors import InputError
from exotrack.lock import LOCK
from exotrack.tables import LinkSummary, Localizations, Particles, Table, Tracks

AnyTable = TypeVar("AnyTable", bound=Table)

VIDEO_TABLES = {"localizations": Localizations, "tracks": Tracks, "particles": Particles}
"""File name → table of each video's folder."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends without an exception."""
    beside = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield beside
        _flush(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty temporary folder beside `path`, which takes its place when the block ends without an exception."""
    beside = path.with_name(f".tmp-{path.name}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        for file in beside.iterdir():
            _flush(file)
        if path.exists():
            remove(path)  # a folder cannot be replaced in one step: between the two the video counts as not done
        os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _flush(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def remove(folder: Path) -> None:
    """Delete a video's folder, in one step as far as its name is concerned."""
    outgoing = folder.with_name(f".tmp-old-{folder.name}")
    shutil.rmtree(outgoing, ignore_errors=True)
    os.replace(folder, outgoing)
    shutil.rmtree(outgoing, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as beside:
        beside.write_bytes(content)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all; NumPy values become plain ones, and numbers that are not finite null."""
    write_bytes(path, (json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a CSV file whole or not at all: UTF-8, numbers with eight digits, missing values empty."""
    write_bytes(path, frame.to_csv(index=False, float_format="%.8g", lineterminator="\n").encode())


def write_parquet(path: Path, table: pa.Table, provenance: Mapping[str, Any]) -> None:
    """Write Parquet whole or not at all; `provenance` goes into the file's metadata as JSON under "exotrack"."""
    note = json.dumps(_plain(provenance), sort_keys=True, ensure_ascii=False).encode()
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"exotrack": note})
    with replacing(path) as beside:
        # Compression and row groups are fixed, so that equal tables are equal bytes.
        pq.write_table(table, beside, compression="zstd", compression_level=3, row_group_size=1 << 20)


def write_table(path: Path, table: Table, provenance: Mapping[str, Any]) -> None:
    """Write a table as `write_parquet` does, with unit and meaning in the metadata of every column."""
    write_parquet(path, table.to_arrow(), provenance)


def read_table(path: Path, kind: type[AnyTable]) -> AnyTable:
    """Read a table written by `write_table`.

    Raises
    ------
    InputError
        If the file is missing, damaged, or lacks a column.
    """
    try:
        stored = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as a table ({_first_line(error)}); run again with --force") from None
    return kind.from_arrow(stored)


def read_tracks(folder: Path) -> Tracks:
    """The tracks of a finished video's folder, with what linking found out.

    Raises
    ------
    InputError
        As `read_table`, and if `video.json` is missing or damaged.
    """
    tracks, record = read_table(folder / "tracks.parquet", Tracks), read_record(folder)
    if record is None:
        raise InputError(f"{folder}: incomplete; run the study again to restore it")
    try:
        return replace(tracks, linking=LinkSummary.from_record(record["linking"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder / 'video.json'}: what linking found out cannot be read ({type(error).__name__}: {error}), as in "
            "results of an older version; run the study again with --force"
        ) from None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def check(out: Path, video_ids: Collection[str], *, force: bool) -> None:
    """Make sure that `out` is new, empty, or a result folder of these videos; nothing is touched.

    Raises
    ------
    InputError
        If `out` is something else, or holds results of other videos and `force` is not set.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: exists and is not a folder; choose another --out")
    if out.is_dir() and any(file.name != LOCK for file in out.iterdir()) and not is_results(out):
        raise InputError(f"{out}: exists and is not a result folder of exotrack; choose another --out")
    others = _others(out, video_ids)
    if others and not force:
        raise InputError(
            f"{out}: holds results of {len(others)} video(s) that are not in this sample sheet "
            f"({', '.join(others[:3])}); choose another --out, or drop them with --force"
        )


def begin(out: Path, video_ids: Collection[str], record: Mapping[str, Any]) -> None:
    """Start or continue a result folder that `check` has passed.

    The folder is marked as ours and unfinished first; then leftovers of a killed run and results of videos that are
    no longer wanted are removed.

    Raises
    ------
    InputError
        If the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "run.json", {**record, "finished_utc": None})
        (out / "videos").mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from None
    for left in (*out.glob(".tmp-*"), *(out / "videos").glob(".tmp-*")):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    for name in _others(out, video_ids):
        remove(out / "videos" / name)


def _others(out: Path, video_ids: Collection[str]) -> list[str]:
    """Folders of videos that are not among these."""
    return sorted(
        folder.name
        for folder in (out / "videos").glob("*")
        if folder.name not in video_ids and not folder.name.startswith(".")
    )


def is_results(folder: Path) -> bool:
    """Whether a folder was written by exotrack, finished or not."""
    try:
        return "exotrack" in json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def read_record(folder: Path) -> dict[str, Any] | None:
    """`video.json` of a finished video's folder, or None where the folder is missing or incomplete."""
    if not all((folder / f"{name}.parquet").is_file() for name in VIDEO_TABLES):
        return None
    try:
        record = json.loads((folder / "video.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


@dataclass(frozen=True)
class Results:
    """A finished result folder. Tables are read when they are first asked for."""

    path: Path
    """The folder."""
    run: Mapping[str, Any]
    """Content of `run.json`: versions, hashes of the inputs, seconds per stage, failures."""

    @cached_property
    def samples(self) -> pd.DataFrame:
        """One row per sample: sizes, fractions and concentration, each with the ends of its 95 % interval."""
        return pd.read_csv(self.path / "samples.csv", dtype={"batch": str, "sample": str})

    @cached_property
    def batches(self) -> pd.DataFrame:
        """One row per batch, as `samples`."""
        return pd.read_csv(self.path / "batches.csv", dtype={"batch": str})

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """One row per pair of batches."""
        return pd.read_csv(self.path / "comparisons.csv", dtype={"batch_a": str, "batch_b": str})

    @cached_property
    def distributions(self) -> pd.DataFrame:
        """Size distributions of videos, samples and batches, one below the other."""
        frame: pd.DataFrame = pq.read_table(self.path / "distributions.parquet").to_pandas()
        return frame

    @cached_property
    def videos(self) -> pd.DataFrame:
        """One row per finished video: what the sheet says of it, its counts and its quality flags."""
        return pd.DataFrame([_video_row(self.video(name)) for name in self.video_ids])

    @property
    def failures(self) -> Mapping[str, Mapping[str, str]]:
        """Video id → video and reason, for every video that could not be analysed."""
        failures: Mapping[str, Mapping[str, str]] = self.run.get("failures", {})
        return failures

    @property
    def report(self) -> Path:
        """The report in HTML."""
        return self.path / "report.html"

    @property
    def video_ids(self) -> list[str]:
        """The videos that were analysed, in the order of the sheet."""
        return [name for name in self.run.get("inputs", {}) if name not in self.failures]

    def video(self, video_id: str) -> Mapping[str, Any]:
        """Content of a video's `video.json`: metadata with origins, counts, flow, noise and quality flags."""
        record = read_record(self._folder(video_id))
        if record is None:
            raise InputError(f"{self._folder(video_id)}: incomplete; run the study again to restore it")
        return record

    def localizations(self, video_id: str) -> Localizations:
        """All spots of a video."""
        return read_table(self._folder(video_id) / "localizations.parquet", Localizations)

    def tracks(self, video_id: str) -> Tracks:
        """The spots of a video that belong to tracks, with what linking found out."""
        return read_tracks(self._folder(video_id))

    def particles(self, video_id: str | None = None) -> pd.DataFrame:
        """One row per track of a video, or of all videos with a first column `video_id`."""
        if video_id is not None:
            return read_table(self._folder(video_id) / "particles.parquet", Particles).to_pandas()
        frames = {name: self.particles(name) for name in self.video_ids}
        if not frames:
            return Particles.empty().to_pandas().assign(video_id=pd.Series(dtype=str))
        return pd.concat(frames, names=["video_id"]).reset_index("video_id").reset_index(drop=True)

    def _folder(self, video_id: str) -> Path:
        if video_id in self.failures:
            raise InputError(f"video {video_id!r} failed: {self.failures[video_id]['reason']}")
        if video_id not in self.video_ids:
            raise InputError(f"video {video_id!r} is not in {self.path}; known: {', '.join(self.video_ids) or 'none'}")
        return self.path / "videos" / video_id


def _video_row(record: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: record.get(name) for name in ("video_id", "video", "batch", "sample", "role")}
    carried = {name: cell for name, cell in record.get("sheet", {}).items() if name not in known}
    flags = "; ".join(flag["code"] for flag in record.get("quality", []))
    return {**known, **carried, **record.get("counts", {}), "quality": flags}


def open_results(path: str | Path) -> Results:
    """Open a result folder.

    Raises
    ------
    InputError
        If the folder was not written by exotrack, or its run was not finished.
    """
    path = Path(path)
    if not is_results(path):
        raise InputError(f"{path}: not a result folder of exotrack (it has no run.json); check the path")
    run = json.loads((path / "run.json").read_text(encoding="utf-8"))
    if not run.get("finished_utc"):
        raise InputError(f"{path}: its run was not finished; give the same `exotrack run` command again to resume it")
    return Results(path, run)
