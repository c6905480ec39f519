"""Where files lie: a path of this machine, or a URL of any store that fsspec speaks to, with the same operations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from exotrack.errors import InputError


def place(where: str | Path) -> Path:
    """A path, or for a URL (``s3://bucket/study``, ``memory://study``) an object with the operations of one.

    Credentials and endpoints are those of the environment (for s3 ``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL`` …) or of
    fsspec's configuration; none are part of a result.

    Raises
    ------
    InputError
        If the URL's protocol is unknown here.

    Examples
    --------
    >>> place("results/run.json").name, place("file:///data/a.avi"), str(place("memory://study") / "run.json")
    ('run.json', PosixPath('/data/a.avi'), 'memory://study/run.json')
    """
    text = str(where)
    if "://" not in text:
        return cast("Path", where) if is_remote(where) else Path(where)
    if text.startswith("file://"):
        return Path(url2pathname(urlsplit(text).path))
    from upath import UPath

    try:
        # A listing that is kept would not show what workers on other machines have written meanwhile.
        found = UPath(text, use_listings_cache=False)
        _ = found.fs
    except (ValueError, ImportError) as error:
        raise InputError(f"{text}: {error}; for s3:// and http:// install exotrack[remote]") from None
    return cast("Path", found)


def is_remote(where: object) -> bool:
    """Whether this is a URL, or what `place` makes of one."""
    return "://" in where if isinstance(where, str) else hasattr(where, "fs")


def children(folder: Path) -> Iterator[Path]:
    """What lies in a folder; nothing where there is no such folder."""
    try:
        yield from folder.iterdir()
    except (FileNotFoundError, NotADirectoryError):
        return
