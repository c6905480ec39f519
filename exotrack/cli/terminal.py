"""What the commands share of the terminal: messages, tables, progress."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import typer

from exotrack.cli.logs import PROGRESS

LOG_EVERY_S: Final = 10.0
"""Least time between two lines of progress in the log."""
RATE_OVER_S: Final = 30.0
"""Time over which a rate is taken."""
SETTLED_S: Final = 1.0
"""Time below which there is no rate yet."""

logger = logging.getLogger(PROGRESS)


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


def duration(seconds: float) -> str:
    """A time in words.

    Examples
    --------
    >>> duration(15.4), duration(200.0), duration(12000.0)
    ('15 s', '3 min', '3 h 20 min')
    """
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60.0)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


class Rate:
    """How fast something goes, over the last half minute.

    The first report counts as the start: what is done by then, such as frames kept from an earlier run, took no time.

    Examples
    --------
    >>> rate = Rate()
    >>> for second in range(0, 100, 10):
    ...     rate.report(float(second), 5000 + 20 * second)
    >>> rate.per_s, rate.left_s(7000)
    (20.0, 10.0)
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def report(self, now: float, done: int) -> None:
        """So much is done at a time, s."""
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - RATE_OVER_S:
            self._seen.popleft()

    @property
    def per_s(self) -> float | None:
        """Rate, 1/s; None as long as it cannot be told."""
        if not self._seen or self._seen[-1][0] - self._seen[0][0] < SETTLED_S:
            return None
        (before, at_first), (now, done) = self._seen[0], self._seen[-1]
        return (done - at_first) / (now - before)

    def left_s(self, total: int) -> float | None:
        """Time left, s; None as long as it cannot be told."""
        return (total - self._seen[-1][1]) / self.per_s if self.per_s else None


class Meter:
    """What is known of the progress of a command, in words and numbers; made for reports from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._rates: dict[str, Rate] = {}
        self._logged: dict[str, float] = {}
        self._megabytes: int | None = None

    def report(self, what: str, done: int, total: int) -> str:
        """Take a report, log it now and then, and return what there is to say beside the numbers themselves."""
        with self._lock:
            if what == "MB":  # no work of its own: the size of the frames
                self._megabytes = total
                return ""
            now = self._clock()
            rate = self._rates.setdefault(what, Rate())
            rate.report(now, done)
            rest, numbers = self._rest(what, rate, done, total)
            due = done >= total or now - self._logged.get(what, -math.inf) >= LOG_EVERY_S
            if due:
                self._logged[what] = now
                text = ", ".join([f"{what} {done} of {total}", *rest])
                logger.info("%s", text, extra={"what": what, "done": done, "total": total, **numbers})
        return ", ".join(rest)

    def _rest(self, what: str, rate: Rate, done: int, total: int) -> tuple[list[str], dict[str, float]]:
        """Rates and time left, in words and as fields of the log."""
        words: list[str] = []
        numbers: dict[str, float] = {}
        if what != "frames":
            return words, numbers
        if per_s := rate.per_s:
            words.append(f"{_significant(per_s, 3)}/s")
            numbers["per_s"] = round(per_s, 3)
            if self._megabytes and total:
                mb_per_s = per_s * self._megabytes / total
                words.append(f"{_significant(mb_per_s, 3)} MB/s")
                numbers["mb_per_s"] = round(mb_per_s, 3)
        left = rate.left_s(total)
        if left is not None and done < total:
            words.append(f"{duration(left)} left")
            numbers["left_s"] = round(left, 1)
        return words, numbers


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A callback that shows progress: a bar on a terminal, elsewhere a line now and then; the log has the lines."""
    meter = Meter()
    if not sys.stderr.isatty():

        def note(what: str, done: int, total: int) -> None:
            meter.report(what, done, total)

        yield note
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rest]}{task.fields[videos]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            rest = meter.report(what, done, total)
            if what == "videos" and "frames" in tasks:
                bars.update(tasks["frames"], videos=f" · {done} of {total} videos")
            elif what != "MB":
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=total, rest="", videos="")
                bars.update(tasks[what], completed=done, total=total, rest=rest)

        yield show
