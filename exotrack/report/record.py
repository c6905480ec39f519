"""What makes the report filable: the quality record with its gaps named, the settings, and where it all came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from exotrack.protocol import Protocol
from exotrack.report.cards import Line
from exotrack.report.formatting import MISSING, count, significant, size_of_file, utc, with_unit
from exotrack.report.read import Facts, Study, median_nm
from exotrack.report.wording import SHEET_TERMS

_LISTED = 6


@dataclass(frozen=True)
class RecordItem:
    """An item of the quality record; `value` is None where the folder does not state it."""

    group: str
    item: str
    value: str | None
    column: str
    """Column of the sample sheet that would state it, where there is one."""


@dataclass(frozen=True)
class Setting:
    """A setting of the protocol as run."""

    section: str
    name: str
    value: str
    changed: bool
    """Whether it differs from the default of this version."""
    meaning: str


@dataclass(frozen=True)
class InputFile:
    """An input of the run with its hash."""

    video_id: str
    file: str
    sha256: str
    size: str


def settings(protocol: Facts) -> list[Setting]:
    """Settings of protocol.toml in their order, with the meaning and default that this version knows of."""
    rows = []
    defaults = Protocol()
    for section, values in protocol.values.items():
        if not isinstance(values, dict):
            continue
        known = getattr(defaults, section, None)
        for name, value in values.items():
            field = type(known).model_fields.get(name) if known is not None else None
            default = known.model_dump(mode="json").get(name) if known is not None else None
            meaning = (field.description or "") if field else ""
            rows.append(Setting(section, name, _setting(value), value != default, meaning.replace("`", "")))
    return rows


def provenance(run: Facts) -> list[Line]:
    """Software, machine and times of the run."""
    machine = run.section("machine").values
    return [
        Line("Software", f"exotrack {run.text('exotrack') or MISSING}"),
        Line("Commit", run.text("commit") or MISSING),
        Line("Python", run.text("python") or MISSING),
        Line("Backend", run.text("backend") or MISSING),
        Line("Device", run.text("device") or MISSING),
        Line("Scheduler", run.text("scheduler") or MISSING),
        Line("Machine", ", ".join(f"{name}: {value}" for name, value in machine.items()) or MISSING),
        Line("Started", utc(run.text("started_utc"))),
        Line("Finished", utc(run.text("finished_utc"))),
        Line("Protocol (SHA-256)", run.text("protocol_sha256") or MISSING),
    ]


def inputs(study: Study) -> list[InputFile]:
    """Every input with its hash and size, failed ones included."""
    rows = []
    for video in study.videos:
        stated = study.run.section("inputs", video.video_id)
        rows.append(
            InputFile(
                video.video_id,
                stated.text("video") or video.facts.text("video") or MISSING,
                stated.text("sha256") or MISSING,
                size_of_file(stated.number("bytes")),
            )
        )
    return rows


def quality_record(study: Study) -> list[RecordItem]:
    """Items that a filed size measurement should state, in groups; those that the folder lacks have no value.

    What a sample sheet can state is looked up there under the name of `SHEET_TERMS`; further columns follow.
    """
    items = [*_identity(study), *_from_sheet(study), *_conditions(study), *_acquisition(study), *_recipe(study)]
    items += [*_suitability(study), *_precision(study)]
    items.append(RecordItem("Specification", "Acceptance criteria", None, ""))
    items += [RecordItem("Integrity", item, None, "") for item in ("Audit log", "Electronic signature")]
    items += _further_columns(study)
    order = list(dict.fromkeys(item.group for item in items))
    return sorted(items, key=lambda item: order.index(item.group))


def _identity(study: Study) -> Iterable[RecordItem]:
    yield RecordItem("Identity", "Batches", _joined(g.batch for g in study.batches), "")
    yield RecordItem("Identity", "Samples", _joined(f"{g.sample} ({g.batch})" for g in study.samples), "")
    yield RecordItem("Identity", "Procedure (protocol, SHA-256)", study.run.text("protocol_sha256"), "")


def _from_sheet(study: Study) -> Iterable[RecordItem]:
    rows = [video.facts.section("sheet") for video in study.videos]
    for column, (group, item) in SHEET_TERMS.items():
        yield RecordItem(group, item, _joined(row.text(column) for row in rows), column)


def _further_columns(study: Study) -> Iterable[RecordItem]:
    rows = [video.facts.section("sheet") for video in study.videos]
    # What videos state as acquisition stands under "Instrument" and "Conditions", with its origin.
    shown = {"video", "batch", "sample", "role", "fps", *SHEET_TERMS}
    shown |= {name for video in study.videos for name in video.facts.section("acquisition").values}
    for column in dict.fromkeys(name for row in rows for name in row.values):
        value = _joined(row.text(column) for row in rows)
        if column not in shown and value is not None:
            yield RecordItem("Further columns of the sample sheet", column, value, "")


def _conditions(study: Study) -> Iterable[RecordItem]:
    stated = [
        ("Instrument", "Pixel size, µm", "pixel_size_um"),
        ("Instrument", "Frame interval, s", "frame_interval_s"),
        ("Instrument", "Exposure, s", "exposure_s"),
        ("Conditions", "Temperature, °C", "temperature_c"),
        ("Conditions", "Viscosity, mPa·s", "viscosity_mpa_s"),
        ("Conditions", "Medium", "medium"),
        ("Conditions", "Dilution factor", "dilution"),
        ("Conditions", "Calibrated depth, µm", "depth_um"),
    ]
    for group, item, name in stated:
        texts = []
        for video in study.videos:
            value = video.facts.get("acquisition", name, "value")
            if value not in (None, ""):
                shown = significant(value, 6) if isinstance(value, int | float) else str(value)
                texts.append(f"{shown} ({video.facts.text('acquisition', name, 'origin') or f'origin {MISSING}'})")
        yield RecordItem(group, item, _joined(texts), name)


def _acquisition(study: Study) -> Iterable[RecordItem]:
    group = "Acquisition"
    hashed = sum(study.run.text("inputs", video.video_id, "sha256") is not None for video in study.videos)
    files = f"{count(hashed)} of {count(len(study.videos))}, listed under Provenance" if hashed else None
    yield RecordItem(group, "Input files with SHA-256", files, "")
    frames = [video.facts.number("counts", "frames") for video in study.videos]
    known = [n for n in frames if n is not None]
    yield RecordItem(group, "Frames analysed", count(sum(known)) if known else None, "")
    steps = [video.facts.number("acquisition", "frame_interval_s", "value") for video in study.videos]
    seconds = [n * s for n, s in zip(frames, steps, strict=True) if n is not None and s is not None]
    duration = with_unit(significant(sum(seconds), 4), "s") if seconds else None
    yield RecordItem(group, "Recorded time analysed", duration, "")
    excluded = [f"{video.video_id}: {video.reason}" for video in study.videos if video.reason is not None]
    yield RecordItem(group, "Videos excluded", "; ".join(excluded) or "none", "")


def _recipe(study: Study) -> Iterable[RecordItem]:
    group, run = "Analysis", study.run
    yield RecordItem(group, "Software version", run.text("exotrack"), "")
    yield RecordItem(group, "Source commit", run.text("commit"), "")
    yield RecordItem(group, "Backend and device", _joined([run.text("backend"), run.text("device")]), "")
    yield RecordItem(group, "Random seed", study.protocol.text("size", "seed"), "")
    yield RecordItem(
        group, "Analysis finished", utc(run.text("finished_utc")) if run.text("finished_utc") else None, ""
    )


def _suitability(study: Study) -> Iterable[RecordItem]:
    group = "System suitability"
    named = {role: [v for v in study.videos if v.facts.text("role") == role] for role in ("bead", "blank")}
    medians = [(v.video_id, median_nm(v.curve)) for v in named["bead"] if v.curve is not None]
    beads = [f"{name}: median {with_unit(significant(d), 'nm')}" for name, d in medians]
    yield RecordItem(group, "Reference beads", _joined(beads), "role")
    spots = [(v.video_id, v.facts.number("counts", "spots_per_frame")) for v in named["blank"]]
    blanks = [f"{name}: {significant(n)} spots per frame" for name, n in spots if n is not None]
    yield RecordItem(group, "Blank of the diluent", _joined(blanks), "role")


def _precision(study: Study) -> Iterable[RecordItem]:
    videos = [f"{g.batch}: {g.counts['n_videos']}" for g in study.batches if "n_videos" in g.counts]
    yield RecordItem("Precision", "Videos per batch", _joined(videos), "")
    yield RecordItem("Precision", "Variation between days and operators", None, "")


def _joined(texts: Iterable[str | None]) -> str | None:
    """Distinct texts in order, the first few of them; None if there is none."""
    distinct = list(dict.fromkeys(text for text in texts if text))
    if not distinct:
        return None
    more = len(distinct) - _LISTED
    return ", ".join(distinct[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _setting(value: Any) -> str:
    return ", ".join(f"{v:g}" for v in value) if isinstance(value, list) else str(value)
