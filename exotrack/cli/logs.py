"""The log: on stderr for whoever waits, and in full, as JSON lines, in a file."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

PROGRESS: Final = "exotrack.progress"
"""Logger of progress: a terminal shows it as a bar, not as lines."""
LogFile = Annotated[
    Path | None,
    typer.Option("--log-file", help="Append the whole log to this file, one JSON object per line.", metavar="FILE"),
]
"""Option of `exotrack` itself and of its long commands."""

_OF_EVERY_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonLines(logging.Formatter):
    """One JSON object per record: time (UTC), level, logger, message; traceback and extra fields where it has them.

    Examples
    --------
    >>> record = logging.makeLogRecord({"name": "exotrack", "levelname": "INFO", "msg": "%d videos", "args": (3,)})
    >>> record.created, record.total = 0.25, 3
    >>> JsonLines().format(record)
    '{"time": "1970-01-01T00:00:00.250Z", "level": "INFO", "logger": "exotrack", "message": "3 videos", "total": 3}'
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        entry = {"time": time, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        entry |= {name: value for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}
        return json.dumps(entry, ensure_ascii=False, default=str)


class _Stderr(logging.Handler):
    """Writes to what stderr is at the time: a progress bar puts itself in its place and keeps the lines apart."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(self.format(record), err=True)


def _suits_a_terminal(record: logging.LogRecord) -> bool:
    """Warnings, and what the pipeline says once per run, such as the address of the dashboard."""
    return record.levelno >= logging.WARNING or record.name.startswith("exotrack.pipeline")


def start(log_file: Path | None) -> None:
    """Send the log to stderr and, where wanted, to a file; what was set up before ends.

    Raises
    ------
    typer.BadParameter
        If the file cannot be written.
    """
    logger = logging.getLogger("exotrack")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.DEBUG)
    stream = _Stderr(logging.INFO)
    stream.setFormatter(logging.Formatter("%(message)s"))
    if sys.stderr.isatty():
        stream.addFilter(_suits_a_terminal)
    logger.addHandler(stream)
    if log_file is not None:
        try:
            file = logging.FileHandler(log_file, encoding="utf-8")  # appends, and flushes every line
        except OSError as error:
            raise typer.BadParameter(f"{log_file}: {error.strerror}", param_hint="--log-file") from None
        file.setFormatter(JsonLines())
        logger.addHandler(file)
