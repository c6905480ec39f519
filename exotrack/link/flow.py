"""The collective displacement of all spots from frame to frame: pump, drift, convection."""

from __future__ import annotations

from typing import Any

import numpy as np

from exotrack.link.frames import Frames
from exotrack.tables import F64, I64

REACH = 3.0
"""Largest flow that is looked for, in gates of the fastest particle."""
BINS = 48
"""Bins of displacement along an axis over twice that reach: eight per gate."""
BOXES = (1, 2, 4, 8)
"""Sides, in bins, of the boxes that are searched for an excess: from slow to the fastest particles."""
SPOTS = 150
"""Spots that a vote should hear …"""
FRAMES = (4, 16)
"""… and the limits of the number of frame pairs pooled for it."""
FALSE_FLOW = 1e-3
"""Probability that a vote finds an excess where there is none."""

HALF_WINDOWS = (32, 16, 8, 4, 2, 1, 0)
"""Frame pairs before and after each over which the flow may be averaged, apart from all of them."""
GAIN = 6.0
"""Log-likelihood of unseen links that a more flexible flow must gain over a stiffer one."""


def vote(y: F64, x: F64, frames: Frames, *, gate: float, extent: tuple[float, float], backend: Any) -> F64:
    """Flow before anything is linked: the most frequent displacement between spots of consecutive frames.

    In windows of a few frames, all displacements are counted in two dimensions. Particles that move together
    pile up in one place over a plain of chance pairs; the box with the most surprising excess is the flow (a
    scan statistic: Kulldorff, Commun. Stat. Theory Methods 26, 1481 (1997), doi:10.1080/03610929708831995).
    Windows without a significant excess take the flow of their neighbours in time.

    Parameters
    ----------
    y, x : float64 (n,)
        Positions, px, ordered by frame.
    frames : Frames
        Rows of each frame.
    gate : float
        Largest Brownian displacement, px.
    extent : (float, float)
        Height and width of the field, px; a flow of half of it cannot be found.
    backend : module
        Where displacements are counted.

    Returns
    -------
    float64 (n_frames − 1, 2)
        Displacement along y and x, px; accurate to an eighth of the gate. Zero where no window has a vote.
    """
    flow = np.zeros((frames.n_steps, 2))
    first, pairs = frames.pairs(1)
    if len(first) == 0:
        return flow
    reach = min(REACH * gate, 0.5 * min(extent))
    length = int(np.clip(np.ceil(SPOTS / np.median(pairs[:, 1] - pairs[:, 0])), *FRAMES))
    section = frames.sections[first]
    windows = section * frames.n_steps + first // length  # none reaches over a cut
    at: list[float] = []
    votes: list[F64] = []
    where: list[int] = []
    for members in np.split(np.arange(len(first)), np.flatnonzero(np.diff(windows)) + 1):
        found = _excess(backend.displacement_histogram(y, x, pairs[members], reach=reach, bins=BINS), reach, extent)
        if found is not None:
            at.append(float(first[members].mean()))
            votes.append(found)
            where.append(section[members[0]])
    for number in np.unique(where):
        heard = np.flatnonzero(np.asarray(where) == number)
        steps = np.flatnonzero(frames.sections[:-1] == number)
        for axis in range(2):
            flow[steps, axis] = np.interp(steps, np.take(at, heard), np.stack(votes)[heard, axis])
    return flow


def _excess(counts: I64, reach: float, extent: tuple[float, float]) -> F64 | None:
    """Centre of the box of displacements with the most surprising count, or None if chance explains it."""
    centres = (np.arange(BINS) + 0.5) * (2.0 * reach / BINS) - reach
    chance = np.outer(extent[0] - np.abs(centres), extent[1] - np.abs(centres))
    chance /= chance.sum()
    total = counts.sum()
    best, surprise, tried = None, 0.0, 0
    for side in BOXES:
        inside, share = _box_sums(counts, side), _box_sums(chance, side)
        expected = (total - inside + 1.0) * share / (1.0 - share)
        excess = np.where(inside > expected, inside * np.log(np.maximum(inside, 1) / expected) - inside + expected, 0.0)
        tried += excess.size
        if excess.max() > surprise:
            surprise = float(excess.max())
            row, col = np.unravel_index(np.argmax(excess), excess.shape)
            best = np.s_[row : row + side], np.s_[col : col + side]
    if best is None or surprise < np.log(tried / FALSE_FLOW):
        return None
    box = counts[best]
    moved: F64 = np.array([box.sum(axis=1) @ centres[best[0]], box.sum(axis=0) @ centres[best[1]]]) / box.sum()
    return moved


def _box_sums(values: F64 | I64, side: int) -> F64:
    """Sums over all square boxes of `side` bins."""
    corner = np.zeros((BINS + 1, BINS + 1))
    corner[1:, 1:] = values.cumsum(axis=0).cumsum(axis=1)
    return corner[side:, side:] - corner[:-side, side:] - corner[side:, :-side] + corner[:-side, :-side]


def refine(step: I64, displacement: F64, precision: F64, sections: I64) -> F64:
    """Flow from links: their weighted mean displacement over as many frames as the video allows.

    The window is chosen by how well one half of the links predicts the other: no flow at all, a constant one, or
    means over ever fewer frames. So a still video has a flow of exactly zero, and shaking is followed frame by
    frame where there are enough particles to see it.

    Parameters
    ----------
    step : int64 (n_links,)
        Frame in which each link begins.
    displacement : float64 (n_links, 2)
        Displacement along y and x, px.
    precision : float64 (n_links,)
        Weight of each link, px⁻²: `Steps.precision`, with which the mean is that of maximum likelihood.
    sections : int64 (n_frames − 1,)
        Section of each frame in which a link may begin; averages do not reach over its ends.

    Returns
    -------
    float64 (n_frames − 1, 2)
        Displacement along y and x, px.
    """
    n_steps = len(sections)
    half = np.arange(len(step)) % 2
    weight = np.zeros((2, n_steps))
    moved = np.zeros((2, n_steps, 2))
    np.add.at(weight, (half, step), precision)
    np.add.at(moved, (half, step), precision[:, None] * displacement)
    best, score = None, 0.0
    for half_window in (n_steps, *HALF_WINDOWS):
        gain = 0.0
        for known, unseen in ((0, 1), (1, 0)):
            mean = _running_mean(moved[known], weight[known], sections, half_window)
            gain += np.sum(2.0 * mean * moved[unseen]) - np.sum(mean**2 * weight[unseen][:, None])
        if gain > score + GAIN:
            best, score = half_window, gain
    if best is None:
        return np.zeros((n_steps, 2))
    return _running_mean(moved.sum(axis=0), weight.sum(axis=0), sections, best)


def _running_mean(moved: F64, weight: F64, sections: I64, half_window: int) -> F64:
    """Weighted mean over the steps around each, within its section; that of the section where there is no link."""
    step = np.arange(len(sections))
    start = np.searchsorted(sections, sections)
    stop = np.searchsorted(sections, sections, side="right")
    first, last = np.maximum(step - half_window, start), np.minimum(step + half_window + 1, stop)
    total = np.concatenate([np.zeros((1, 3)), np.cumsum(np.column_stack([moved, weight]), axis=0)])
    local, whole = total[last] - total[first], total[stop] - total[start]
    # Differences of running sums leave a rounding error where there is no link.
    known = np.where(local[:, 2:] > 1e-9 * whole[:, 2:], local, whole)
    mean: F64 = known[:, :2] / np.where(known[:, 2:] > 0.0, known[:, 2:], 1.0)
    return mean
