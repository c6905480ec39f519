"""What a file system says of a video without opening it: enough to tell that nothing was written since."""

from __future__ import annotations

import glob
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from exotrack.errors import InputError
from exotrack.place import is_remote, place

SETTLED_S: Final = 2.0
"""A file younger than this may be written once more within the resolution of its time stamp: it is not trusted yet."""


def footprint(path: str | Path, further: Iterable[Path] = ()) -> str | None:
    """Hash of name, size and time of the last change of every file of a video, its sidecar, and `further` files.

    Equal footprints mean that nothing was written since; the contents are not read. Of a video at a URL, names and
    sizes stand with the entity tags or times that the store lists.

    Parameters
    ----------
    path
        File, folder, pattern of a series, or URL, as `open_video` takes it.
    further
        Other files that decide the result: maps of a camera, a depth table.

    Returns
    -------
    str or None
        None where that says nothing: a file is missing or was changed just now, or the store does not list times.
    """
    digest = hashlib.sha256()
    try:
        for entry in _remote(str(path)) if is_remote(str(path)) else _local(Path(path), further):
            if entry is None:
                return None
            digest.update(f"{entry}\0".encode())
    except (OSError, InputError):
        return None
    return digest.hexdigest()


def files_of(path: Path) -> list[Path]:
    """All files that a path of this machine stands for, sidecars included, in order."""
    if path.is_dir():
        found = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    elif path.exists():
        found = [path]
    else:
        found = [Path(name) for name in glob.glob(str(path)) if os.path.isfile(name)]
    beside = (path.with_name(path.name + ".json"), path.with_suffix(".json"))
    return sorted({*found, *(file for file in beside if file.is_file())})


def _local(path: Path, further: Iterable[Path]) -> Iterator[str | None]:
    files = files_of(path)
    settled = time.time_ns() - int(SETTLED_S * 1e9)
    yield f"{len(files)}" if files else None
    for file in (*files, *further):
        status = file.stat()
        yield f"{file} {status.st_size} {status.st_mtime_ns}" if status.st_mtime_ns < settled else None


def _remote(url: str) -> Iterator[str | None]:
    if url.startswith(("http://", "https://")):
        yield None  # a web server lists nothing
        return
    store = place(url)
    listed = store.fs.find(store.path, detail=True)  # type: ignore[attr-defined]
    yield f"{len(listed)}" if listed else None
    for name, known in sorted(listed.items()):
        stamp = known.get("ETag") or known.get("mtime") or known.get("LastModified") or known.get("created")
        yield f"{name} {known.get('size')} {stamp}" if stamp else None
