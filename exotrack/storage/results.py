"""A finished result folder, read back."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, overload

import pandas as pd

from exotrack.errors import InputError
from exotrack.place import place
from exotrack.storage.dataset import LABELS, StudyTable
from exotrack.storage.files import read_json
from exotrack.storage.folder import VIDEO_TABLES, is_results, read_record
from exotrack.storage.tables import read_parquet, read_table, read_tracks
from exotrack.tables import Localizations, Particles, Tracks

COUNTED: Final = ("frames", "localizations", "spots_per_frame", "tracks", "tracks_used", "particles")
"""Columns of videos.csv that hold numbers; all others are as the sheet has them."""


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
        return self._csv("samples", {"batch": str, "sample": str})

    @cached_property
    def batches(self) -> pd.DataFrame:
        """One row per batch, as `samples`."""
        return self._csv("batches", {"batch": str})

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """One row per pair of batches."""
        return self._csv("comparisons", {"batch_a": str, "batch_b": str})

    @cached_property
    def distributions(self) -> pd.DataFrame:
        """Size distributions of videos, samples and batches, one below the other."""
        frame: pd.DataFrame = read_parquet(self.path / "distributions.parquet").to_pandas()
        return frame

    @cached_property
    def videos(self) -> pd.DataFrame:
        """One row per finished video: what the sheet says of it, its counts and its quality flags."""
        text = self._text("videos")
        words = {name: str for name in pd.read_csv(io.StringIO(text), nrows=0) if name not in COUNTED}
        return pd.read_csv(io.StringIO(text), dtype=words, keep_default_na=False)

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

    @overload
    def particles(self, video_id: str) -> pd.DataFrame: ...
    @overload
    def particles(self, video_id: None = None, *, batch: str | None = None) -> StudyTable: ...
    def particles(self, video_id: str | None = None, *, batch: str | None = None) -> pd.DataFrame | StudyTable:
        """One row per track: those of a video, or those of all videos (of a batch) as a lazy table.

        Nothing is read before the lazy table is asked for its rows (`to_pandas`, `to_arrow`, `dataset`); files of other
        batches are not even opened.

        Examples
        --------
        >>> results = open_results("results")  # doctest: +SKIP
        >>> results.particles(batch="B07").to_pandas(["video_id", "diameter_nm"])  # doctest: +SKIP
        """
        if video_id is not None:
            return read_table(self._folder(video_id) / "particles.parquet", Particles).to_pandas()
        every = self.table("particles")
        return every if batch is None else every.filter(batch=batch)

    def table(self, name: str) -> StudyTable:
        """ "localizations", "tracks" or "particles" of all videos as one lazy table.

        Raises
        ------
        InputError
            For another name.
        """
        if name not in VIDEO_TABLES:
            raise InputError(f"table {name!r} is unknown; choose one of {', '.join(VIDEO_TABLES)}")
        rows = self.videos[list(LABELS)].itertuples(index=False)
        labels = tuple(dict(zip(LABELS, map(str, row), strict=True)) for row in rows)
        files = tuple(self.path / "videos" / label["video_id"] / f"{name}.parquet" for label in labels)
        return StudyTable(VIDEO_TABLES[name], files, labels)

    def _folder(self, video_id: str) -> Path:
        if video_id in self.failures:
            raise InputError(f"video {video_id!r} failed: {self.failures[video_id]['reason']}")
        if video_id not in self.video_ids:
            known = self.video_ids[:20]
            raise InputError(f"video {video_id!r} is not in {self.path}; known: {', '.join(known) or 'none'}")
        return self.path / "videos" / video_id

    def _csv(self, name: str, dtype: Mapping[str, type]) -> pd.DataFrame:
        return pd.read_csv(io.StringIO(self._text(name)), dtype=dict(dtype))

    def _text(self, name: str) -> str:
        return (self.path / f"{name}.csv").read_text(encoding="utf-8")


def open_results(path: str | Path) -> Results:
    """Open a result folder, by its path or its URL.

    Raises
    ------
    InputError
        If the folder was not written by exotrack, or its run was not finished.
    """
    folder = place(path)
    if not is_results(folder):
        raise InputError(f"{path}: not a result folder of exotrack (it has no run.json); check the path")
    run = read_json(folder / "run.json") or {}
    if not run.get("finished_utc"):
        raise InputError(f"{path}: its run was not finished; give the same `exotrack run` command again to resume it")
    return Results(folder, run)
