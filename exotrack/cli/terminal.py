"""What the commands share of the terminal: messages, tables, progress, logging."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

LOG_EVERY_S = 10.0
"""Least time between two lines of progress where there is no terminal."""

logger = logging.getLogger("exotrack")


class _Stderr(logging.Handler):
    """Writes to what stderr is at the time: a progress bar puts itself in its place and keeps the lines apart."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(self.format(record), err=True)


def start_logging(log_file: Path | None) -> None:
    """Send the log to stderr (warnings on a terminal, more elsewhere) and, in full, to a file."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.DEBUG)
    stream = _Stderr()
    stream.setLevel(logging.WARNING if sys.stderr.isatty() else logging.INFO)
    stream.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(stream)
    if log_file is not None:
        try:
            file = logging.FileHandler(log_file, encoding="utf-8")
        except OSError as error:
            raise typer.BadParameter(f"{log_file}: {error.strerror}", param_hint="--log-file") from None
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(file)


def complain(message: str) -> None:
    """Print an error on stderr."""
    typer.secho("error: ", fg=typer.colors.RED, bold=True, nl=False, err=True)
    typer.echo(message, err=True)


def say(message: str) -> None:
    """Print a line on stdout."""
    typer.echo(message)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout: the first column to the left, the others to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold", pad_edge=False)
    for i, name in enumerate(header):
        grid.add_column(name, justify="right" if i else "left", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    # A pipe has no width; the table is then as wide as its content.
    Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False, emoji=False).print(grid)


def interval(value: float, lo: float, hi: float, digits: int = 3) -> str:
    """A value with its interval, rounded to `digits` significant ones; "–" where there is none.

    Examples
    --------
    >>> interval(101.34, 98.9, 104.2), interval(967.4, 927.8, 1029.3), interval(2.5e8, 1.9e8, 3.2e8)
    ('101 (98.9 to 104)', '967 (928 to 1029)', '2.5e+08 (1.9e+08 to 3.2e+08)')
    >>> interval(float("nan"), 0.0, 0.0)
    '–'
    """
    if not math.isfinite(value):
        return "–"
    if not (math.isfinite(lo) and math.isfinite(hi)):
        return _significant(value, digits)
    return f"{_significant(value, digits)} ({_significant(lo, digits)} to {_significant(hi, digits)})"


def _significant(value: float, digits: int) -> str:
    """As the format "g", but whole numbers below 10⁵ in full: 1029, not 1.03e+03."""
    return f"{value:.0f}" if 10.0**digits <= abs(value) < 1e5 else f"{value:.{digits}g}"


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A callback that shows progress: a bar on a terminal, a line now and then in the log elsewhere."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show


def _lines() -> Callable[[str, int, int], None]:
    last: dict[str, float] = {}

    def show(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - last.get(what, -math.inf) >= LOG_EVERY_S:
            last[what] = now
            logger.info("%s %d of %d", what, done, total)

    return show
