"""A result folder as plain values: whatever is there is read, whatever is absent stays None."""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from exotrack.errors import InputError
from exotrack.tables import Estimate

logger = logging.getLogger(__name__)

PLAIN = ("n_modes", "mode_stability", "lod_per_ml", "n_fields", "n_independent", "limit_nm", "d50_expanded_nm")
"""Columns of batches.csv and samples.csv that hold one number without an interval."""

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Facts:
    """A JSON object whose fields may be absent or of another type than expected; every look-up says None then.

    Examples
    --------
    >>> facts = Facts({"linking": {"gate_px": 3.5, "n_links": float("nan")}})
    >>> facts.number("linking", "gate_px"), facts.number("linking", "n_links"), facts.text("motion", "error_scale")
    (3.5, None, None)
    """

    values: Mapping[str, Any]

    def get(self, *path: str) -> Any:
        """The value at a path of keys, or None."""
        value: Any = self.values
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def number(self, *path: str) -> float | None:
        """The finite number at a path of keys, or None."""
        value = self.get(*path)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        return float(value)

    def text(self, *path: str) -> str | None:
        """The value at a path of keys as text, or None where it is absent or empty."""
        value = self.get(*path)
        return None if value is None or value == "" else str(value)

    def section(self, *path: str) -> Facts:
        """The object at a path of keys, empty where there is none."""
        value = self.get(*path)
        return Facts(value if isinstance(value, Mapping) else {})

    def items(self, *path: str) -> list[Any]:
        """The list at a path of keys, empty where there is none."""
        value = self.get(*path)
        return list(value) if isinstance(value, list | tuple) else []

    def numbers(self, *path: str) -> Floats:
        """The list of numbers at a path of keys as an array; what is not a number becomes NaN."""
        return np.array([v if isinstance(v, int | float) else np.nan for v in self.items(*path)], dtype=np.float64)


@dataclass(frozen=True)
class Curve:
    """Density of diameters with its 95 % band; four arrays of one length, what was counted, and from which size on."""

    diameter_nm: Floats
    density_per_nm: Floats
    lo: Floats
    hi: Floats
    weighting: str
    limit_nm: float = 0.0
    """Detection limit below which the curve is cut; 0 where it is not known."""


def median_nm(curve: Curve) -> float:
    """Diameter that half of a curve's area lies below, by the trapezoidal rule."""
    d, f = curve.diameter_nm, curve.density_per_nm
    below = np.concatenate([[0.0], np.cumsum((f[1:] + f[:-1]) / 2 * np.diff(d))])
    return float(np.interp(below[-1] / 2, below, d))


@dataclass(frozen=True)
class Group:
    """One row of batches.csv or samples.csv (then `sample` is its name)."""

    batch: str
    sample: str | None
    counts: Mapping[str, int]
    """n_videos, n_failed, n_particles, n_tracks, as far as stated."""
    weighting: str
    estimates: Mapping[str, Estimate]
    """Metric → value and interval; an interval that is not stated is NaN, a metric that is not stated is absent."""
    plain: Mapping[str, float]
    """Numbers without an interval, as far as stated."""
    budget: tuple[Mapping[str, str], ...]
    """Rows of budget.csv."""
    populations: tuple[Mapping[str, str], ...]
    """Rows of populations.csv."""
    quality: tuple[str, ...]
    curve: Curve | None


@dataclass(frozen=True)
class Comparison:
    """One row of comparisons.csv."""

    batch_a: str
    batch_b: str
    estimates: Mapping[str, Estimate]
    """wasserstein_nm, wasserstein_null_nm, d50_ratio, concentration_ratio, as far as stated."""
    remark: str = ""
    """Why something was not compared."""


@dataclass(frozen=True)
class Video:
    """One video of the study: what video.json states, or the reason why it failed."""

    video_id: str
    folder: Path
    facts: Facts
    reason: str | None
    curve: Curve | None

    def table(self, name: str, columns: list[str]) -> dict[str, Array] | None:
        """Columns of one of the video's Parquet tables, or None where it is absent or cannot be read."""
        return _columns(self.folder / f"{name}.parquet", columns)


@dataclass(frozen=True)
class Study:
    """Everything that a result folder states."""

    run: Facts
    protocol: Facts
    batches: tuple[Group, ...]
    samples: tuple[Group, ...]
    comparisons: tuple[Comparison, ...]
    videos: tuple[Video, ...]
    """In the order of the inputs, failed ones included."""


def read(result_dir: Path) -> Study:
    """Read a result folder.

    Raises
    ------
    InputError
        If the folder or its run.json is missing, or a JSON or TOML file in it is not valid. Absent tables, tables
        that cannot be read, and absent fields are no error: the report states them as missing.
    """
    if not (result_dir / "run.json").is_file():
        raise InputError(f"{result_dir}: no run.json here; give the folder that `exotrack run` wrote (its --out)")
    run = _json(result_dir / "run.json")
    curves = _curves(result_dir / "distributions.parquet")
    further = _rows(result_dir / "budget.csv"), _rows(result_dir / "populations.csv")
    return Study(
        run=run,
        protocol=_toml(result_dir / "protocol.toml"),
        batches=tuple(_group(row, curves, *further) for row in _rows(result_dir / "batches.csv")),
        samples=tuple(_group(row, curves, *further) for row in _rows(result_dir / "samples.csv")),
        comparisons=tuple(_comparison(row) for row in _rows(result_dir / "comparisons.csv")),
        videos=tuple(_videos(result_dir / "videos", run, curves)),
    )


def _json(path: Path) -> Facts:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a valid JSON file ({error}); run the analysis again") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds {type(values).__name__}, not an object; run the analysis again")
    return Facts(values)


def _toml(path: Path) -> Facts:
    if not path.is_file():
        return Facts({})
    try:
        return Facts(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a valid TOML file ({error}); run the analysis again") from None


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    lines = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
    return [{key: value or "" for key, value in row.items() if key} for row in lines]


def _columns(path: Path, columns: list[str]) -> dict[str, Array] | None:
    table = _table(path, columns)
    return None if table is None else {name: table[name].to_numpy() for name in columns}


def _table(path: Path, columns: list[str]) -> pa.Table | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream:
            return pq.read_table(stream, columns=columns)
    except (OSError, KeyError, pa.ArrowException) as error:
        logger.warning("%s cannot be read and is left out of the report: %s", path, error)
        return None


def _curves(path: Path) -> dict[tuple[str, str], Curve]:
    numbers = ["diameter_nm", "density_per_nm", "lo", "hi", "limit_nm"]
    table = _table(path, ["level", "id", "weighting", *numbers])
    if table is None or not table.num_rows:
        return {}
    # As numbers into a dictionary: a study of 10,000 videos has millions of rows, and as many texts take gigabytes.
    level, name, weighting = (table[c].combine_chunks().dictionary_encode() for c in ("level", "id", "weighting"))
    codes = np.stack([level.indices.to_numpy(), name.indices.to_numpy()])
    starts = [0, *(np.flatnonzero((codes[:, 1:] != codes[:, :-1]).any(axis=0)) + 1), table.num_rows]
    values = [table[c].to_numpy().astype(np.float64, copy=False) for c in numbers]
    curves = {}
    for first, last in itertools.pairwise(map(int, starts)):
        diameter, density, lo, hi, limit = (column[first:last] for column in values)
        key = (str(level[first]), str(name[first]))
        curves[key] = Curve(diameter, density, lo, hi, str(weighting[first]), float(limit[0]))
    return curves


def number(text: str | None) -> float:
    """The number that a cell holds; NaN for an empty one and for anything else."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _estimates(row: Mapping[str, str], names: Iterable[str]) -> dict[str, Estimate]:
    values = {n: Estimate(number(row[n]), number(row.get(f"{n}_lo")), number(row.get(f"{n}_hi"))) for n in names}
    return {name: estimate for name, estimate in values.items() if math.isfinite(estimate.value)}


def _group(
    row: Mapping[str, str],
    curves: Mapping[tuple[str, str], Curve],
    budget: list[dict[str, str]],
    populations: list[dict[str, str]],
) -> Group:
    batch, sample = row.get("batch", ""), row.get("sample")
    counted = {n: number(row[n]) for n in ("n_videos", "n_failed", "n_particles", "n_tracks") if n in row}
    stated = [n for n in row if f"{n}_lo" in row]
    key = ("batch", batch) if sample is None else ("sample", f"{batch}/{sample}")
    curve = curves.get(key)
    place = (key[0], batch, sample or "")
    plain = {name: number(row[name]) for name in PLAIN if name in row}

    def mine(rows: list[dict[str, str]]) -> tuple[dict[str, str], ...]:
        return tuple(r for r in rows if (r.get("level"), r.get("batch"), r.get("sample")) == place)

    return Group(
        batch=batch,
        sample=sample,
        counts={name: int(value) for name, value in counted.items() if math.isfinite(value)},
        weighting=row.get("weighting") or (curve.weighting if curve else ""),
        estimates=_estimates(row, stated),
        plain={name: value for name, value in plain.items() if math.isfinite(value)},
        budget=mine(budget),
        populations=mine(populations),
        quality=tuple(flag.strip() for flag in row.get("quality", "").split(";") if flag.strip()),
        curve=curve,
    )


def _comparison(row: Mapping[str, str]) -> Comparison:
    names = ("wasserstein_nm", "wasserstein_null_nm", "d50_ratio", "concentration_ratio")
    stated = _estimates(row, [n for n in names if n in row])
    return Comparison(row.get("batch_a", ""), row.get("batch_b", ""), stated, row.get("quality", ""))


def _videos(folder: Path, run: Facts, curves: Mapping[tuple[str, str], Curve]) -> Iterable[Video]:
    failures = run.section("failures")
    stored = sorted(path.parent.name for path in folder.glob("*/video.json"))
    for video_id in dict.fromkeys([*run.section("inputs").values, *stored, *failures.values]):
        path = folder / video_id / "video.json"
        # A failed video has no video.json; what is known of it stands in run.json.
        stated = _json(path) if path.is_file() else Facts({})
        known = {**run.section("inputs", video_id).values, **failures.section(video_id).values, **stated.values}
        reason = None
        if video_id in failures.values:
            reason = failures.text(video_id, "reason") or "no reason was recorded"
        elif not path.is_file():
            reason = "the result folder holds no results for this video"
        yield Video(video_id, folder / video_id, Facts(known), reason, curves.get(("video", video_id)))
