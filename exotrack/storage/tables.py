"""Tables of a result folder as Parquet and CSV: equal tables are equal bytes, and everything reads back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from exotrack.errors import InputError
from exotrack.storage.files import plain, replacing, write_bytes
from exotrack.storage.folder import read_record
from exotrack.tables import LinkSummary, Table, Tracks

AnyTable = TypeVar("AnyTable", bound=Table)


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a CSV file whole or not at all: UTF-8, numbers with eight digits, missing values empty."""
    write_bytes(path, frame.to_csv(index=False, float_format="%.8g", lineterminator="\n").encode())


def write_parquet(path: Path, table: pa.Table, provenance: Mapping[str, Any]) -> None:
    """Write Parquet whole or not at all; `provenance` goes into the file's metadata as JSON under "exotrack"."""
    note = json.dumps(plain(provenance), sort_keys=True, ensure_ascii=False).encode()
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"exotrack": note})
    with replacing(path) as beside:
        # Compression and row groups are fixed, so that equal tables are equal bytes.
        pq.write_table(table, beside, compression="zstd", compression_level=3, row_group_size=1 << 20)


def write_table(path: Path, table: Table, provenance: Mapping[str, Any]) -> None:
    """Write a table as `write_parquet` does, with unit and meaning in the metadata of every column."""
    write_parquet(path, table.to_arrow(), provenance)


def read_parquet(path: Path) -> pa.Table:
    """Read a Parquet file.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    try:
        with path.open("rb") as stream:
            return pq.read_table(stream)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as a table ({_first_line(error)}); run again with --force") from None


def read_table(path: Path, kind: type[AnyTable]) -> AnyTable:
    """Read a table written by `write_table`.

    Raises
    ------
    InputError
        If the file is missing, damaged, or lacks a column.
    """
    return kind.from_arrow(read_parquet(path))


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
