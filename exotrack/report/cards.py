"""One card per video: what was recorded, found and measured, and what is to be checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from exotrack.protocol import Protocol
from exotrack.report import charts
from exotrack.report.formatting import MISSING, SPACE, count, decimals, fixed, significant, with_unit
from exotrack.report.frame import FramePicture, frame_picture
from exotrack.report.read import Array, Facts, Video
from exotrack.report.wording import ACQUISITION, COUNTS, LEVELS, MEASURED, ONLY_IF_KNOWN, size_class, weighting_label
from exotrack.sizing import track_histogram
from exotrack.tables import ParticleFlag


@dataclass(frozen=True)
class Line:
    """A labelled value with an optional sentence on it."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Badge:
    """A quality flag: a level of `LEVELS`, a short name, and a sentence."""

    level: str
    name: str
    message: str


@dataclass(frozen=True)
class Origin:
    """A value of the recording and where it came from; `assumed` if nobody stated it for this video."""

    label: str
    value: str
    origin: str
    assumed: bool


@dataclass(frozen=True)
class Figure:
    """A small picture with its caption."""

    svg: str
    caption: str


@dataclass(frozen=True)
class VideoCard:
    """What the report says about one video."""

    video_id: str
    anchor: str
    file: str
    batch: str
    sample: str
    role: str
    level: str
    word: str
    reason: str | None
    """Why the video failed; None for one that was analysed."""
    badges: list[Badge]
    spots_per_frame: str
    tracks: str
    mislink_index: str
    counts: list[Line]
    measured: list[Line]
    acquisition: list[Origin]
    container: list[Line]
    sheet: list[Line]
    frame: Figure | None
    figures: list[Figure]


def video_card(video: Video, protocol: Facts, limits: tuple[float, float], anchor: str) -> VideoCard:
    """Put a video's facts into words and small figures; `limits` are the diameters in nm that its curve spans."""
    facts = video.facts
    particles = video.table("particles", ["n_frames", "n_steps", "snr", "flag", "diameter_nm"])
    badges, level = _badges(facts), level_of(video)
    mislinks = facts.number("linking", "mislink_index")
    return VideoCard(
        video_id=video.video_id,
        anchor=anchor,
        file=PurePath(facts.text("video") or MISSING).name,
        batch=facts.text("batch") or MISSING,
        sample=facts.text("sample") or MISSING,
        role=facts.text("role") or "sample",
        level=level,
        word=LEVELS[level],
        reason=video.reason,
        badges=badges,
        spots_per_frame=_shown(facts.number("counts", "spots_per_frame")),
        tracks=count(facts.number("counts", "tracks_used")),
        mislink_index=_shown(mislinks, digits=2),
        counts=_counts(facts),
        measured=_measured(facts, particles),
        acquisition=_acquisition(facts),
        container=_container(facts),
        sheet=_sheet(facts),
        frame=_frame(frame_picture(video)),
        figures=_figures(video, particles, protocol, limits),
    )


def level_of(video: Video) -> str:
    """The most serious level of a video's quality flags; "fail" for one that could not be analysed."""
    found = (badge.level for badge in _badges(video.facts))
    return "fail" if video.reason is not None else max(found, key=list(LEVELS).index, default="ok")


def _badges(facts: Facts) -> list[Badge]:
    badges = []
    for entry in facts.items("quality"):
        flag = Facts(entry if isinstance(entry, dict) else {"message": str(entry)})
        level = flag.text("level")
        name = (flag.text("code") or "remark").replace("_", " ").replace("-", " ")
        badges.append(Badge(level if level in LEVELS else "warning", name, flag.text("message") or ""))
    badges += [Badge("warning", "remark", str(text)) for text in facts.items("warnings")]
    return badges


def _counts(facts: Facts) -> list[Line]:
    values = {name: facts.number("counts", name) for name in COUNTS}
    return [
        Line(term.label, _shown(values[name]) if name == "spots_per_frame" else count(values[name]), term.meaning)
        for name, term in COUNTS.items()
    ]


def _measured(facts: Facts, particles: dict[str, Array] | None) -> list[Line]:
    numbers = {
        "noise": facts.number("noise_dn"),
        "spot_width": facts.number("spot_model", "sigma_px"),
        "threshold": facts.number("spot_model", "threshold"),
        "position_error": facts.number("motion", "localization_error_px"),
        "diffusion": facts.number("motion", "D_median_um2_s"),
        "diameter": facts.number("motion", "diameter_median_nm"),
        "anisotropy": facts.number("motion", "anisotropy"),
        "in_view": facts.number("counting", "particles_per_frame"),
        "limit": _half_signal(facts),
    }
    texts = {name: _shown(value, MEASURED[name].unit) for name, value in numbers.items()}
    if numbers["position_error"] == 0:
        texts["position_error"] = "not told from motion blur"
    saturated = facts.number("saturated_share")
    texts["saturated"] = _shown(None if saturated is None else 100 * saturated, "%", digits=2)
    mislinks = facts.number("linking", "mislink_index")
    texts["mislink_index"] = _shown(mislinks, digits=2)
    if mislinks is not None:
        texts["mislink_index"] += f" ({significant(50 * mislinks, 2)}{SPACE}% wrong)"
    texts["mislink_classes"] = _of_classes(facts.section("linking", "mislink_index_of_class")) or MISSING
    texts["flow"] = _flow(facts)
    texts |= _without_linking(facts)
    texts |= _of_particles(particles)
    return [Line(term.label, texts.get(name, MISSING), term.meaning) for name, term in MEASURED.items()]


def _half_signal(facts: Facts) -> float | None:
    """Integrated signal from which on half of the injected spots were found; None where that is not known."""
    mass, found = facts.numbers("detection", "mass"), facts.numbers("detection", "probability")
    if not len(mass) or not found.max() >= 0.5 or found[0] >= 0.5:
        return None
    return float(np.exp(np.interp(0.5, found, np.log(mass))))


def _without_linking(facts: Facts) -> dict[str, str]:
    """Results of DDM and PICCS with their standard errors."""
    found = {
        "ddm": ("ddm", "signal", "diameter_nm", "diameter_error_nm"),
        "ddm_frames": ("ddm", "frames", "diameter_nm", "diameter_error_nm"),
        "piccs": ("piccs", "diffusion_ratio", "diffusion_ratio_error"),
    }
    texts = {}
    for name, (*place, value, error) in found.items():
        number, uncertain = facts.number(*place, value), facts.number(*place, error)
        if number is not None and uncertain is not None and uncertain > 0:
            digits = decimals(uncertain)
            shown = f"{fixed(number, digits)} ± {fixed(uncertain, digits)}"
            texts[name] = with_unit(shown, MEASURED[name].unit)
    return texts


def _of_classes(numbers: Facts) -> str:
    """Numbers of size classes, each with the class."""
    terms = {name: size_class(name) for name in numbers.values}
    known = [(term.label, numbers.number(name)) for name, term in terms.items() if term is not None]
    return "; ".join(f"{label[0].lower()}{label[1:]}: {_shown(value, digits=2)}" for label, value in known)


def _of_particles(particles: dict[str, Array] | None) -> dict[str, str]:
    if particles is None or not len(particles["flag"]):
        return {}
    snr = particles["snr"][np.isfinite(particles["snr"])]
    flags = particles["flag"].astype(np.int64)
    return {
        "snr": _shown(float(np.median(snr)) if len(snr) else None),
        "stuck": count(int((flags & ParticleFlag.STUCK != 0).sum())),
        "unusual": count(int((flags & ParticleFlag.NOT_BROWNIAN != 0).sum())),
        "moving": count(int((flags & ParticleFlag.MOVING != 0).sum())),
    }


def _flow(facts: Facts) -> str:
    x, y = facts.number("linking", "flow_x_px_mean"), facts.number("linking", "flow_y_px_mean")
    if x is None or y is None:
        return MISSING
    return with_unit(f"x {x:+.2f}, y {y:+.2f}".replace("-", "−"), MEASURED["flow"].unit)


def _acquisition(facts: Facts) -> list[Origin]:
    stated = facts.section("acquisition")
    rows = []
    for name in [*ACQUISITION, *(name for name in stated.values if name not in ACQUISITION)]:
        term = ACQUISITION.get(name)
        value = stated.get(name, "value")
        if value is None and name in ONLY_IF_KNOWN:
            continue
        # The origin is what makes a value filable: a bare value without one says so.
        origin = stated.text(name, "origin") or MISSING
        number = stated.number(name, "value")
        shown = significant(number, 6) if number is not None else MISSING if value in (None, "") else _plain(value)
        known = shown != MISSING
        unit = term.unit if term and known and number is not None else ""
        shown = shown + unit if unit.startswith("-") else with_unit(shown, unit)
        rows.append(Origin(term.label if term else name, shown, origin if known else "", "default" in origin and known))
    return rows


def _container(facts: Facts) -> list[Line]:
    shape = facts.items("shape")
    lines = [Line("Frames, height, width", " × ".join(str(n) for n in shape)) if shape else Line("Shape", MISSING)]
    lines.append(Line("Pixel type", facts.text("dtype") or MISSING))
    known = facts.section("container").values
    return lines + [Line(_words(name), _plain(value)) for name, value in known.items() if value not in (None, "")]


def _sheet(facts: Facts) -> list[Line]:
    cells = facts.section("sheet").values
    hidden = {"video", "batch", "sample", "role", *ACQUISITION}
    return [Line(_words(k), _plain(v)) for k, v in cells.items() if k not in hidden and v not in (None, "")]


def _frame(picture: FramePicture | None) -> Figure | None:
    if picture is None:
        return None
    which = "A frame" if picture.frame is None else f"Frame {picture.frame}"
    caption = f"{which}, contrast stretched, with its {picture.found} spots: "
    caption += "solid circles belong to a track, dashed ones do not."
    if picture.drawn < picture.found:
        caption += f" Only the {picture.drawn} with the highest signal are circled."
    if picture.frame is None:
        caption = "A frame of the video, contrast stretched; which one, and so its spots, is not stated."
    return Figure(picture.svg, caption)


def _figures(
    video: Video, particles: dict[str, Array] | None, protocol: Facts, limits: tuple[float, float]
) -> list[Figure]:
    figures = []
    if video.curve is not None:
        label = weighting_label(video.curve.weighting, video.curve.limit_nm)
        caption = f"Sizes in this video alone, {label}, with the 95 % band."
        figures.append(Figure(charts.size_curve(video.curve, limits), caption))
    if particles is not None and len(particles["n_frames"]):
        least = protocol.number("size", "min_steps") or Protocol().size.min_steps
        stuck = particles["flag"].astype(np.int64) & ParticleFlag.STUCK != 0
        used = (particles["n_steps"] >= least) & ~stuck
        caption = "How long single particles were followed. Longer tracks give sharper sizes."
        figures.append(Figure(charts.track_lengths(particles["n_frames"], used), caption))
        single = track_histogram(particles["diameter_nm"], particles["n_steps"], stuck, charts.bins(limits))
        caption = f"Not a size distribution: {single.label}."
        figures.append(Figure(charts.single_tracks(single.edges_nm, single.count), caption))
    flow_y, flow_x = (video.facts.numbers("linking", f"flow_{axis}_px") for axis in "yx")
    if len(flow_y) and len(flow_x):
        figures.append(Figure(charts.flow(flow_y, flow_x), "Movement that all particles share, frame by frame."))
    return figures


def _shown(value: float | None, unit: str = "", *, digits: int = 3) -> str:
    return MISSING if value is None or not math.isfinite(value) else with_unit(significant(value, digits), unit)


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _plain(value: Any) -> str:
    if isinstance(value, Mapping) and "points" in value:  # a table of depths
        return "; ".join(f"{p['diameter_nm']:g} nm: {p['depth_um']:.3g} µm" for p in value["points"])
    if isinstance(value, list | tuple):
        return ", ".join(str(v) for v in value)
    return significant(value, 6) if isinstance(value, float) else str(value)
