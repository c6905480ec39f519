"""From the tracks of all videos to the distributions of samples and batches, and the comparison of batches.

Everything here is computed from the finished folders, so that a resumed run gives what an uninterrupted one gives. The
likelihood rows of one batch are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from dask.delayed import delayed

from exotrack import storage
from exotrack.heterogeneity import compare
from exotrack.pipeline.plan import Job
from exotrack.pipeline.schedule import Cluster, Progress, Task, Threads, Watch
from exotrack.protocol import Protocol
from exotrack.sizing import TrackRows, concentration, pool, track_rows
from exotrack.sizing.crowding import MISLINK_MOST
from exotrack.sizing.summary import summary_names
from exotrack.tables import Estimate, SizeDistribution

VIDEOS_ADVISED: Final = 3
TRACKS_ADVISED: Final = 1000
BORDER_HIGH: Final = 0.01
"""Share of a distribution at the ends of the size grid from which on its tails are not to be trusted."""
NOTHING: Final = Estimate(np.nan, np.nan, np.nan)
COUNTS: Final = ("n_videos", "n_failed", "n_particles", "n_tracks", "weighting")
"""Columns of samples.csv and batches.csv between the names and the numbers."""
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
    concentration: Estimate
    """Particles per mL; NaN where a depth is not known."""
    n_particles: int
    """Uncut tracks that are long enough."""


def groups(jobs: Sequence[Job], failures: Mapping[str, Any]) -> list[Group]:
    """Every analysed video, then every sample, then every batch, each in the order of the sheet.

    Beads, blanks and controls are groups of their own videos only: they belong to no sample's or batch's result.
    """
    videos = [
        Group("video", job.row.batch, job.row.sample, job.row.video_id, (job,), 0)
        for job in jobs
        if job.row.video_id not in failures
    ]
    members = [job for job in jobs if job.row.role == "sample"]
    samples = dict.fromkeys((job.row.batch, job.row.sample) for job in members)
    batches = dict.fromkeys(job.row.batch for job in members)

    def group(level: str, batch: str, sample: str, name: str) -> Group:
        mine = [job for job in members if job.row.batch == batch and sample in ("", job.row.sample)]
        done = tuple(job for job in mine if job.row.video_id not in failures)
        return Group(level, batch, sample, name, done, len(mine) - len(done))

    return [
        *videos,
        *(group("sample", batch, sample, f"{batch}/{sample}") for batch, sample in samples),
        *(group("batch", batch, "", batch) for batch in batches),
    ]


def write(
    out: Path,
    jobs: Sequence[Job],
    failures: Mapping[str, Any],
    protocol: Protocol,
    backend: str,
    engine: Threads | Cluster,
    progress: Progress | None,
) -> None:
    """Write distributions.parquet, samples.csv, batches.csv and comparisons.csv."""
    everything = groups(jobs, failures)
    found: dict[tuple[str, str], Pooled] = {}
    names = list(dict.fromkeys(group.batch for group in everything))
    for done, batch in enumerate(names, start=1):
        mine = [group for group in everything if group.batch == batch]
        tasks = _tasks(mine, protocol, backend, engine.token)
        of_members = dict(zip(tasks, engine.compute(list(tasks.values()), Watch(None)), strict=True))
        for group in mine:
            pooled = of_members[_members(group)]
            if isinstance(pooled, Exception):
                raise pooled
            found[group.level, group.name] = pooled
        if progress is not None:
            progress("batches", done, len(names))
    results = [(group, found[group.level, group.name]) for group in everything]
    batches = [(group, pooled) for group, pooled in results if group.level == "batch"]
    samples = [(group, pooled) for group, pooled in results if group.level == "sample"]
    numbers = (*summary_names(protocol.size.class_edges_nm), "concentration_per_ml")
    storage.write_parquet(out / "distributions.parquet", _distributions(results), {"protocol_sha256": protocol.sha256})
    storage.write_csv(out / "samples.csv", _frame(samples, ("batch", "sample"), numbers))
    storage.write_csv(out / "batches.csv", _frame(batches, ("batch",), numbers))
    storage.write_csv(out / "comparisons.csv", _comparisons(batches))


def _members(group: Group) -> tuple[str, ...]:
    """Ids of the analysed videos of a group."""
    return tuple(job.row.video_id for job in group.jobs)


def _tasks(mine: Sequence[Group], protocol: Protocol, backend: str, token: str) -> dict[tuple[str, ...], Task]:
    """The graph of one batch: likelihood rows per video, then one task per set of videos.

    A video is often all that its sample has, and a sample all that its batch has: such groups share one task.
    """
    by_name = {job.row.video_id: job for group in mine for job in group.jobs}
    rows = {
        name: delayed(partial(_rows, job), pure=False)(dask_key_name=f"likelihood-{token}-{name}")
        for name, job in by_name.items()
    }
    first = {_members(group): group for group in reversed(mine)}
    return {
        members: (
            delayed(partial(_pool, protocol, backend), pure=False)(
                *(rows[name] for name in members), dask_key_name=f"pool-{token}-{group.level}-{group.name}"
            ),
            0,
        )
        for members, group in first.items()
    }


def _rows(job: Job) -> TrackRows:
    assert job.source is not None  # a video without a header has failed
    return track_rows(storage.read_tracks(job.folder), job.source.acquisition, job.protocol, backend=job.backend)


def _pool(protocol: Protocol, backend: str, *rows: TrackRows) -> Pooled:
    return Pooled(
        sizes=pool(rows, protocol, backend=backend),
        concentration=concentration(rows) or NOTHING,
        n_particles=sum(len(np.unique(video.identity)) for video in rows),
    )


def _distributions(results: Sequence[tuple[Group, Pooled]]) -> pa.Table:
    """All distributions, one below the other; `level` and `id` say which rows belong together."""
    tables = []
    for group, pooled in results:
        table = pooled.sizes.to_arrow()
        for place, (name, value, meaning) in enumerate(
            [("level", group.level, "video, sample or batch"), ("id", group.name, "video id, BATCH/SAMPLE, or batch")]
        ):
            field = pa.field(name, pa.string(), nullable=False, metadata={"unit": "", "meaning": meaning})
            table = table.add_column(place, field, [pa.array([value] * len(table), pa.string())])
        field = pa.field("weighting", pa.string(), nullable=False, metadata={"unit": "", "meaning": "what is counted"})
        tables.append(table.append_column(field, [pa.array([pooled.sizes.weighting] * len(table), pa.string())]))
    return pa.concat_tables(tables).combine_chunks() if tables else SizeDistribution.empty().to_arrow()


def _frame(results: Sequence[tuple[Group, Pooled]], names: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    """samples.csv or batches.csv: the same columns whatever was found; numbers that nothing is known of are NaN."""
    with_ends = [f"{name}{end}" for name in numbers for end in ENDS]
    columns = [*names, *COUNTS, *with_ends, "quality"]
    return pd.DataFrame([_row(group, pooled) for group, pooled in results], columns=columns)


def _row(group: Group, pooled: Pooled) -> dict[str, Any]:
    """One row of samples.csv or batches.csv, without the numbers that nothing is known of."""
    counts = {
        "n_videos": len(group.jobs),
        "n_failed": group.n_failed,
        "n_particles": pooled.n_particles,
        "n_tracks": pooled.sizes.n_tracks,
        "weighting": pooled.sizes.weighting,
    }
    estimates = {**pooled.sizes.summary, "concentration_per_ml": pooled.concentration}
    numbers = {k: v for name, estimate in estimates.items() for k, v in _columns(name, estimate).items()}
    return {
        "batch": group.batch,
        "sample": group.sample,
        **counts,
        **numbers,
        "quality": "; ".join(_remarks(group, pooled)),
    }


def _remarks(group: Group, pooled: Pooled) -> Iterator[str]:
    if group.n_failed:
        yield f"{group.n_failed} video(s) failed"
    if len(group.jobs) < VIDEOS_ADVISED:
        yield f"fewer than {VIDEOS_ADVISED} videos"
    if pooled.sizes.n_tracks < TRACKS_ADVISED:
        yield f"fewer than {TRACKS_ADVISED} tracks"
    refused = [name for name, index in pooled.sizes.mislink_index.items() if index > MISLINK_MOST]
    if refused:
        worst = max(pooled.sizes.mislink_index[name] for name in refused)
        yield f"{', '.join(refused)} not reported: mislink index up to {worst:.2f}, dilute or record faster"
    at_border = _share_at_border(pooled.sizes)
    if at_border > BORDER_HIGH:
        yield f"{at_border:.0%} of the distribution at the border of the size grid"


def _share_at_border(sizes: SizeDistribution) -> float:
    """Share of the distribution in the outermost three classes on either side; 0 without a distribution."""
    share = sizes.density_per_nm * sizes.diameter_nm  # classes of equal width in ln d
    return float((share[:3].sum() + share[-3:].sum()) / share.sum()) if len(sizes) else 0.0


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {f"{name}{end}": value for end, value in zip(ENDS, estimate, strict=True)}


def _comparisons(batches: Sequence[tuple[Group, Pooled]]) -> pd.DataFrame:
    """comparisons.csv: one row per pair of batches that hold tracks."""
    columns = ("batch_a", "batch_b", *_columns("wasserstein_nm", NOTHING), "wasserstein_null_nm")
    ratios = (*_columns("d50_ratio", NOTHING), *_columns("concentration_ratio", NOTHING))
    return pd.DataFrame(list(_compared(batches)), columns=[*columns, *ratios])


def _compared(batches: Sequence[tuple[Group, Pooled]]) -> Iterator[dict[str, Any]]:
    for (a, of_a), (b, of_b) in combinations(batches, 2):
        if not len(of_a.sizes) or not len(of_b.sizes):
            continue
        result = compare(of_a.sizes, of_b.sizes)
        yield {
            "batch_a": a.name,
            "batch_b": b.name,
            **_columns("wasserstein_nm", result.wasserstein_nm),
            "wasserstein_null_nm": result.wasserstein_null_nm,
            **_columns("d50_ratio", result.d50_ratio),
            **_columns("concentration_ratio", _ratio(of_a.concentration, of_b.concentration)),
        }


def _ratio(a: Estimate, b: Estimate) -> Estimate:
    """b over a, with the half-widths on the logarithm added in quadrature."""
    ratio = b.value / a.value
    down = np.hypot(np.log(b.value / b.lo), np.log(a.hi / a.value))
    up = np.hypot(np.log(b.hi / b.value), np.log(a.value / a.lo))
    return Estimate(ratio, float(ratio * np.exp(-down)), float(ratio * np.exp(up)))
