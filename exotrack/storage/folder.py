"""The result folder of a study: whose it is, what it holds, and what of it counts."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from exotrack.errors import InputError
from exotrack.lock import LOCK
from exotrack.place import children, is_remote
from exotrack.storage.files import COMPLETE, complete, completion, read_json, remove, write_json
from exotrack.tables import Localizations, Particles, Table, Tracks

VIDEO_TABLES: Final[dict[str, type[Table]]] = {"localizations": Localizations, "tracks": Tracks, "particles": Particles}
"""File name → table of each video's folder."""


def check(out: Path, video_ids: Collection[str], *, force: bool) -> None:
    """Make sure that `out` is new, empty, or a result folder of these videos; nothing is touched.

    Raises
    ------
    InputError
        If `out` is something else, or holds results of other videos and `force` is not set.
    """
    if not is_remote(out) and out.exists() and not out.is_dir():
        raise InputError(f"{out}: exists and is not a folder; choose another --out")
    try:
        foreign = any(file.name != LOCK for file in children(out)) and not is_results(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be read ({error.strerror or error}); choose another --out") from None
    if foreign:
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
        if not is_remote(out):
            (out / "videos").mkdir(parents=True, exist_ok=True)
        (out / COMPLETE).unlink(missing_ok=True)
        write_json(out / "run.json", {**record, "finished_utc": None})
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from None
    remove_leftovers(out)
    for name in _others(out, video_ids):
        remove(out / "videos" / name)


def remove_leftovers(out: Path) -> None:
    """Delete what processes that died had not finished; in a store there is none, since objects appear whole."""
    if not is_remote(out):
        for left in (*out.glob(".tmp-*"), *(out / "videos").glob(".tmp-*")):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _others(out: Path, video_ids: Collection[str]) -> list[str]:
    """Folders of videos that are not among these."""
    found = (folder.name for folder in children(out / "videos"))
    return sorted(name for name in found if name not in video_ids and not name.startswith("."))


def is_results(folder: Path) -> bool:
    """Whether a folder was written by exotrack, finished or not."""
    return "exotrack" in (read_json(folder / "run.json") or {})


def read_record(folder: Path) -> dict[str, Any] | None:
    """`video.json` of a finished video's folder, or None where the folder is missing or incomplete."""
    return None if completion(folder) is None else read_json(folder / "video.json")


def update_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Replace `video.json` of a finished video's folder; the folder counts as incomplete in between."""
    done = completion(folder) or {}
    (folder / COMPLETE).unlink(missing_ok=True)
    write_json(folder / "video.json", record)
    complete(folder, {name: value for name, value in done.items() if name != "files"})
