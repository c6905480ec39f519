"""From the tracks of all videos to the distributions of samples and batches, and the comparison of batches.

Everything here is computed from the finished folders, so that a resumed run gives what an uninterrupted one gives. A
batch is one graph: the likelihood rows of all its videos, some megabytes each, are in memory together.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from dask.delayed import Delayed, delayed

from exotrack import storage
from exotrack.crosscheck import Dls, dls
from exotrack.errors import RunError
from exotrack.heterogeneity import Comparison, compare
from exotrack.pipeline import outcome
from exotrack.pipeline.checks import detection_from
from exotrack.pipeline.outcome import NOTHING, Group, Pooled, columns
from exotrack.pipeline.planning import Job
from exotrack.pipeline.provenance import code_sha256
from exotrack.pipeline.schedule import Cluster, Progress, Task, Threads, Watch
from exotrack.protocol import Protocol
from exotrack.sizing import TrackRows, concentration, pool, track_rows
from exotrack.sizing.summary import class_edges
from exotrack.tables import Estimate, SizeDistribution

TABLES: Final = (
    *("distributions.parquet", "samples.csv", "batches.csv", "budget.csv", "populations.csv", "comparisons.csv"),
    "videos.csv",
)
"""Files that `write` makes, in the result folder itself."""


@dataclass(frozen=True)
class Member:
    """What pooling needs of a finished video."""

    rows: TrackRows
    listed: Mapping[str, Any]
    """Its row of videos.csv."""


def groups(jobs: Sequence[Job], failures: Mapping[str, Any]) -> list[Group]:
    """Every analysed video, then every sample, then every batch, each in the order of the sheet.

    Beads, blanks and controls are groups of their own videos only: they belong to no sample's or batch's result.
    """
    done = {job.row.video_id for job in jobs} - set(failures)
    videos = [
        Group("video", job.row.batch, job.row.sample, job.row.video_id, (job,), 0)
        for job in jobs
        if job.row.video_id in done
    ]
    samples: dict[tuple[str, str], list[Job]] = {}
    batches: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        if job.row.role == "sample":
            samples.setdefault((job.row.batch, job.row.sample), []).append(job)
            batches.setdefault((job.row.batch, ""), []).append(job)

    def group(level: str, batch: str, sample: str, mine: Sequence[Job]) -> Group:
        analysed = tuple(job for job in mine if job.row.video_id in done)
        name = f"{batch}/{sample}" if level == "sample" else batch
        return Group(level, batch, sample, name, analysed, len(mine) - len(analysed))

    return [
        *videos,
        *(group("sample", *name, mine) for name, mine in samples.items()),
        *(group("batch", *name, mine) for name, mine in batches.items()),
    ]


def _blanks(jobs: Sequence[Job], failures: Mapping[str, Any]) -> dict[str, list[Job]]:
    """The blanks of each batch: its own, or else those of batches without samples, which serve all."""
    with_samples = dict.fromkeys(job.row.batch for job in jobs if job.row.role == "sample")
    own: dict[str, list[Job]] = {batch: [] for batch in with_samples}
    shared: list[Job] = []
    for job in jobs:
        if job.row.role == "blank" and job.row.video_id not in failures:
            own.get(job.row.batch, shared).append(job)
    return {batch: mine or shared for batch, mine in own.items()}


def key(jobs: Sequence[Job], keys: Mapping[str, str], failures: Mapping[str, Any], protocol: Protocol) -> str:
    """Hash of all that decides the pooled results: equal keys, equal results."""
    said = {
        "videos": [(asdict(job.row), keys.get(job.row.video_id)) for job in jobs],
        "failures": failures,
        "protocol": protocol.sha256,
        "code": code_sha256(),
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def write(
    out: Path,
    jobs: Sequence[Job],
    keys: Mapping[str, str],
    failures: Mapping[str, Any],
    protocol: Protocol,
    backend: str,
    engine: Threads | Cluster,
    progress: Progress | None,
) -> None:
    """Write the files `TABLES`: what videos, samples and batches show, and how batches differ."""
    everything, blanks = groups(jobs, failures), _blanks(jobs, failures)
    of_batch: dict[str, list[Group]] = {}
    for group in everything:
        of_batch.setdefault(group.batch, []).append(group)
    found: dict[tuple[str, str], Pooled] = {}
    listed: dict[str, Mapping[str, Any]] = {}
    tasks = (_task(batch, mine, blanks.get(batch, []), keys, protocol, backend) for batch, mine in of_batch.items())
    for done, (task, result) in enumerate(engine.run(tasks, Watch(None)), start=1):
        if isinstance(result, Exception):
            raise RunError(f"{task.name}: {result}")
        pooled, rows = result
        found.update(pooled)
        listed.update(rows)
        if progress is not None:
            progress("batches", done, len(of_batch))
    results = [(group, found[group.level, group.name]) for group in everything]
    batches = [(group, pooled) for group, pooled in results if group.level == "batch"]
    samples = [(group, pooled) for group, pooled in results if group.level == "sample"]
    edges = protocol.size.class_edges_nm
    videos = [listed[job.row.video_id] for job in jobs if job.row.video_id in listed]
    storage.write_parquet(out / "distributions.parquet", _distributions(results), {"protocol_sha256": protocol.sha256})
    storage.write_csv(out / "samples.csv", outcome.frame(samples, ("batch", "sample"), edges))
    storage.write_csv(out / "batches.csv", outcome.frame(batches, ("batch",), edges))
    storage.write_csv(out / "budget.csv", outcome.budgets([*samples, *batches]))
    storage.write_csv(out / "populations.csv", outcome.populations([*samples, *batches]))
    storage.write_csv(out / "comparisons.csv", _comparisons(batches))
    storage.write_csv(out / "videos.csv", outcome.videos(videos, jobs))


def _members(group: Group) -> tuple[str, ...]:
    """Ids of the analysed videos of a group."""
    return tuple(job.row.video_id for job in group.jobs)


def _task(
    batch: str,
    mine: Sequence[Group],
    blanks: Sequence[Job],
    keys: Mapping[str, str],
    protocol: Protocol,
    backend: str,
) -> Task:
    """The graph of one batch: likelihood rows per video, then one task per set of videos.

    A video is often all that its sample has, and a sample all that its batch has: such groups share one task.
    """
    by_name = {job.row.video_id: job for job in (*(job for group in mine for job in group.jobs), *blanks)}
    sharing: dict[tuple[str, ...], list[Group]] = {}
    for group in mine:
        sharing.setdefault(_members(group), []).append(group)

    def build(token: str) -> Delayed:
        members = {
            name: delayed(partial(_member, job, keys[name]), pure=False)(dask_key_name=f"likelihood-{token}-{name}")
            for name, job in by_name.items()
        }
        of_blanks = [members[job.row.video_id] for job in blanks]
        pooled = [
            delayed(partial(_pool, protocol, backend, tuple((g.level, g.name) for g in same), len(names)), pure=False)(
                *(members[name] for name in names),
                *of_blanks,
                dask_key_name=f"pool-{token}-{same[-1].level}-{same[-1].name}",
            )
            for names, same in sharing.items()
        ]
        own = [members[job.row.video_id] for group in mine if group.level == "video" for job in group.jobs]
        together = delayed(partial(_together, len(pooled)), pure=False)
        return together(*pooled, *own, dask_key_name=f"batch-{token}-{batch}")

    return Task(f"batch {batch}", build)


def _member(job: Job, key: str) -> Member:
    if (storage.completion(job.folder) or {}).get("key") != key:
        raise RunError(f"{job.folder}: was changed while the run was under way; run the same command again")
    record = storage.read_record(job.folder) or {}
    detection = detection_from(record)
    detect = None if detection is None else detection.at
    rows = track_rows(
        storage.read_tracks(job.folder), job.opened().acquisition, job.protocol, detect=detect, backend=job.backend
    )
    return Member(rows, outcome.video_row(record))


def _pool(
    protocol: Protocol, backend: str, names: Sequence[tuple[str, str]], n_videos: int, *members: Member
) -> dict[tuple[str, str], Pooled]:
    """What the first so many videos say, by the groups that they make up; the other members are blanks."""
    of_group, blanks = [m.rows for m in members[:n_videos]], [m.rows for m in members[n_videos:]]
    sizes = pool(of_group, protocol, backend=backend)
    dls = _dls(sizes)
    if not any(level == "batch" for level, _ in names):
        sizes = replace(sizes, replicates=None)  # only batches are compared
    found = Pooled(
        sizes=sizes,
        concentration=concentration(of_group, blanks),
        dls=dls,
        n_particles=sum(len(np.unique(video.identity)) for video in of_group),
    )
    return dict.fromkeys(names, found)


def _together(n_pooled: int, *results: Any) -> tuple[dict[tuple[str, str], Pooled], dict[str, Mapping[str, Any]]]:
    """The groups of a batch, and the rows of its videos in videos.csv."""
    pooled = {name: found for each in results[:n_pooled] for name, found in each.items()}
    return pooled, {str(member.listed["video_id"]): member.listed for member in results[n_pooled:]}


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
