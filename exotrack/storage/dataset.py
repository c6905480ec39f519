"""One kind of table of all videos of a study as a single lazy table that also says to which batch a row belongs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs

from exotrack.errors import InputError
from exotrack.place import is_remote
from exotrack.tables import Table

LABELS: Final = ("video_id", "batch", "sample", "role")
"""Columns that the study adds in front: known without opening a file, so that a filter on them opens no others."""


@dataclass(frozen=True)
class StudyTable:
    """Rows of all videos, read when they are asked for: first the columns `LABELS`, then those of the table."""

    kind: type[Table]
    """Table that each video has one of."""
    files: tuple[Path, ...]
    """Their Parquet files, in the order of the sheet."""
    labels: tuple[Mapping[str, str], ...]
    """`LABELS` of each file."""

    def filter(self, **wanted: str | Sequence[str]) -> StudyTable:
        """Only the videos with these labels, one value or several of each: ``filter(batch="B1")``.

        Raises
        ------
        InputError
            If a name is none of `LABELS`, or no video bears the value.
        """
        kept = list(range(len(self.files)))
        for name, values in wanted.items():
            if name not in LABELS:
                raise InputError(f"filter({name}=…): filter by one of {', '.join(LABELS)}; rows by .dataset")
            allowed = {values} if isinstance(values, str) else set(values)
            known = {label[name] for label in self.labels}
            if allowed - known:
                unknown = sorted(allowed - known)[0]
                raise InputError(f"{name} = {unknown!r} is not in this study; known: {', '.join(sorted(known)[:20])}")
            kept = [k for k in kept if self.labels[k][name] in allowed]
        return StudyTable(self.kind, tuple(self.files[k] for k in kept), tuple(self.labels[k] for k in kept))

    @cached_property
    def dataset(self) -> Any:
        """The same as a `pyarrow.dataset.Dataset`, which pyarrow, polars and DuckDB read in part and in parallel."""
        columns = self.kind.empty().to_arrow().schema
        schema = pa.schema([*(pa.field(name, pa.string()) for name in LABELS), *columns])
        if not self.files:
            return ds.dataset(schema.empty_table())
        parts = [_all(ds.field(name) == label[name] for name in LABELS) for label in self.labels]
        system, paths = _located(self.files)
        return ds.FileSystemDataset.from_paths(
            paths, schema=schema, format=ds.ParquetFileFormat(), filesystem=system, partitions=parts
        )

    def __len__(self) -> int:
        """Number of rows, from the footers of the files."""
        return int(self.dataset.count_rows())

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, or some of their columns, in the order of the sheet."""
        return self.dataset.to_table(columns=None if columns is None else list(columns))

    def to_pandas(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """As `to_arrow`, as a DataFrame."""
        frame: pd.DataFrame = self.to_arrow(columns).to_pandas()
        return frame


def _all(conditions: Any) -> Any:
    first, *others = conditions
    for condition in others:
        first = first & condition
    return first


def _located(files: Sequence[Path]) -> tuple[Any, list[str]]:
    """File system and paths as pyarrow wants them."""
    if not is_remote(files[0]):
        return pyarrow.fs.LocalFileSystem(), [str(file.absolute()) for file in files]
    stores: list[Any] = list(files)
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(stores[0].fs)), [store.path for store in stores]
