"""Results of instruments' own programs, to be set beside ours: NanoSight experiment summaries.

The size bins of a summary hold all that its table of results states of sizes and concentration; both are read, and the
numbers can be computed again from the bins.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from exotrack.errors import InputError
from exotrack.tables import F64

_HEADS: Final = ("NTA Experiment Summary File", "NTA Single Analysis Summary File")
_BINS: Final = "Bin centre (nm)"
_CONCENTRATION: Final = "Concentration (Particles / ml)"
_SUM_WITHIN: Final = 0.02  # of the stated concentration; real summaries, rounded to three digits, are within 0.3 %


@dataclass(frozen=True, eq=False)
class NanoSightVideo:
    """One video of a NanoSight experiment summary; what the file does not state is NaN."""

    name: str
    diameter_nm: F64
    """Centres of the bins, 1 nm wide, shape (n_bins,)."""
    per_ml: F64
    """Particles per mL in each bin, by number, before dilution."""
    stated: Mapping[str, float]
    """What the instrument reports: mean_nm, mode_nm, sd_nm, d10_nm, d50_nm, d90_nm, concentration_per_ml."""
    temperature_c: float
    viscosity_mpa_s: float
    frame_interval_s: float
    exposure_s: float
    dilution: float

    @property
    def concentration_per_ml(self) -> float:
        """Sum of the bins."""
        return float(self.per_ml.sum())

    @property
    def share(self) -> F64:
        """Share of each bin; NaN where nothing was found."""
        total = self.per_ml.sum()
        share: F64 = self.per_ml / total if total > 0 else np.full(len(self.per_ml), np.nan)
        return share

    @property
    def mean_nm(self) -> float:
        """Mean diameter of the bins."""
        return float(self.share @ self.diameter_nm)

    @property
    def sd_nm(self) -> float:
        """Standard deviation of the bins; it contains the error of single tracks, as far as the program left it in."""
        return float(np.sqrt(self.share @ (self.diameter_nm - self.mean_nm) ** 2))

    def quantile_nm(self, probability: float) -> float:
        """Diameter that a share of the particles does not exceed, linear within a bin."""
        cumulative = np.concatenate([[0.0], np.cumsum(self.share)])
        edges = np.append(self.diameter_nm - 0.5, self.diameter_nm[-1] + 0.5)
        return float(np.interp(probability, cumulative, edges))


@dataclass(frozen=True)
class NanoSightSummary:
    """A NanoSight experiment summary: one entry per video."""

    path: Path
    version: str
    """Program that wrote it, such as "NTA 3.4 Build 3.4.003"."""
    videos: tuple[NanoSightVideo, ...]


def read_nanosight_summary(path: str | Path) -> NanoSightSummary:
    """Read a NanoSight `*-ExperimentSummary.csv` or single summary, as NTA 3.2 to 3.4 write them.

    Parameters
    ----------
    path : str or Path
        The file; UTF-8 or Windows-1252. Averages over the videos, where it has them, are left out.

    Returns
    -------
    NanoSightSummary
        Of the first size table of the file, that by number.

    Raises
    ------
    InputError
        If the file cannot be read, is no such summary, leaves a video without a name, lacks size bins, or states a
        concentration that its bins do not add up to within 2 %, as one that was cut off; the message says what to do.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the summary cannot be read ({error.strerror}); check the path") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines())]
    except csv.Error:  # a field longer than any of a summary
        rows = []
    if not rows or not rows[0] or rows[0][0] not in _HEADS:
        raise InputError(f"{path}: no NanoSight summary, whose first line is {_HEADS[0]!r}; export it from NTA as CSV")
    version = rows[1][0].removeprefix("Created with ") if len(rows) > 1 and rows[1] else ""
    names = _names(path, rows)
    n = len(names)
    details, results = rows[: _line(path, rows, "[Size Data]")], _sizes(path, rows)
    bins, table = _bins(path, rows, n)
    videos = tuple(_video(i, names[i], bins, table[:, i], details, results) for i in range(n))
    _check_sums(path, videos)
    return NanoSightSummary(path, version, videos)


def _line(path: Path, rows: Sequence[Sequence[str]], label: str) -> int:
    """First line that begins with a label."""
    for i, row in enumerate(rows):
        if row and row[0] == label:
            return i
    raise InputError(f"{path}: the summary has no line {label!r}; export it again with its size distribution")


def _names(path: Path, rows: Sequence[Sequence[str]]) -> list[str]:
    row = rows[_line(path, rows, "Filename:")]
    names = list(row[1:])
    while names and not names[-1]:
        names.pop()
    if not names:
        raise InputError(f"{path}: the summary names no video in its line 'Filename:'; export it again")
    if "" in names:  # left out, it would give the numbers of each video to the next
        column = names.index("") + 2
        raise InputError(f"{path}: the summary has no name in column {column} of its line 'Filename:'; write one there")
    return names


def _sizes(path: Path, rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The lines of the first size table above its bins."""
    return list(rows[_line(path, rows, "[Size Data]") : _line(path, rows, _BINS)])


def _bins(path: Path, rows: Sequence[Sequence[str]], n: int) -> tuple[F64, F64]:
    """Centres of the bins, and the concentration in each of them per video."""
    centres, values = [], []
    for row in rows[_line(path, rows, _BINS) + 1 :]:
        numbers = [_number(cell) for cell in row[: n + 1]]
        if len(numbers) < n + 1 or not all(math.isfinite(v) for v in numbers):
            break
        centres.append(numbers[0])
        values.append(numbers[1:])
    if len(centres) < 2:
        raise InputError(f"{path}: the summary has no size bins of its {n} video(s); export it with graph data")
    return np.array(centres), np.array(values)


def _video(
    i: int,
    name: str,
    bins: F64,
    per_ml: F64,
    details: Sequence[Sequence[str]],
    results: Sequence[Sequence[str]],
) -> NanoSightVideo:
    def of(rows: Sequence[Sequence[str]], label: str) -> float:
        row = next((row for row in rows if row and row[0].startswith(label)), [])
        return _number(row[i + 1]) if len(row) > i + 1 else math.nan

    labels = {"Mean": "mean_nm", "Mode": "mode_nm", "SD": "sd_nm", "D10": "d10_nm", "D50": "d50_nm", "D90": "d90_nm"}
    stated = {key: of(results, label) for label, key in labels.items()}
    rate, shutter = of(details, "Frame rate/fps"), of(details, "Shutter/ms")
    return NanoSightVideo(
        name=name,
        diameter_nm=bins,
        per_ml=per_ml,
        stated={**stated, "concentration_per_ml": of(details, _CONCENTRATION)},
        temperature_c=of(details, "Temperature/C"),
        viscosity_mpa_s=of(details, "Viscosity/cP"),
        frame_interval_s=1.0 / rate if rate > 0 else math.nan,
        exposure_s=1e-3 * shutter,
        dilution=of(details, "Dilution factor"),
    )


def _check_sums(path: Path, videos: Sequence[NanoSightVideo]) -> None:
    """The bins of a file that was cut off or edited do not add up to the concentration it states."""
    for video in videos:
        found, stated = video.concentration_per_ml, video.stated["concentration_per_ml"]
        if abs(found - stated) > _SUM_WITHIN * stated:  # false where none is stated
            raise InputError(
                f"{path}: the size bins of video {video.name!r} add up to {found:.3g} particles per mL, the summary "
                f"states {stated:.3g}: bins are missing or changed; export it again"
            )


def _number(text: str) -> float:
    """NaN for what is none, such as "Not recorded"."""
    try:
        return float(text)
    except ValueError:
        return math.nan
