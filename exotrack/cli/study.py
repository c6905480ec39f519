"""Commands on a whole study: demo, run, report, compare, calibrate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exotrack.cli import logs, terminal
from exotrack.errors import InputError

if TYPE_CHECKING:
    from exotrack.pipeline.planning import Job
    from exotrack.storage import Results

INTERRUPTED = 130


class Backend(StrEnum):
    """Names of the backends."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the videos and the results.")] = Path("exotrack-demo"),
) -> None:
    """Simulate two batches, run everything, and compare the result with the truth.

    Example: exotrack demo --out exotrack-demo
    """
    from exotrack import demo as demonstration

    with _resumable(), terminal.progress() as show:
        outcome = demonstration.run(out, progress=show)
    rows = [
        [row.batch, row.quantity, f"{row.truth:.3g}", terminal.interval(*row.found), "yes" if row.inside else "NO"]
        for row in outcome.rows
    ]
    terminal.table("Result against truth", ["batch", "quantity", "truth", "found (95 % interval)", "inside"], rows)
    _leave(outcome.results)


def run(
    samplesheet: Annotated[
        str, typer.Argument(help="Sample sheet: CSV, one row per video; path or URL.", metavar="SAMPLESHEET")
    ],
    out: Annotated[str, typer.Option(help="Result folder, new or of an earlier run of this study; path or URL.")],
    protocol: Annotated[
        Path | None, typer.Option(help="Settings of the analysis; all have defaults.", metavar="P.toml")
    ] = None,
    backend: Annotated[Backend, typer.Option(help="What computes.")] = Backend.auto,
    scheduler: Annotated[
        str, typer.Option(help="threads, local (processes), or the address of a dask scheduler.")
    ] = "threads",
    workers: Annotated[int | None, typer.Option(help="Videos handled at a time.  [default: one per core]")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Make finished videos again; drop those no longer in the sheet.")
    ] = False,
    block_frames: Annotated[
        int | None, typer.Option(help="Frames handled at a time; never changes a result.", metavar="N")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and about how long it would take; do nothing.")
    ] = False,
    log_file: logs.LogFile = None,
) -> None:
    """Analyse every video of a sample sheet, and write tables and report.

    The sheet is a CSV file with a row per video and the columns video, batch, sample, pixel_size_um, fps, exposure_s,
    temperature_c; the README lists the others. All settings stand in DIR/protocol.toml afterwards, which --protocol
    takes, whole or in part.

    Finished videos of an earlier run into the same folder are kept where input, settings and code are the same.

    Example: exotrack run samplesheet.csv --out results
    """
    from exotrack import pipeline
    from exotrack.protocol import Protocol

    if log_file is not None:
        logs.start(log_file)
    settings = Protocol() if protocol is None else Protocol.from_toml(protocol)
    if dry_run:
        planned = pipeline.plan(
            samplesheet, out, settings, backend=backend.value, force=force, block_frames=block_frames
        )
        _show_plan(planned, scheduler, workers)
        return
    with _resumable(), terminal.progress() as show:
        results = pipeline.run(
            samplesheet,
            out,
            settings,
            backend=backend.value,
            scheduler=scheduler,
            workers=workers,
            force=force,
            block_frames=block_frames,
            progress=show,
        )
    _summary(results)
    _leave(results)


def report(folder: Annotated[str, typer.Argument(help="Result folder, path or URL.", metavar="DIR")]) -> None:
    """Write the report again, from the result folder alone.

    Example: exotrack report results
    """
    from exotrack import report as reporting
    from exotrack.storage import open_results

    open_results(folder)  # an unfinished run has no report
    for path in reporting.write(folder):
        terminal.say(str(path))


def compare(
    folder: Annotated[Path, typer.Argument(help="Result folder.", metavar="DIR")],
    reference: Annotated[str, typer.Option(help="Batch that the others are compared with.", metavar="BATCH")],
) -> None:
    """Compare every batch with a reference batch.

    Example: exotrack compare results --reference B1
    """
    from exotrack.storage import open_results

    results = open_results(folder)
    batches = [str(batch) for batch in results.batches["batch"]]
    if reference not in batches:
        raise InputError(f"--reference {reference!r}: no such batch in {folder}; known: {', '.join(batches) or 'none'}")
    rows = []
    for pair in results.comparisons.to_dict("records"):
        if reference not in (pair["batch_a"], pair["batch_b"]):
            continue
        first = pair["batch_a"] == reference
        ratios = [_ratio(pair, name, invert=not first) for name in ("d50_ratio", "concentration_ratio")]
        distance = terminal.interval(*(pair[f"wasserstein_nm{end}"] for end in ("", "_lo", "_hi")))
        null = terminal.interval(pair["wasserstein_null_nm"], float("nan"), float("nan"))
        rows.append([pair["batch_b"] if first else pair["batch_a"], distance, null, *ratios])
    if not rows:
        raise InputError(f"{folder}: no other batch with sizes to compare {reference!r} with")
    header = ["batch", "Wasserstein distance, nm", "by chance up to, nm", "ratio of D50", "ratio of concentrations"]
    terminal.table(f"Batches against {reference}", header, rows)


def calibrate(
    folder: Annotated[Path, typer.Argument(help="Result folder with bead videos.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="Table of depths to write.", metavar="DEPTH.csv")],
    reference_error: Annotated[
        float, typer.Option(help="Relative standard uncertainty of the beads' stated concentrations.")
    ] = 0.05,
) -> None:
    """Measure the depth of the observed volume with beads of known concentration.

    The study's sheet has rows of the role bead with reference_diameter_nm and reference_per_ml (before the dilution in
    the column dilution). Name the table in the column depth_table of the videos that were recorded with the same
    settings; depths are then looked up by brightness.

    Example: exotrack calibrate bead-results --out depth.csv
    """
    from exotrack.pipeline.calibrate import calibrate as measure

    table = measure(folder, out, reference_error=reference_error)
    rows = [
        [
            f"{p.diameter_nm:g}",
            "" if p.mass_dn is None else f"{p.mass_dn:.4g}",
            f"{p.depth_um:.2f}",
            f"{p.relative_error:.1%}",
        ]
        for p in table.points
    ]
    header = ["beads, nm", "signal, DN", "depth, µm", "standard uncertainty"]
    terminal.table("Effective depth", header, rows)
    terminal.say(f"Depth table: {out}")


def _show_plan(jobs: Sequence[Job], scheduler: str, workers: int | None) -> None:
    """What `run` would do, how much memory it would take, and about how long."""
    from exotrack.pipeline.forecast import forecast

    here = scheduler in ("threads", "local")
    plan = forecast(jobs, workers, processes=scheduler != "threads")
    kept = f" ({plan.n_kept} more are kept from an earlier run)" if plan.n_kept else ""
    rows = [
        ["videos", f"{plan.n_videos}{kept}"],
        ["videos that cannot be read", f"{len(plan.unreadable)}"],
        ["frames", f"{plan.n_frames}"],
        ["raw pixels", _bytes(plan.n_bytes)],
        ["windows of the time grid", f"{plan.n_windows}"],
        ["blocks of frames", f"{plan.n_blocks}"],
        ["tasks", f"{plan.n_tasks}"],
        ["workers", f"{plan.workers}" if here else "those of the cluster"],
        ["peak memory per worker, about", _bytes(plan.worker_bytes)],
    ]
    if here:
        rows += [["peak memory in all, about", _bytes(plan.total_bytes)]]
        rows += [["time, about", terminal.duration(plan.seconds)]]
    else:
        rows += [["time on one worker like this machine, about", terminal.duration(plan.seconds)]]
    terminal.table("Plan: nothing was computed or written", ["what", "value"], rows)
    for reason in plan.unreadable:
        terminal.say(f"cannot be read: {reason}")
    terminal.say(plan.basis)


def _bytes(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def _ratio(pair: Mapping[Any, Any], name: str, *, invert: bool) -> str:
    value, lo, hi = (pair[f"{name}{end}"] for end in ("", "_lo", "_hi"))
    if invert:
        value, lo, hi = 1 / value, 1 / hi, float("inf") if lo == 0 else 1 / lo
    return terminal.interval(value, lo, hi)


def _summary(results: Results) -> None:
    rows = []
    for batch in results.batches.to_dict("records"):
        sizes = [
            terminal.interval(*(batch[f"{name}{end}"] for end in ("", "_lo", "_hi")))
            for name in ("d50_nm", "mode_nm", "pooled_nm", "concentration_per_ml")
        ]
        rows.append([str(batch["batch"]), f"{batch['n_videos']}", f"{batch['n_tracks']}", *sizes])
    if rows:
        terminal.table("Batches", ["batch", "videos", "tracks", "D50, nm", "mode, nm", "pooled, nm", "per mL"], rows)


@contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        terminal.complain("interrupted; finished videos are kept: run the same command again to resume")
        raise typer.Exit(INTERRUPTED) from None


def _leave(results: Results) -> None:
    """Say where the results are, and exit; the run has named the failures on stderr."""
    terminal.say(f"Report:  {results.report}")
    terminal.say(f"Results: {results.path}")
    if results.failures:
        terminal.complain(f"{len(results.failures)} of {len(results.run['inputs'])} videos failed")
        raise typer.Exit(1)
