"""What a run was doing when its process died: kept in a file by the run, and read by the one that goes on.

A decoder that crashes on a damaged video takes its process with it. Whoever watches the process writes down that it
crashed and starts it again; what was under way then is tried once more, alone, and left out if it crashes again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

VARIABLE: Final = "EXOTRACK_JOURNAL"
"""Environment variable that names the file; without it nothing is kept."""
CRASHES_MOST: Final = 1
"""Crashes after which a thing is still tried again."""


class Journal:
    """Things under way, one line per begin and end; lines are short and appended, so that none is ever torn."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else []
        self._crashes, self.under_way = _read(lines)
        self.done = {line.removeprefix("end ") for line in lines if line.startswith("end ")}

    @classmethod
    def of_this_process(cls) -> Journal:
        """The journal that the environment names."""
        path = os.environ.get(VARIABLE)
        return cls(Path(path) if path else None)

    def crashes(self, thing: str) -> int:
        """How often the process died while this was under way."""
        return self._crashes[thing]

    @contextmanager
    def doing(self, thing: str) -> Iterator[None]:
        """Note that the block is under way."""
        self._note(f"begin {thing}")
        try:
            yield
        finally:
            self._note(f"end {thing}")

    def crashed(self) -> None:
        """Note that the process died: whatever had begun and not ended is under suspicion."""
        self._note("crash")

    def _note(self, line: str) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(f"{line}\n")


def _read(lines: list[str]) -> tuple[Counter[str], set[str]]:
    """Crashes per thing that was under way, and what is under way since the last one."""
    under_way: set[str] = set()
    found: Counter[str] = Counter()
    for line in lines:
        event, _, thing = line.partition(" ")
        if event == "begin":
            under_way.add(thing)
        elif event == "end":
            under_way.discard(thing)
        else:
            found.update(under_way)
            under_way.clear()
    return found, under_way
