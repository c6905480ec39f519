"""Size distributions for paper: SVG by Matplotlib with text as outlines, so that no font is needed to print it."""

from __future__ import annotations

import io
import warnings
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from exotrack.report.charts import HEADROOM
from exotrack.report.document import BatchPart, Document
from exotrack.report.read import Curve, Group, Study
from exotrack.report.wording import weighting_label

_INCH_MM = 25.4
_LEGEND_INSIDE = 5
_DASHES = {"solid": "-", "dash": "--", "dot": ":"}
_STYLE = {
    # A fixed salt and, in `_svg`, no date: equal curves give equal bytes.
    "svg.hashsalt": "exotrack",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    # A dollar sign in a name is a dollar sign.
    "text.parse_math": False,
}


def figures(study: Study, document: Document, limits: tuple[float, float]) -> dict[str, str]:
    """SVG of all batches ("overview") and of each batch (its anchor); batches without a curve have none."""
    parts = zip(document.batches, study.batches, strict=True)
    known = [(part, group.curve) for part, group in parts if group.curve is not None]
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes here; the tables spell it out.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        made = {"overview": _overview(known, limits)} if known else {}
        for part, curve in known:
            samples = [group for group in study.samples if group.batch == part.name]
            made[part.anchor] = _batch(part, curve, samples, limits)
    return made


def _overview(known: list[tuple[BatchPart, Curve]], limits: tuple[float, float]) -> str:
    figure, axes = _axes(limits, [curve for _, curve in known])
    for part, curve in known:
        _draw(axes, part, curve, f"batch {part.name} ({part.weighting})")
    return _svg(figure, axes)


def _batch(part: BatchPart, curve: Curve, samples: list[Group], limits: tuple[float, float]) -> str:
    figure, axes = _axes(limits, [curve])
    curves = [group.curve for group in samples if group.curve is not None]
    for n, one in enumerate(curves):
        # All samples share a colour, so the legend names them once.
        style = {"color": part.colour, "linewidth": 0.5, "alpha": 0.6, "label": "samples" if n == 0 else None}
        axes.plot(one.diameter_nm, 100 * one.density_per_nm, **style)
    _draw(axes, part, curve, f"batch {part.name}")
    return _svg(figure, axes)


def _axes(limits: tuple[float, float], curves: list[Curve]) -> tuple[Any, Any]:
    figure = Figure(figsize=(170 / _INCH_MM, 60 / _INCH_MM), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlim(*limits)
    axes.set_xlabel("hydrodynamic diameter, nm")
    labels = dict.fromkeys(weighting_label(curve.weighting, curve.limit_nm) for curve in curves)
    axes.set_ylabel(f"% of particles per nm\n({', '.join(labels)})")
    axes.grid(color="#e2e8f0", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _draw(axes: Any, part: BatchPart, curve: Curve, label: str) -> None:
    if np.isfinite(curve.lo).all() and np.isfinite(curve.hi).all():
        band = (100 * curve.lo, 100 * curve.hi)
        axes.fill_between(curve.diameter_nm, *band, color=part.colour, alpha=0.18, linewidth=0)
    style = {"color": part.colour, "linestyle": _DASHES[part.dash], "linewidth": 1.4, "label": label}
    axes.plot(curve.diameter_nm, 100 * curve.density_per_nm, **style)


def _svg(figure: Any, axes: Any) -> str:
    tops = [line.get_ydata().max() for line in axes.get_lines() if len(line.get_ydata())]
    axes.set_ylim(0, HEADROOM * max(tops, default=1.0))
    if len(axes.get_legend_handles_labels()[1]) > _LEGEND_INSIDE:
        figure.legend(frameon=False, loc="outside right upper", fontsize=6)
    else:
        axes.legend(frameon=False, loc="upper right")
    page = io.StringIO()
    figure.savefig(page, format="svg", metadata={"Date": None, "Creator": None})
    return page.getvalue()
