"""Depth of the observed volume as it depends on the particle: bright ones are seen further from the focal plane."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np

from exotrack.errors import InputError
from exotrack.tables import F64

COLUMNS: Final = ("diameter_nm", "mass_dn", "depth_um", "relative_error")
"""Columns of the file; `mass_dn` may be missing or empty throughout."""


@dataclass(frozen=True)
class DepthPoint:
    """Depth at which one kind of particle is seen."""

    diameter_nm: float
    depth_um: float
    relative_error: float
    """Relative standard uncertainty of the depth."""
    mass_dn: float | None = None
    """Mean integrated signal of those particles, DN; None where it is not known."""


@dataclass(frozen=True)
class DepthTable:
    """Effective depths measured with particles of known size and concentration, for one setting of one instrument.

    Raises
    ------
    InputError
        Without points, with numbers that are not positive, or with masses for some of the points only.

    Examples
    --------
    >>> table = DepthTable((DepthPoint(60.0, 8.0, 0.05), DepthPoint(240.0, 16.0, 0.05)))
    >>> table.depth_um(np.array([30.0, 120.0, 500.0])).round(1).tolist()
    [8.0, 12.0, 16.0]
    """

    points: tuple[DepthPoint, ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise InputError("depth_table has no rows; give one per bead size")
        for point in self.points:
            numbers = [point.diameter_nm, point.depth_um, *([] if point.mass_dn is None else [point.mass_dn])]
            if not all(math.isfinite(v) and v > 0 for v in numbers) or not 0 <= point.relative_error < 1:
                raise InputError(f"depth_table: {point} has a number out of range: all are positive, errors below 1")
        if len({p.mass_dn is None for p in self.points}) > 1:
            raise InputError("depth_table: mass_dn is given for some rows only; give it for all, or leave it out")

    @property
    def by_brightness(self) -> bool:
        """Whether depths are looked up by integrated signal; else by diameter."""
        return self.points[0].mass_dn is not None

    @property
    def relative_error(self) -> float:
        """Relative standard uncertainty of a depth: root mean square of those of the points."""
        return float(np.sqrt(np.mean([p.relative_error**2 for p in self.points])))

    def depth_um(self, diameter_nm: F64, mass_dn: F64 | None = None) -> F64:
        """Depth in µm, linear in the logarithm of the signal (where the table has it) or of the diameter.

        Beyond its ends the table goes on with its last value. Where the signal is not finite or not positive, the
        diameter is looked up.
        """
        depth = np.array([p.depth_um for p in self.points])

        def looked_up(known: F64, at: F64) -> F64:
            order = np.argsort(known)
            found: F64 = np.interp(np.log(at), np.log(known[order]), depth[order])
            return found

        by_size = looked_up(np.array([p.diameter_nm for p in self.points]), np.asarray(diameter_nm, np.float64))
        if not self.by_brightness or mass_dn is None:
            return by_size
        known = np.isfinite(mass_dn) & (mass_dn > 0)
        by_mass = looked_up(np.array([p.mass_dn for p in self.points], np.float64), np.where(known, mass_dn, 1.0))
        return np.where(known, by_mass, by_size)

    def to_csv(self) -> str:
        """The table as text; `from_csv` gives back an equal one."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for p in self.points:
            writer.writerow([p.diameter_nm, "" if p.mass_dn is None else p.mass_dn, p.depth_um, p.relative_error])
        return text.getvalue()

    @classmethod
    def from_csv(cls, path: str | Path) -> Self:
        """Read a table as `exotrack calibrate` writes it, or one's own: diameter_nm, depth_um, relative_error.

        Cells are separated by commas; by semicolons or tabs a decimal comma is understood.

        Raises
        ------
        InputError
            If the file cannot be read, lacks a column, or holds something else than positive numbers.
        """
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: the depth table cannot be read ({error}); check the path") from None
        first = text.split("\n", 1)[0]
        delimiter = max(",;\t", key=first.count)
        rows = list(csv.DictReader(io.StringIO(text), delimiter=delimiter))
        missing = [name for name in COLUMNS if name != "mass_dn" and (not rows or name not in rows[0])]
        if missing:
            raise InputError(
                f"{path}: column(s) {', '.join(missing)} missing, or no rows; a depth table has the columns "
                f"{', '.join(COLUMNS)} (mass_dn may be left out), one row per bead size"
            )
        try:
            return cls(tuple(_point(row, line, delimiter != ",") for line, row in enumerate(rows, start=2)))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def _point(row: dict[str, str], line: int, decimal_comma: bool) -> DepthPoint:
    numbers = {}
    for name in COLUMNS:
        text = (row.get(name) or "").strip()
        if not text and name == "mass_dn":
            continue
        try:
            numbers[name] = float(text.replace(",", ".") if decimal_comma else text)
        except ValueError:
            raise InputError(f"line {line}, {name} = {text!r}: not a number; write one with a decimal point") from None
    return DepthPoint(**numbers)
