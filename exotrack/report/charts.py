"""Small static charts as SVG text: one for each fact of a video, light enough for hundreds of videos in one page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

import numpy as np

from exotrack.report.formatting import significant
from exotrack.report.read import Array, Curve, Floats

WIDTH, HEIGHT = 300, 170
LEFT, RIGHT, TOP, BOTTOM = 42, 10, 16, 36
INK, GRID = "#475569", "#e2e8f0"
BLUE, ORANGE, GREY = "#0072b2", "#c2410c", "#b6c0cc"

# Bins that widen with length: most tracks are short, a few are a thousand times longer.
_LENGTH_EDGES = (2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 130, 160, 200, 320, 500, 1000)
_POINTS = 240


HEADROOM = 1.6
"""Height of a chart of densities over its highest curve: a band of narrow solutions would flatten the curves."""


@dataclass(frozen=True)
class Axis:
    """A linear axis: values from `lo` to `hi` lie between the positions `start` and `end` of the drawing."""

    lo: float
    hi: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Position of a value."""
        return self.start + (value - self.lo) / (self.hi - self.lo) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Two to six round values within the axis."""
        rough = (self.hi - self.lo) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
        first, last = math.ceil(self.lo / step - 1e-9), math.floor(self.hi / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


def track_lengths(n_frames: Array, used: Array) -> str:
    """Histogram of track lengths; tracks that sizing leaves out are grey, stacked on the used ones.

    Parameters
    ----------
    n_frames : ndarray, int
        Localizations in each track; not empty.
    used : ndarray, bool
        Whether the track enters the size distribution.
    """
    longest = int(n_frames.max())
    edges = [e for e in _LENGTH_EDGES if e <= longest] + [longest + 1]
    kept, every = (np.histogram(lengths, edges)[0].tolist() for lengths in (n_frames[used], n_frames))
    y = _vertical(0, max(1, *every))
    x = _horizontal(0, len(every))
    parts = [_legend(["used for sizing", "too short or stuck"], [BLUE, GREY])]
    labelled = math.ceil(len(every) / 9)
    for i, (n_used, n_all) in enumerate(zip(kept, every, strict=True)):
        span = f"{edges[i]}" if edges[i + 1] - edges[i] == 1 else f"{edges[i]}–{edges[i + 1] - 1}"
        bars = _bar(x, i, y.at(n_all), y.at(n_used), GREY) + _bar(x, i, y.at(n_used), y.at(0), BLUE)
        parts.append(f"<g><title>{span} frames: {n_used} used of {n_all}</title>{bars}</g>")
        if i % labelled == 0:
            parts.append(_text(x.at(i + 0.5), y.start + 12, str(edges[i]), anchor="middle"))
    return _chart(parts, y, "track length, frames", "tracks")


def bins(limits: tuple[float, float]) -> Floats:
    """Thirty bins between two diameters, equal in ln d."""
    return np.geomspace(max(limits[0], 1.0), limits[1], 31)


def single_tracks(edges_nm: Floats, counts: Array) -> str:
    """Histogram of the diameters of single tracks, in bins of their own widths."""
    density = counts / np.diff(edges_nm)
    y, x = _vertical(0, float(density.max(initial=0.0)) or 1.0), _horizontal(float(edges_nm[0]), float(edges_nm[-1]))
    bars = []
    for low, high, value, n in zip(edges_nm, edges_nm[1:], density, counts, strict=False):
        left, top = x.at(low), y.at(value)
        place = f'x="{left:.1f}" y="{top:.1f}" width="{x.at(high) - left:.1f}" height="{y.start - top:.1f}"'
        bars.append(f'<g><title>{low:.0f}–{high:.0f} nm: {n}</title><rect {place} fill="{GREY}"/></g>')
    return _chart([*bars, *_labels(x, y)], y, "diameter of single tracks, nm", "tracks per nm")


def flow(flow_y: Floats, flow_x: Floats) -> str:
    """Collective displacement per frame along x and y against the frame, averaged over runs of frames."""
    series = [_averaged(flow_x), _averaged(flow_y)]
    values = np.concatenate([*series, [0.0]])
    lo, hi = float(np.nanmin(values)), float(np.nanmax(values))
    margin = max(0.05 * (hi - lo), 0.05)
    y = _vertical(lo - margin, hi + margin)
    parts = [_legend(["along x", "along y"], [BLUE, ORANGE])]
    for line, colour in zip(series, (BLUE, ORANGE), strict=True):
        x = _horizontal(0, max(len(line), 1))
        parts.append(_line([(x.at(i + 0.5), y.at(v)) for i, v in enumerate(line)], colour))
    frames = _horizontal(0, max(len(flow_x), len(flow_y), 1))
    return _chart([*parts, *_labels(frames, y)], y, "frame", "px per frame")


def size_curve(curve: Curve, limits: tuple[float, float]) -> str:
    """Size distribution of one video with its 95 % band, between the given diameters in nm."""
    shown = (curve.diameter_nm >= limits[0]) & (curve.diameter_nm <= limits[1])
    diameter = curve.diameter_nm[shown]
    density, lo, hi = (100 * np.nan_to_num(v[shown]) for v in (curve.density_per_nm, curve.lo, curve.hi))
    top = HEADROOM * max(density, default=0.0) or 1.0
    lo, hi = np.minimum(lo, top), np.minimum(hi, top)
    y = _vertical(0, top)
    x = _horizontal(*limits)
    rise = [(x.at(d), y.at(v)) for d, v in zip(diameter, hi, strict=True)]
    fall = [(x.at(d), y.at(v)) for d, v in zip(diameter, lo, strict=True)]
    middle = [(x.at(d), y.at(v)) for d, v in zip(diameter, density, strict=True)]
    band = f'<polygon points="{_points(rise + fall[::-1])}" fill="{BLUE}" fill-opacity="0.2"/>'
    return _chart([band, _line(middle, BLUE), *_labels(x, y)], y, "diameter, nm", "% per nm")


def _vertical(lo: float, hi: float) -> Axis:
    return Axis(lo, hi, HEIGHT - BOTTOM, TOP)


def _horizontal(lo: float, hi: float) -> Axis:
    return Axis(lo, hi, LEFT, WIDTH - RIGHT)


def _chart(parts: list[str], y: Axis, x_label: str, y_label: str) -> str:
    grid = []
    for tick in y.ticks():
        at = f"{y.at(tick):.1f}"
        colour = INK if tick == 0 else GRID
        grid.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}" stroke="{colour}"/>')
        grid.append(_text(LEFT - 4, y.at(tick) + 3, significant(tick), anchor="end"))
    grid.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, anchor="middle"))
    turned = _text(0, 0, y_label, anchor="middle")
    grid.append(f'<g transform="translate(10 {(y.start + y.end) / 2}) rotate(-90)">{turned}</g>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{escape(y_label)} against {escape(x_label)}" '
        f'font-family="DejaVu Sans, Arial, sans-serif" font-size="9">{"".join(grid)}{"".join(parts)}</svg>'
    )


def _labels(x: Axis, y: Axis) -> list[str]:
    return [_text(x.at(tick), y.start + 12, significant(tick), anchor="middle") for tick in x.ticks()]


def _legend(labels: list[str], colours: list[str]) -> str:
    parts, x = [], LEFT + 2.0
    for label, colour in zip(labels, colours, strict=True):
        parts.append(f'<rect x="{x}" y="3" width="8" height="8" fill="{colour}"/>{_text(x + 11, 10, label)}')
        x += 22 + 5.2 * len(label)
    return "".join(parts)


def _bar(x: Axis, i: int, top: float, bottom: float, colour: str) -> str:
    left, width = x.at(i) + 0.5, x.at(i + 1) - x.at(i) - 1
    return f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{bottom - top:.1f}" fill="{colour}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}">{escape(text)}</text>'


def _line(points: list[tuple[float, float]], colour: str) -> str:
    return f'<polyline points="{_points(points)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points if math.isfinite(x) and math.isfinite(y))


def _averaged(values: Floats) -> Floats:
    run = max(1, math.ceil(len(values) / _POINTS))
    starts = np.arange(0, len(values), run)
    if not len(starts):
        return np.empty(0)
    known = np.isfinite(values)
    n = np.add.reduceat(known.astype(np.float64), starts)
    total = np.add.reduceat(np.where(known, values, 0.0), starts)
    means: Floats = np.divide(total, n, out=np.full(len(starts), np.nan), where=n > 0)
    return means
