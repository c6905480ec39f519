"""From the tracks of all videos to the distributions of samples and batches, and the comparison of batches.

Everything here is computed from the finished folders, so that a resumed run gives what an uninterrupted one gives. The
likelihood rows of one batch are in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from dask.delayed import delayed

from exotrack import storage
from exotrack.crosscheck import Dls, dls
from exotrack.heterogeneity import Comparison, compare
from exotrack.pipeline import outcome
from exotrack.pipeline.checks import detection_from
from exotrack.pipeline.outcome import NOTHING, Group, Pooled, columns
from exotrack.pipeline.plan import Job
from exotrack.pipeline.schedule import Cluster, Progress, Task, Threads, Watch
from exotrack.protocol import Protocol
from exotrack.sizing import TrackRows, concentration, pool, track_rows
from exotrack.sizing.summary import class_edges
from exotrack.tables import Estimate, SizeDistribution


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


def _blanks(jobs: Sequence[Job], failures: Mapping[str, Any]) -> dict[str, list[Job]]:
    """The blanks of each batch: its own, or else those of batches without samples, which serve all."""
    blanks = [job for job in jobs if job.row.role == "blank" and job.row.video_id not in failures]
    with_samples = {job.row.batch for job in jobs if job.row.role == "sample"}
    shared = [job for job in blanks if job.row.batch not in with_samples]
    own = {batch: [job for job in blanks if job.row.batch == batch] for batch in with_samples}
    return {batch: mine or shared for batch, mine in own.items()}


def write(
    out: Path,
    jobs: Sequence[Job],
    failures: Mapping[str, Any],
    protocol: Protocol,
    backend: str,
    engine: Threads | Cluster,
    progress: Progress | None,
) -> None:
    """Write distributions.parquet, samples.csv, batches.csv, budget.csv, populations.csv and comparisons.csv."""
    everything, blanks = groups(jobs, failures), _blanks(jobs, failures)
    found: dict[tuple[str, str], Pooled] = {}
    names = list(dict.fromkeys(group.batch for group in everything))
    for done, batch in enumerate(names, start=1):
        mine = [group for group in everything if group.batch == batch]
        tasks = _tasks(mine, blanks.get(batch, []), protocol, backend, engine.token)
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
    edges = protocol.size.class_edges_nm
    storage.write_parquet(out / "distributions.parquet", _distributions(results), {"protocol_sha256": protocol.sha256})
    storage.write_csv(out / "samples.csv", outcome.frame(samples, ("batch", "sample"), edges))
    storage.write_csv(out / "batches.csv", outcome.frame(batches, ("batch",), edges))
    storage.write_csv(out / "budget.csv", outcome.budgets([*samples, *batches]))
    storage.write_csv(out / "populations.csv", outcome.populations([*samples, *batches]))
    storage.write_csv(out / "comparisons.csv", _comparisons(batches))


def _members(group: Group) -> tuple[str, ...]:
    """Ids of the analysed videos of a group."""
    return tuple(job.row.video_id for job in group.jobs)


def _tasks(
    mine: Sequence[Group], blanks: Sequence[Job], protocol: Protocol, backend: str, token: str
) -> dict[tuple[str, ...], Task]:
    """The graph of one batch: likelihood rows per video, then one task per set of videos.

    A video is often all that its sample has, and a sample all that its batch has: such groups share one task.
    """
    by_name = {job.row.video_id: job for job in (*(job for group in mine for job in group.jobs), *blanks)}
    rows = {
        name: delayed(partial(_rows, job), pure=False)(dask_key_name=f"likelihood-{token}-{name}")
        for name, job in by_name.items()
    }
    first = {_members(group): group for group in reversed(mine)}
    of_blanks = [rows[job.row.video_id] for job in blanks]
    return {
        members: (
            delayed(partial(_pool, protocol, backend, len(members)), pure=False)(
                *(rows[name] for name in members), *of_blanks, dask_key_name=f"pool-{token}-{group.level}-{group.name}"
            ),
            0,
        )
        for members, group in first.items()
    }


def _rows(job: Job) -> TrackRows:
    assert job.source is not None  # a video without a header has failed
    detection = detection_from(storage.read_record(job.folder) or {})
    detect = None if detection is None else detection.at
    return track_rows(
        storage.read_tracks(job.folder), job.source.acquisition, job.protocol, detect=detect, backend=job.backend
    )


def _pool(protocol: Protocol, backend: str, n_videos: int, *rows: TrackRows) -> Pooled:
    """Of the first so many videos; the others are blanks."""
    of_group, blanks = rows[:n_videos], rows[n_videos:]
    sizes = pool(of_group, protocol, backend=backend)
    return Pooled(
        sizes=sizes,
        concentration=concentration(of_group, blanks),
        dls=_dls(sizes),
        n_particles=sum(len(np.unique(video.identity)) for video in of_group),
    )


def _dls(sizes: SizeDistribution) -> Dls | None:
    if not len(sizes) or sizes.weighting != "number":
        return None
    share = sizes.density_per_nm * np.diff(class_edges(sizes.diameter_nm))
    return dls(sizes.diameter_nm, share, sizes.replicates)


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
        table = table.append_column(field, [pa.array([pooled.sizes.weighting] * len(table), pa.string())])
        meaning = "detection limit, below which the distribution is cut; 0 where it is not known"
        field = pa.field("limit_nm", pa.float64(), nullable=False, metadata={"unit": "nm", "meaning": meaning})
        tables.append(table.append_column(field, [pa.array([pooled.sizes.limit_nm] * len(table), pa.float64())]))
    return pa.concat_tables(tables).combine_chunks() if tables else SizeDistribution.empty().to_arrow()


def _comparisons(batches: Sequence[tuple[Group, Pooled]]) -> pd.DataFrame:
    """comparisons.csv: one row per pair of batches that hold tracks."""
    distance = ("batch_a", "batch_b", *columns("wasserstein_nm", NOTHING), "wasserstein_null_nm")
    ratios = (*columns("d50_ratio", NOTHING), *columns("concentration_ratio", NOTHING))
    return pd.DataFrame(list(_compared(batches)), columns=[*distance, *ratios, "quality"])


def _compared(batches: Sequence[tuple[Group, Pooled]]) -> Iterator[dict[str, Any]]:
    for (a, of_a), (b, of_b) in combinations(batches, 2):
        if not len(of_a.sizes) or not len(of_b.sizes):
            continue
        sizes, remark = Comparison(NOTHING, math.nan, NOTHING), ""
        if of_a.sizes.weighting == of_b.sizes.weighting:
            sizes = compare(of_a.sizes, of_b.sizes)
        else:
            remark = (
                f"sizes not compared: {a.name} is weighted by {of_a.sizes.weighting}, {b.name} by "
                f'{of_b.sizes.weighting}; set weighting = "frames" in the section [size] of the protocol for both'
            )
        yield {
            "batch_a": a.name,
            "batch_b": b.name,
            **columns("wasserstein_nm", sizes.wasserstein_nm),
            "wasserstein_null_nm": sizes.wasserstein_null_nm,
            **columns("d50_ratio", sizes.d50_ratio),
            **columns("concentration_ratio", _ratio(of_a.concentration.net, of_b.concentration.net)),
            "quality": remark,
        }


def _ratio(a: Estimate, b: Estimate) -> Estimate:
    """b over a, with the half-widths on the logarithm added in quadrature; NaN unless both are above zero.

    Where the interval of one of them reaches zero, that of the ratio has no such end: 0 or infinity.
    """
    if not (a.value > 0 and b.value > 0):
        return NOTHING
    ratio = b.value / a.value
    down = math.hypot(math.log(b.value / b.lo), math.log(a.hi / a.value)) if b.lo > 0 else math.inf
    up = math.hypot(math.log(b.hi / b.value), math.log(a.value / a.lo)) if a.lo > 0 else math.inf
    return Estimate(ratio, ratio * math.exp(-down), ratio * math.exp(up) if math.isfinite(up) else math.inf)
