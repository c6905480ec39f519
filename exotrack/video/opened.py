"""What a decoder is given to open: the path of a file of this machine, or a file at a URL, read block by block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from exotrack.place import is_remote

_BLOCK_BYTES: Final = 4 * 2**20
_BLOCKS_KEPT: Final = 16
"""Decoders go back and forth between an index and the frames."""


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The path as text, or at a URL an open binary file that can seek and keeps the blocks it has fetched lately."""
    if not is_remote(path):
        yield str(path)
        return
    store: Any = path
    options = {"cache_type": "blockcache", "cache_options": {"maxblocks": _BLOCKS_KEPT}}
    with store.fs.open(store.path, "rb", block_size=_BLOCK_BYTES, **options) as stream:
        yield stream
