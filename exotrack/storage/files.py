"""Files and folders that appear whole or not at all, on this machine or in an object store.

Here a file is written beside its place, flushed to disk and renamed, and a folder is built under a temporary name. In a
store, which cannot rename, a file is made here and put in one request. Either way a folder counts only with its
completion record, which names every other file in it with size and hash: it is written last and removed first.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np

from exotrack.place import children, is_remote

COMPLETE: Final = "complete.json"
"""Completion record of a folder."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path, which takes the place of `path` when the block ends without an exception."""
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="exotrack-") as folder:
            beside = Path(folder) / path.name
            yield beside
            _put(beside, path)
        return
    beside = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield beside
        _flush(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path, record: Mapping[str, Any]) -> Iterator[Path]:
    """An empty temporary folder, which takes the place of `path` when the block ends without an exception.

    Files in it are to be written with `replacing`, which sees to it that they are on the disk before the folder is.
    `record` becomes its completion record, with name, size and hash of every file.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="exotrack-") as name:
            folder = Path(name)
            yield folder
            remove(path)
            for file in sorted(folder.iterdir()):
                _put(file, path / file.name)
            complete(folder, record)
            _put(folder / COMPLETE, path / COMPLETE)
        return
    beside = path.with_name(f".tmp-{uuid4().hex}-{path.name}")  # a worker that was given up may still be at it
    beside.mkdir(parents=True)
    try:
        yield beside
        complete(beside, record)
        remove(path)  # a folder cannot be replaced in one step: between the two the video counts as not done
        try:
            os.replace(beside, path)
        except OSError:
            if (completion(path) or {}).get("key") != record.get("key"):  # else somebody was faster, with the same
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _put(file: Path, target: Path) -> None:
    """Copy a file of this machine into a store."""
    store: Any = target
    store.fs.put_file(str(file), store.path)


def _flush(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def remove(folder: Path) -> None:
    """Delete a folder, where it exists; it counts as incomplete from the first step on."""
    if is_remote(folder):
        (folder / COMPLETE).unlink(missing_ok=True)
        for file in list(children(folder)):
            file.unlink(missing_ok=True)
        return
    outgoing = folder.with_name(f".tmp-{uuid4().hex}-old-{folder.name}")
    with suppress(FileNotFoundError):
        os.replace(folder, outgoing)
        shutil.rmtree(outgoing, ignore_errors=True)


def complete(folder: Path, record: Mapping[str, Any], names: tuple[str, ...] | None = None) -> None:
    """Write the completion record of a folder: `record`, and size and hash of its files, or of those named."""
    wanted = names or tuple(sorted(file.name for file in children(folder) if file.name != COMPLETE))
    contents = {name: (folder / name).read_bytes() for name in wanted}
    files = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in contents.items()}
    write_json(folder / COMPLETE, {**record, "files": files})


def completion(folder: Path) -> dict[str, Any] | None:
    """The completion record of a folder; None unless all the files that it names are there in their size."""
    record = read_json(folder / COMPLETE)
    if record is None or not isinstance(record.get("files"), dict):
        return None
    for name, known in record["files"].items():
        try:
            if (folder / name).stat().st_size != known["bytes"]:
                return None
        except (OSError, KeyError, TypeError):
            return None
    return record


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where the file is missing, damaged, or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as beside:
        beside.write_bytes(content)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all; NumPy values become plain ones, and numbers that are not finite null."""
    write_bytes(path, (json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def plain(value: Any) -> Any:
    """A value as JSON holds it."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path) or is_remote(value):
        return str(value)
    return value
