"""Run a command in a process of its own, and start it again when a decoder has crashed that process.

The command keeps a journal of what is under way (`exotrack.journal`); started again, it keeps the finished
videos, tries those that were under way once more, alone, and reports the one that crashes it twice.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import Final

from exotrack.cli import terminal
from exotrack.journal import VARIABLE, Journal

CRASHES: Final = tuple(
    int(getattr(signal, name)) for name in ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT") if hasattr(signal, name)
)
"""Signals that end a process which has damaged itself. SIGKILL is not among them: somebody wanted that."""


def is_child() -> bool:
    """Whether this process is the one that is watched; it then ends when the one that watches does."""
    if VARIABLE not in os.environ:
        return False
    threading.Thread(target=_end_with_parent, name="exotrack-lifeline", daemon=True).start()
    return True


def _end_with_parent() -> None:
    with contextlib.suppress(OSError):
        os.read(0, 1)  # returns when the other end of the pipe is gone; unbuffered, it holds no lock when Python ends
    os._exit(128 + signal.SIGTERM)


def run(arguments: list[str]) -> int:
    """Run `exotrack` with these arguments, again after each crash, and return its exit code."""
    with tempfile.TemporaryDirectory(prefix="exotrack-") as folder:
        path = Path(folder) / "journal"
        while True:
            code = _once(arguments, path)
            if not _is_crash(code):
                return _exit_code(code)
            if not Journal(path).under_way:
                terminal.complain("the program crashed while no video was under way; please report this")
                return 1
            terminal.complain(
                f"the program crashed ({_signal(code)}) while these were under way: "
                f"{', '.join(sorted(Journal(path).under_way))}; they are tried once more, alone"
            )
            Journal(path).crashed()


def _once(arguments: list[str], journal: Path) -> int:
    """One process: its exit code, negative for a signal."""
    child: subprocess.Popen[bytes] = subprocess.Popen(
        [sys.executable, "-m", "exotrack", *arguments],
        stdin=subprocess.PIPE,
        env={**os.environ, VARIABLE: str(journal)},
        process_group=0 if os.name == "posix" else None,  # Ctrl-C reaches this process alone, which hands it on
    )

    def hand_on(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if child.stdin is not None:
            child.stdin.close()


def _is_crash(code: int) -> bool:
    return -code in CRASHES if os.name == "posix" else code >= 0xC0000000 and code != 0xC000013A


def _exit_code(code: int) -> int:
    """The child's exit code; where it was killed, 1 and a word on why that may be."""
    if code == -signal.SIGKILL if os.name == "posix" else False:
        terminal.complain(
            "the program was killed, as the system does when memory runs out; finished videos are kept: run the same "
            "command again, with fewer --workers if it was the memory"
        )
    return code if code >= 0 else 1


def _signal(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else hex(code)
