"""What is known about a video, a sample or a batch, as rows of tables, with remarks on what to check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from exotrack.crosscheck import Dls
from exotrack.pipeline.planning import Job
from exotrack.sizing.budget import COVERAGE_FACTOR, combined
from exotrack.sizing.concentration import Concentration
from exotrack.sizing.crowding import MISLINK_MOST
from exotrack.sizing.summary import summary_names
from exotrack.storage.results import COUNTED
from exotrack.tables import Estimate, SizeDistribution

VIDEOS_ADVISED: Final = 3
FIELDS_ADVISED: Final = 5
"""Independent fields for a concentration: one that is watched for a minute holds about three independent counts."""
TRACKS_ADVISED: Final = 1000
BORDER_HIGH: Final = 0.01
"""Share of a distribution at the ends of the size grid from which on its tails are not to be trusted."""
BLANK_HIGH: Final = 0.1
"""Share of the blank in a concentration from which on it is to be taken with care."""
FLUX_APART: Final = 1.25
"""Ratio of the two estimates of a concentration from which on the calibration is in doubt."""
NOTHING: Final = Estimate(np.nan, np.nan, np.nan)
COUNTS: Final = ("n_videos", "n_failed", "n_particles", "n_tracks", "weighting")
"""Columns of samples.csv and batches.csv between the names and the numbers."""
VIDEO: Final = ("video_id", "video", "batch", "sample", "role")
"""First columns of videos.csv."""
FURTHER: Final = (
    *("concentration_per_ml", "concentration_gross_per_ml", "blank_per_ml", "concentration_flux_per_ml"),
    *("dls_z_average_nm", "dls_pdi"),
)
"""Numbers with an interval that follow those of the sizes."""
PLAIN: Final = ("n_modes", "mode_stability", "lod_per_ml", "n_fields", "n_independent", "limit_nm", "d50_expanded_nm")
"""Numbers without an interval, at the end."""
ENDS: Final = ("", "_lo", "_hi")
"""What is added to the name of a number for its value and the ends of its interval."""


@dataclass(frozen=True)
class Group:
    """Videos that are taken together: one, those of a sample, or those of a batch."""

    level: str
    """"video", "sample" or "batch"."""
    batch: str
    sample: str
    """Empty for a batch."""
    name: str
    """As in `distributions.parquet`: the video's id, BATCH/SAMPLE, or the batch."""
    jobs: tuple[Job, ...]
    """The videos that were analysed."""
    n_failed: int
    """The videos that could not be."""


@dataclass(frozen=True)
class Pooled:
    """What the videos of a group say together."""

    sizes: SizeDistribution
    concentration: Concentration
    dls: Dls | None
    """What a DLS instrument would read; None without a number distribution."""
    n_particles: int
    """Uncut tracks that are long enough."""


Result = tuple[Group, Pooled]


def frame(results: Sequence[Result], names: Sequence[str], edges_nm: Sequence[float]) -> pd.DataFrame:
    """samples.csv or batches.csv: the same columns whatever was found; numbers that nothing is known of are NaN."""
    numbers = (*summary_names(edges_nm), *FURTHER)
    with_ends = [f"{name}{end}" for name in numbers for end in ENDS]
    return pd.DataFrame([_row(*r) for r in results], columns=[*names, *COUNTS, *with_ends, *PLAIN, "quality"])


def video_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """Row of videos.csv: what the sheet says of a video, its counts, and the codes of its quality flags."""
    known = {name: record.get(name) for name in VIDEO}
    carried = {name: cell for name, cell in record.get("sheet", {}).items() if name not in known}
    flags = "; ".join(flag["code"] for flag in record.get("quality", []))
    return {**known, **carried, **record.get("counts", {}), "quality": flags}


def videos(rows: Sequence[Mapping[str, Any]], jobs: Sequence[Job]) -> pd.DataFrame:
    """videos.csv: one row per finished video, in the order of the sheet."""
    carried = [name for name in (jobs[0].row.columns if jobs else ()) if name not in VIDEO]
    return pd.DataFrame(rows, columns=[*VIDEO, *carried, *COUNTED, "quality"])


def columns(name: str, estimate: Estimate) -> dict[str, float]:
    """A number and the ends of its interval under their column names."""
    return {f"{name}{end}": value for end, value in zip(ENDS, estimate, strict=True)}


def _row(group: Group, pooled: Pooled) -> dict[str, Any]:
    """One row of samples.csv or batches.csv, without the numbers that nothing is known of."""
    sizes, found = pooled.sizes, pooled.concentration
    estimates = {
        **sizes.summary,
        "concentration_per_ml": found.net,
        "concentration_gross_per_ml": found.gross,
        "blank_per_ml": found.blank,
        "concentration_flux_per_ml": found.flux,
    }
    if pooled.dls is not None:
        estimates |= {"dls_z_average_nm": pooled.dls.z_average_nm, "dls_pdi": pooled.dls.pdi}
    d50 = sizes.summary["d50_nm"].value if "d50_nm" in sizes.summary else np.nan
    modes = sizes.modes
    return {
        "batch": group.batch,
        "sample": group.sample,
        "n_videos": len(group.jobs),
        "n_failed": group.n_failed,
        "n_particles": pooled.n_particles,
        "n_tracks": sizes.n_tracks,
        "weighting": sizes.weighting,
        **{k: v for name, estimate in estimates.items() for k, v in columns(name, estimate).items()},
        "n_modes": len(modes.diameter_nm) if modes is not None else np.nan,
        "mode_stability": modes.stability if modes is not None else np.nan,
        "lod_per_ml": found.lod_per_ml,
        "n_fields": found.fields,
        "n_independent": found.independent,
        "limit_nm": sizes.limit_nm,
        "d50_expanded_nm": COVERAGE_FACTOR * combined(sizes.budget) * d50,
        "quality": "; ".join(_remarks(group, pooled)),
    }


def budgets(results: Sequence[Result]) -> pd.DataFrame:
    """budget.csv: for the D50 of each sample and batch, what each source of uncertainty contributes."""
    names = ("level", "batch", "sample", "source", "standard_uncertainty", "unit", "sensitivity")
    return pd.DataFrame(
        [row for result in results for row in _budget(*result)],
        columns=[*names, "contribution_relative", "contribution_nm"],
    )


def _budget(group: Group, pooled: Pooled) -> Iterator[dict[str, Any]]:
    if "d50_nm" not in pooled.sizes.summary:
        return
    d50, lines = pooled.sizes.summary["d50_nm"].value, pooled.sizes.budget
    place = {"level": group.level, "batch": group.batch, "sample": group.sample}

    def row(source: str, relative: float, **more: Any) -> dict[str, Any]:
        share = {"contribution_relative": relative, "contribution_nm": relative * d50}
        return {**place, "source": source, **more, **share}

    for line in lines:
        how = {"standard_uncertainty": line.standard_uncertainty, "unit": line.unit, "sensitivity": line.sensitivity}
        yield row(line.source, line.contribution, **how)
    yield row("combined", combined(lines))
    yield row("expanded", COVERAGE_FACTOR * combined(lines))


def populations(results: Sequence[Result]) -> pd.DataFrame:
    """populations.csv: the log-normal populations of each sample and batch, smallest first."""
    numbers = [f"{name}{end}" for name in ("median_nm", "gsd", "fraction") for end in ENDS]
    rows = [
        {
            "level": group.level,
            "batch": group.batch,
            "sample": group.sample,
            "weighting": pooled.sizes.weighting,
            "population": population.name,
            **columns("median_nm", population.median_nm),
            **columns("gsd", population.gsd),
            **columns("fraction", population.fraction),
        }
        for group, pooled in results
        for population in pooled.sizes.populations
    ]
    return pd.DataFrame(rows, columns=["level", "batch", "sample", "weighting", "population", *numbers])


def _remarks(group: Group, pooled: Pooled) -> Iterator[str]:
    if group.n_failed:
        yield f"{group.n_failed} video(s) failed"
    if len(group.jobs) < VIDEOS_ADVISED:
        yield f"fewer than {VIDEOS_ADVISED} videos"
    yield from _remarks_on_sizes(pooled.sizes)
    yield from remarks_on_concentration(pooled.concentration)


def _remarks_on_sizes(sizes: SizeDistribution) -> Iterator[str]:
    if sizes.weighting_reason:
        yield f"weighted by {sizes.weighting}: {sizes.weighting_reason}"
    if not len(sizes) and sizes.limit_nm > 0:
        yield f"all particles lie below the detection limit of {sizes.limit_nm:.0f} nm"
    if np.isnan(sizes.limit_nm):
        yield "less than half of the particles of any size are detected: more light or exposure is needed"
    if sizes.n_tracks < TRACKS_ADVISED:
        yield f"fewer than {TRACKS_ADVISED} tracks"
    refused = [name for name, index in sizes.mislink_index.items() if index > MISLINK_MOST]
    if refused:
        worst = max(sizes.mislink_index[name] for name in refused)
        yield f"{', '.join(refused)} not reported: mislink index up to {worst:.2f}, dilute or record faster"
    at_border = _share_at_border(sizes)
    if at_border > BORDER_HIGH:
        yield f"{at_border:.0%} of the distribution at the border of the size grid"


def remarks_on_concentration(found: Concentration) -> Iterator[str]:
    """What to know before trusting a concentration."""
    net, gross, flux = found.net, found.gross, found.flux
    if not np.isfinite(gross.value):
        return
    if found.n_unsubtracted:
        yield f"{found.n_unsubtracted} blank(s) not subtracted: fill in their depth_um or depth_table"
    if found.fields < FIELDS_ADVISED:
        yield f"concentration from {found.fields} field(s): {FIELDS_ADVISED} of fresh sample are advised"
    if np.isfinite(found.lod_per_ml) and gross.value < found.lod_per_ml:
        yield "concentration below the limit of detection of the blanks"
    elif found.blank.value > BLANK_HIGH * gross.value:
        yield f"blank is {found.blank.value / gross.value:.0%} of the concentration"
    if net.value > 0 and flux.lo > 0 and gross.lo > 0:
        ratio = float(np.log(flux.value / gross.value))
        chance = float(np.hypot(np.log(flux.hi / flux.lo), np.log(gross.hi / gross.lo))) / 2.0
        if abs(ratio) > max(float(np.log(FLUX_APART)), chance):
            yield f"arrivals give {np.exp(ratio):.2f} times the concentration: check the depth"


def _share_at_border(sizes: SizeDistribution) -> float:
    """Share of the distribution in the outermost three classes on either side; 0 without a distribution."""
    share = sizes.density_per_nm * sizes.diameter_nm  # classes of equal width in ln d
    if not len(sizes):
        return 0.0
    return float((share[:3].sum() + share[-3:].sum()) / share.sum())
