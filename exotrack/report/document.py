"""The report as text: everything that HTML and PDF print alike, already in words, rounded and with units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exotrack.report.cards import Badge, Line, VideoCard, level_of, video_card
from exotrack.report.formatting import (
    MISSING,
    SPACE,
    count,
    estimate,
    estimate_and_interval,
    significant,
    utc,
    with_unit,
)
from exotrack.report.read import Comparison, Group, Study, Video, number
from exotrack.report.record import InputFile, RecordItem, Setting, inputs, provenance, quality_record, settings
from exotrack.report.wording import (
    COUNTS,
    KEY_METRICS,
    LIMITATIONS,
    MEASURED,
    METRICS,
    ONLY_IF_STATED,
    PLAIN,
    SOURCES,
    WEIGHTINGS,
    Term,
    size_class,
    weighting_label,
)
from exotrack.tables import Estimate

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#a3478c", "#7a5c00", "#4a4fb5", "#8c2d04", "#00707a")
"""Colours of the batches: dark enough for white paper, told apart by people with colour-vision deficiency."""

DASHES = ("solid", "dash", "dot")
"""Strokes of the batches: the next one once all colours are taken."""

_CONTRIBUTIONS = ("contribution_relative", "contribution_nm")

COMPARISONS_MOST = 500
"""Pairs of batches that the report shows, in the order of comparisons.csv, which has all."""
CARDS_MOST = 200
"""Videos that the report shows one by one; a card is 0.1 MB and takes 0.1 s. All are in videos.csv."""

NO_INTERVAL = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class SampleRow:
    """One sample of a batch in the table of its batch."""

    sample: str
    videos: str
    tracks: str
    values: list[tuple[str, str]]
    """Number and interval per metric of `KEY_METRICS`."""
    quality: list[Badge]


@dataclass(frozen=True)
class BudgetRow:
    """One source of uncertainty of the D50 of a batch."""

    source: str
    uncertainty: str
    sensitivity: str
    contribution: str
    total: bool
    """Whether it sums up the rows above."""


@dataclass(frozen=True)
class BatchPart:
    """What the report says about one batch."""

    name: str
    anchor: str
    colour: str
    dash: str
    basis: str
    """What the numbers rest on: videos, tracks, particles."""
    weighting: str
    weighting_meaning: str
    key_values: list[tuple[str, str]]
    """Number and interval per metric of `KEY_METRICS`."""
    lines: list[Line]
    """One line per metric that is stated."""
    budget: list[BudgetRow]
    populations: list[list[str]]
    """Name, median, geometric s.d. and share of each log-normal population."""
    quality: list[Badge]
    samples: list[SampleRow]


@dataclass(frozen=True)
class ComparisonPart:
    """What the report says about one pair of batches."""

    batch_a: str
    batch_b: str
    distance: str
    null_level: str
    d50_ratio: str
    concentration_ratio: str
    verdict: str
    reading: str


@dataclass(frozen=True)
class Document:
    """The whole report in reading order."""

    title: str
    level: str
    disposition: str
    header: list[Line]
    warnings: list[str]
    key_labels: list[str]
    """Headings of `BatchPart.key_values`."""
    batches: list[BatchPart]
    comparisons: list[ComparisonPart]
    """`COMPARISONS_MOST` of them at most."""
    n_comparisons: int
    failed: list[VideoCard]
    videos: list[VideoCard]
    """The videos that were analysed, `CARDS_MOST` of them at most: those to check before others."""
    n_left_out: int
    """Analysed videos without a card."""
    terms: list[Line]
    """What the counts and measured values of a video mean; the value is their unit."""
    record: list[RecordItem]
    settings: list[Setting]
    provenance: list[Line]
    packages: list[Line]
    seconds: list[Line]
    inputs: list[InputFile]
    limitations: list[str]


def build(study: Study) -> Document:
    """Turn what a result folder states into the text of the report."""
    limits = diameter_limits(study)
    levels = [level_of(video) for video in study.videos]
    shown = _shown(study.videos, levels)
    cards = [video_card(study.videos[n], study.protocol, limits, f"video-{n + 1}") for n in shown]
    failed = [card for card in cards if card.reason is not None]
    videos = [card for card in cards if card.reason is None]
    done = sum(video.reason is None for video in study.videos)
    level, disposition = _disposition(done, len(failed))
    return Document(
        title="Particle size report",
        level=level,
        disposition=disposition,
        header=_header(study, levels),
        warnings=[str(warning) for warning in study.run.items("warnings")],
        key_labels=[_headed(METRICS[name]) for name in KEY_METRICS],
        batches=[_batch(study, group, n) for n, group in enumerate(study.batches)],
        comparisons=[_comparison(comparison) for comparison in study.comparisons[:COMPARISONS_MOST]],
        n_comparisons=len(study.comparisons),
        failed=failed,
        videos=videos,
        n_left_out=done - len(videos),
        terms=[Line(term.label, term.unit, term.meaning) for term in (*COUNTS.values(), *MEASURED.values())],
        record=quality_record(study),
        settings=settings(study.protocol),
        provenance=provenance(study.run),
        packages=[Line(str(k), str(v)) for k, v in sorted(study.run.section("packages").values.items())],
        seconds=_seconds(study),
        inputs=inputs(study),
        limitations=list(LIMITATIONS),
    )


def diameter_limits(study: Study) -> tuple[float, float]:
    """Diameters in nm that hold all but half a percent of every batch and sample on either side, with a margin.

    The size grid reaches much further than the particles; drawn in full, every curve would be a needle at the left.
    """
    lo, hi = math.inf, 0.0
    for curve in [group.curve for group in (*study.batches, *study.samples)] or [v.curve for v in study.videos]:
        if curve is None or len(curve.diameter_nm) < 2:
            continue
        d, f = curve.diameter_nm, curve.density_per_nm
        mass = ((f[1:] + f[:-1]) / 2 * (d[1:] - d[:-1])).cumsum()
        if not (math.isfinite(mass[-1]) and mass[-1] > 0):
            continue
        lo = min(lo, float(d[mass.searchsorted(0.005 * mass[-1])]))
        hi = max(hi, float(d[min(mass.searchsorted(0.995 * mass[-1]) + 1, len(d) - 1)]))
    return (0.9 * lo, 1.1 * hi) if lo < hi else (0.0, 500.0)


def _disposition(done: int, failed: int) -> tuple[str, str]:
    if not done and not failed:
        return "fail", "The study holds no videos."
    if not done:
        return (
            "fail",
            f"None of the {failed} videos could be analysed." if failed > 1 else "The video could not be analysed.",
        )
    if failed:
        return "warning", f"{done} of {done + failed} videos were analysed; {failed} failed."
    return "ok", f"All {done} videos were analysed." if done > 1 else "The video was analysed."


def _shown(videos: Sequence[Video], levels: Sequence[str]) -> list[int]:
    """Which videos get a card: all that failed, and up to `CARDS_MOST` others, those to check first."""
    done = [n for n, video in enumerate(videos) if video.reason is None]
    done.sort(key=lambda n: levels[n] not in ("warning", "fail"))
    failed = [n for n, video in enumerate(videos) if video.reason is not None]
    return sorted([*failed, *done[:CARDS_MOST]])


def _header(study: Study, levels: Sequence[str]) -> list[Line]:
    run = study.run
    done = [level for video, level in zip(study.videos, levels, strict=True) if video.reason is None]
    remarks = sum(level in ("warning", "fail") for level in done)
    return [
        Line("Videos", f"{len(done)} analysed, {len(study.videos) - len(done)} failed"),
        Line("Videos to check", f"{remarks}" if remarks else "none"),
        Line("Batches", count(len(study.batches))),
        Line("Samples", count(len(study.samples))),
        Line("Analysis finished", utc(run.text("finished_utc"))),
        Line("Software", f"exotrack {run.text('exotrack') or MISSING}"),
        Line("Protocol (SHA-256)", run.text("protocol_sha256") or MISSING),
    ]


def _headed(term: Term) -> str:
    label = term.label.removesuffix(" (median)")
    return f"{label}, {term.unit}" if term.unit else label


def _batch(study: Study, group: Group, n: int) -> BatchPart:
    meaning = WEIGHTINGS[group.weighting].meaning if group.weighting in WEIGHTINGS else ""
    return BatchPart(
        name=group.batch or MISSING,
        anchor=f"batch-{n + 1}",
        colour=PALETTE[n % len(PALETTE)],
        dash=DASHES[n // len(PALETTE) % len(DASHES)],
        basis=_basis(group),
        weighting=group_label(group),
        weighting_meaning=meaning,
        key_values=_key_values(group),
        lines=[*_metric_lines(group), *_plain_lines(group)],
        budget=[_budget(row) for row in group.budget],
        populations=[_population(row) for row in group.populations],
        quality=[Badge("warning", flag, "") for flag in group.quality],
        samples=[_sample(s) for s in study.samples if s.batch == group.batch],
    )


def _sample(group: Group) -> SampleRow:
    videos = count(group.counts.get("n_videos"))
    if group.counts.get("n_failed"):
        videos += f" ({group.counts['n_failed']} failed)"
    return SampleRow(
        sample=group.sample or MISSING,
        videos=videos,
        tracks=count(group.counts.get("n_tracks")),
        values=_key_values(group),
        quality=[Badge("warning", flag, "") for flag in group.quality],
    )


def _basis(group: Group) -> str:
    named = {"n_videos": "video", "n_tracks": "track", "n_particles": "particle"}
    stated = [(group.counts[name], word) for name, word in named.items() if name in group.counts]
    parts = [f"{count(n)} {word}{'' if n == 1 else 's'}" for n, word in stated]
    if group.counts.get("n_failed"):
        parts.append(f"{count(group.counts['n_failed'])} failed and left out")
    return ", ".join(parts) or f"number of videos and tracks {MISSING}"


def _key_values(group: Group) -> list[tuple[str, str]]:
    values = ((group.estimates.get(name, NO_INTERVAL), METRICS[name].unit) for name in KEY_METRICS)
    return [estimate_and_interval(value, unit) for value, unit in values]


def _metric_lines(group: Group) -> list[Line]:
    lines = []
    for name in [*METRICS, *(name for name in group.estimates if name not in METRICS)]:
        term = METRICS.get(name) or size_class(name)
        if term is None or (name in ONLY_IF_STATED and name not in group.estimates):
            continue
        value = estimate(group.estimates.get(name, NO_INTERVAL), term.unit)
        note = term.meaning
        if name == "concentration_per_ml" and value == MISSING:
            note += (
                "; it needs the calibrated depth of the observed volume (depth_um or depth_table in the sample sheet)"
            )
        lines.append(Line(term.label, value, note))
    return lines


def group_label(group: Group) -> str:
    """What is counted, and from which size on."""
    return weighting_label(group.weighting, group.plain.get("limit_nm", 0.0))


def _plain_lines(group: Group) -> list[Line]:
    lines = []
    for name, term in PLAIN.items():
        number = group.plain.get(name)
        if number is None or (name == "limit_nm" and number == 0.0):
            continue
        shown = count(number) if name.startswith("n_") else with_unit(significant(number), term.unit)
        if name == "n_modes" and "mode_stability" in group.plain:
            shown += f" ({100 * group.plain['mode_stability']:.0f}{SPACE}%)"
        lines.append(Line(term.label, f"≥ {shown}" if name == "limit_nm" else shown, term.meaning))
    return lines


def _budget(row: Mapping[str, str]) -> BudgetRow:
    source, unit = row.get("source", ""), row.get("unit", "")
    uncertainty, sensitivity, share, absolute = (
        number(row.get(name)) for name in (*("standard_uncertainty", "sensitivity"), *_CONTRIBUTIONS)
    )
    relative = unit == "relative"
    per = "%/%" if relative else f"%/{unit}"
    known = math.isfinite(uncertainty)
    return BudgetRow(
        source=SOURCES.get(source, source),
        uncertainty=with_unit(significant(uncertainty * (100 if relative else 1), 2), "%" if relative else unit)
        if known
        else "",
        sensitivity=with_unit(significant(sensitivity * (1 if relative else 100), 2), per) if known else "",
        contribution=f"{with_unit(significant(100 * share, 2), '%')} ({with_unit(significant(absolute, 2), 'nm')})",
        total=not known,
    )


def _population(row: Mapping[str, str]) -> list[str]:
    def cell(name: str, unit: str) -> str:
        return estimate(Estimate(*(number(row.get(f"{name}{end}")) for end in ("", "_lo", "_hi"))), unit)

    return [row.get("population", ""), cell("median_nm", "nm"), cell("gsd", ""), cell("fraction", "%")]


def _comparison(comparison: Comparison) -> ComparisonPart:
    distance = comparison.estimates.get("wasserstein_nm", NO_INTERVAL)
    null = comparison.estimates.get("wasserstein_null_nm", NO_INTERVAL).value
    verdict, reading = _reading(distance, null)
    if comparison.remark:
        reading = f"{comparison.remark[:1].upper()}{comparison.remark[1:]}."
    return ComparisonPart(
        batch_a=comparison.batch_a,
        batch_b=comparison.batch_b,
        distance=estimate(distance, "nm"),
        null_level=with_unit(significant(null, 2), "nm") if math.isfinite(null) else MISSING,
        d50_ratio=estimate(comparison.estimates.get("d50_ratio", NO_INTERVAL)),
        concentration_ratio=estimate(comparison.estimates.get("concentration_ratio", NO_INTERVAL)),
        verdict=verdict,
        reading=reading,
    )


def _reading(distance: Estimate, null: float) -> tuple[str, str]:
    if not (math.isfinite(distance.value) and math.isfinite(null)):
        return "Not judged", "Without the level that two samples of one batch reach, the distance cannot be judged."
    if distance.lo > null:
        return "Different", "The whole interval lies above the level that two samples of one batch reach by chance."
    if distance.value <= null:
        return "No difference seen", "The distance is no larger than two samples of one batch reach by chance."
    return (
        "Undecided",
        "The distance is above the level of chance, but its interval reaches into it: measure more videos.",
    )


def _seconds(study: Study) -> list[Line]:
    stages = study.run.section("seconds")
    known = ((stage, stages.number(stage)) for stage in stages.values)
    return [Line(str(stage), with_unit(significant(s), "s")) for stage, s in known if s is not None]
