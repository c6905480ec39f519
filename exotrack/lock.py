"""One run at a time in a result folder: a lock file that names its run, and is taken over when that run is dead."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from exotrack.errors import InputError
from exotrack.place import is_remote

LOCK: Final = ".lock"
"""File in a result folder while a run writes into it."""


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep other runs out of a result folder, which is made where it is missing, until the block ends.

    The lock of a run of this machine that is no longer there is taken over.

    Raises
    ------
    InputError
        If another run holds the folder, or the folder cannot be written.
    """
    lock = out / LOCK
    mine = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "born": _born(os.getpid()),
    }
    try:
        _take(lock, mine)
    except FileExistsError:
        other = _holder(lock)
        pid, host, since = (other.get(name, "unknown") for name in ("pid", "host", "since"))
        raise InputError(
            f"{out}: another run (pid {pid} on {host}, since {since}) is writing into this folder; "
            f"wait for it, or remove {LOCK} if it is gone"
        ) from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{out}: cannot be written ({reason}); choose another --out") from None
    try:
        yield
    finally:
        if _holder(lock) in (mine, {}):  # not one that was made after somebody removed ours
            lock.unlink(missing_ok=True)


def _take(lock: Path, mine: Mapping[str, Any]) -> None:
    """Make the lock file; FileExistsError where it is there and its run may be, too."""
    content = json.dumps(mine)
    if is_remote(lock):
        if _holder(lock) and not _dead(_holder(lock)):
            raise FileExistsError
        lock.write_bytes(content.encode())  # not every store can make a file only where there is none
        if _holder(lock) != mine:
            raise FileExistsError
        return
    lock.parent.mkdir(parents=True, exist_ok=True)
    _drop_dead(lock)
    descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
    except OSError:  # a full disk
        lock.unlink(missing_ok=True)
        raise


def _holder(lock: Path) -> dict[str, Any]:
    """What a lock says of its run; empty where it is missing or was just made."""
    try:
        holder = json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _drop_dead(lock: Path) -> None:
    """Remove the lock of a run of this machine that is no longer there."""
    holder = _holder(lock)
    if not _dead(holder):
        return
    aside = lock.with_name(f".tmp-{os.getpid()}-{threading.get_ident()}{LOCK}")
    with suppress(FileNotFoundError):  # another run was faster, and may have taken the lock already
        os.replace(lock, aside)
        if _holder(aside) != holder:
            os.replace(aside, lock)
    aside.unlink(missing_ok=True)


def _dead(holder: Mapping[str, Any]) -> bool:
    """Whether a lock is that of a run of this machine that is no longer there."""
    return holder.get("host") == socket.gethostname() and not _lives(holder)


def _lives(holder: Mapping[str, Any]) -> bool:
    """Whether the process that made a lock of this machine is there; True where that cannot be told."""
    pid = holder.get("pid")
    if os.name != "posix" or not isinstance(pid, int) or pid < 1:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return holder.get("born") == _born(pid)


def _born(pid: int) -> str | None:
    """When a process started, in ticks since boot: a later one may bear the same number. None where unknown.

    "never" for one that has ended and is only still listed, as when nobody asks for its exit code.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return "never" if fields[0] in "ZX" else fields[19]
