"""What a file system says of a video without opening it: enough to tell that nothing was written since."""

from __future__ import annotations

import glob
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

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
        found = place(path)
        for entry in _remote(found) if is_remote(found) else _local(found, further):
            if entry is None:
                return None
            digest.update(f"{entry}\0".encode())
    except Exception:  # stores raise errors of their own; what is wrong shows when the header is read
        return None
    return digest.hexdigest()


def files_of(path: Path) -> list[Path]:
    """All files that a path of this machine stands for, sidecars included, in order."""
    if path.is_dir():
        found = files_below(path)
    elif path.exists():
        found = [path]
    else:
        found = [Path(name) for name in glob.glob(str(path)) if os.path.isfile(name)]
    beside = (path.with_name(path.name + ".json"), path.with_suffix(".json"))
    return sorted({*found, *(file for file in beside if file.is_file())})


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and below it, also where a folder is a link to another disk."""
    return [Path(place) / name for place, _, names in os.walk(folder, followlinks=True) for name in names]


def _local(path: Path, further: Iterable[Path]) -> Iterator[str | None]:
    files = files_of(path)
    settled = time.time_ns() - int(SETTLED_S * 1e9)
    yield f"{len(files)}" if files else None
    for file in (*files, *further):
        status = file.stat()
        said = f"{file} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        yield said if max(status.st_mtime_ns, status.st_ctime_ns) < settled else None


def _remote(store: Any) -> Iterator[str | None]:
    if str(store).startswith(("http://", "https://")):
        yield None  # a web server lists nothing
        return
    listed = store.fs.find(store.path, detail=True)
    yield f"{len(listed)}" if listed else None
    for name, known in sorted(listed.items()):
        stamp = known.get("ETag") or known.get("mtime") or known.get("LastModified") or known.get("created")
        yield f"{name} {known.get('size')} {stamp}" if stamp else None
