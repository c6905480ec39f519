"""Size distributions as Plotly figures: plain objects that the page hands to Plotly's script as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from exotrack.report.charts import HEADROOM
from exotrack.report.document import BatchPart, Document
from exotrack.report.read import Curve, Floats, Group, Study
from exotrack.report.wording import weighting_label

Figure = dict[str, Any]

_INK, _GRID = "#334155", "#e2e8f0"
_LEGEND_INSIDE = 5
"""A longer legend would cover the curves and stands beside the plot."""


def figures(study: Study, document: Document, limits: tuple[float, float]) -> dict[str, Figure]:
    """Figure of all batches ("overview") and of each batch (its anchor); batches without a curve have none."""
    parts = zip(document.batches, study.batches, strict=True)
    known = [(part, group.curve) for part, group in parts if group.curve is not None]
    made = {"overview": _overview(known, limits)} if known else {}
    for part, curve in known:
        samples = [group for group in study.samples if group.batch == part.name]
        made[part.anchor] = _batch(part, curve, samples, limits)
    return made


def _overview(known: list[tuple[BatchPart, Curve]], limits: tuple[float, float]) -> Figure:
    traces = []
    for part, curve in known:
        # Weightings may differ between batches, so each says its own.
        traces += _band(part, curve, f"{part.name} ({part.weighting})", crowded=len(known) > _LEGEND_INSIDE)
    weightings = dict.fromkeys(weighting_label(curve.weighting, curve.limit_nm) for _, curve in known)
    return _figure(traces, limits, ", ".join(weightings), beside=len(known) > _LEGEND_INSIDE)


def _batch(part: BatchPart, curve: Curve, samples: list[Group], limits: tuple[float, float]) -> Figure:
    lines: list[Figure] = []
    for group in samples:
        if group.curve is not None:
            line = _line(group.curve, part, f"sample {group.sample}", width=1.0)
            # One entry shows and hides all samples; each one's name appears at the pointer.
            line |= {"legendgroup": "samples", "showlegend": not lines, "opacity": 0.55}
            lines.append(line | {"name": "samples"})
    return _figure([*_band(part, curve, f"batch {part.name}", crowded=False), *lines], limits, part.weighting)


def _band(part: BatchPart, curve: Curve, name: str, *, crowded: bool) -> list[Figure]:
    edge = {
        "type": "scatter",
        "mode": "lines",
        "x": _short(curve.diameter_nm),
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": part.anchor,
    }
    # Bands of many batches on top of each other must leave the lines readable.
    filled = {"fill": "tonexty", "fillcolor": part.colour + ("1a" if crowded else "33")}
    lo, hi = edge | {"y": _short(100 * curve.lo)}, edge | filled | {"y": _short(100 * curve.hi)}
    return [lo, hi, _line(curve, part, name, width=2.5) | {"legendgroup": part.anchor}]


def _line(curve: Curve, part: BatchPart, name: str, *, width: float) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": _literal(name),
        "x": _short(curve.diameter_nm),
        "y": _short(100 * curve.density_per_nm),
        "line": {"color": part.colour, "width": width, "dash": part.dash},
        "hovertemplate": f"%{{x:.0f}} nm: %{{y:.3g}} % per nm<extra>{_literal(name)}</extra>",
    }


def _figure(traces: list[Figure], limits: tuple[float, float], weighting: str, *, beside: bool = False) -> Figure:
    axis = {"gridcolor": _GRID, "linecolor": _INK, "showline": True, "ticks": "outside", "zeroline": False}
    legend = {"x": 1.01, "xanchor": "left"} if beside else {"x": 1, "xanchor": "right"}
    layout = {
        "height": 420,
        "margin": {"l": 84, "r": 20, "t": 56, "b": 60},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, Arial, sans-serif", "color": _INK, "size": 13},
        "hovermode": "x",
        "showlegend": True,
        "legend": {**legend, "y": 1, "bgcolor": "rgba(255,255,255,0.75)"},
        "xaxis": {
            **axis,
            "title": {"text": "hydrodynamic diameter, nm"},
            "range": list(limits),
            "minor": {"ticks": "outside"},
        },
        "yaxis": {
            **axis,
            "title": {"text": f"% of particles per nm<br>({_literal(weighting)})"},
            # From the curves: a band of narrow solutions can be many times as high, and would flatten them.
            "range": [0.0, HEADROOM * max((max(t["y"], default=0.0) for t in traces if "name" in t), default=1.0)],
        },
        "updatemenus": [_axis_buttons(limits)],
    }
    return {"data": traces, "layout": layout}


def _axis_buttons(limits: tuple[float, float]) -> Figure:
    log_limits = np.log10([max(limits[0], 1.0), limits[1]]).tolist()
    linear = {"xaxis.type": "linear", "xaxis.range": list(limits)}
    return {
        "type": "buttons",
        "direction": "right",
        "x": 0,
        "xanchor": "left",
        "y": 1.03,
        "yanchor": "bottom",
        "showactive": True,
        "bgcolor": "#ffffff",
        "bordercolor": "#cbd5e1",
        "font": {"size": 12},
        "pad": {"t": 0, "b": 4},
        "buttons": [
            {"label": "linear", "method": "relayout", "args": [linear]},
            {"label": "logarithmic", "method": "relayout", "args": [{"xaxis.type": "log", "xaxis.range": log_limits}]},
        ],
    }


def _short(values: Floats) -> list[float | None]:
    """Five significant digits: finer than a screen, a third of the size."""
    return [float(f"{v:.5g}") if np.isfinite(v) else None for v in values]


def _literal(text: str) -> str:
    """Text that Plotly shows as it is: in names it reads some HTML, %{…}, and formulae between dollar signs."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("%{", "%\u200b{").replace("$", "$\u200b")
