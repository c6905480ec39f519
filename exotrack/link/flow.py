"""The collective displacement of all spots from frame to frame: pump, drift, convection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exotrack.backends.contract import Backend
from exotrack.link.frames import Frames, sample
from exotrack.link.material import Material
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
"""… the limits of the number of frame pairs from which they come …"""
MOST_SPOTS = 200
"""… and the number from which on it hears no more."""
FALSE_FLOW = 1e-3
"""Probability that a vote finds an excess where there is none."""

HALF_WINDOWS = (32, 16, 8, 4, 2, 1, 0)
"""Frame pairs before and after each over which the flow may be averaged, apart from all of them."""
GAIN = 6.0
"""Log-likelihood of unseen links that a more flexible flow must gain over a stiffer one."""


@dataclass(frozen=True)
class Flow:
    """Where the liquid carries a spot."""

    moved: F64
    """Displacement along y and x from each frame to the next at the centre of the field, px, (n_frames − 1, 2)."""
    gradient: F64
    """Its change per px along y and x (last axis), (n_frames − 1, 2, 2)."""
    centre: tuple[float, float]
    """Centre of the field, px."""

    @classmethod
    def none(cls, n_steps: int, centre: tuple[float, float]) -> Flow:
        """Liquid at rest in a field with some centre, px."""
        return cls(np.zeros((n_steps, 2)), np.zeros((n_steps, 2, 2)), centre)

    def carry(self, y: F64, x: F64, frame: I64, lag: int = 1, until: I64 | None = None) -> tuple[F64, F64]:
        """Expected positions, px, `lag` frames after `frame`; from the last frame on, or `until`, nothing moves."""
        if until is None:
            until = np.full(len(frame), len(self.moved))
        if not (self.moved.any() or self.gradient.any()):
            return y, x
        for later in range(lag):
            flows = frame + later < until
            step = np.where(flows, frame + later, 0)
            to_y, to_x = y + self.moved[step, 0] * flows, x + self.moved[step, 1] * flows
            if self.gradient.any():
                v, u = (y - self.centre[0]) * flows, (x - self.centre[1]) * flows
                to_y = to_y + self.gradient[step, 0, 0] * v + self.gradient[step, 0, 1] * u
                to_x = to_x + self.gradient[step, 1, 0] * v + self.gradient[step, 1, 1] * u
            y, x = to_y, to_x
        return y, x


def vote(y: F64, x: F64, frames: Frames, gate: float, material: Material) -> F64:
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
    material : Material
        Where displacements are counted, and how large the field is; a flow of half of it cannot be found.

    Returns
    -------
    float64 (n_frames − 1, 2)
        Displacement along y and x, px; accurate to an eighth of the gate, and zero where it is smaller than that or no
        window has a vote.
    """
    flow = np.zeros((frames.n_steps, 2))
    first, pairs = frames.pairs(1)
    if len(first) == 0:
        return flow
    backend, extent = material.engine, material.extent
    reach = min(REACH * gate, 0.5 * min(extent))
    length = int(np.clip(np.ceil(SPOTS / np.median(pairs[:, 1] - pairs[:, 0])), *FRAMES))
    section = frames.sections[first]
    windows = section * frames.n_steps + first // length  # none reaches over a cut
    at: list[float] = []
    votes: list[F64] = []
    where: list[int] = []
    for members in np.split(np.arange(len(first)), np.flatnonzero(np.diff(windows)) + 1):
        heard = members[sample(pairs[members], MOST_SPOTS)]
        counts = backend.displacement_histogram(y, x, pairs[heard], most=MOST_SPOTS, reach=reach, bins=BINS)
        found = _excess(counts, reach, extent, backend)
        if found is not None:
            at.append(float(first[heard].mean()))
            votes.append(found)
            where.append(section[members[0]])
    for number in np.unique(where):
        heard = np.flatnonzero(np.asarray(where) == number)
        steps = np.flatnonzero(frames.sections[:-1] == number)
        for axis in range(2):
            flow[steps, axis] = np.interp(steps, np.take(at, heard), np.stack(votes)[heard, axis])
    # Less than its accuracy is no flow, and links lean towards the flow they are made with.
    return np.asarray(flow * (np.hypot(flow[:, 0], flow[:, 1]) > 2.0 * reach / BINS)[:, None])


def _excess(counts: I64, reach: float, extent: tuple[float, float], backend: Backend) -> F64 | None:
    """Centre of the box of displacements with the most surprising count, or None if chance explains it."""
    centres = (np.arange(BINS) + 0.5) * (2.0 * reach / BINS) - reach
    chance = np.outer(extent[0] - np.abs(centres), extent[1] - np.abs(centres))
    surprise, row, column, side = backend.densest_box(counts, chance / chance.sum(), BOXES)
    tried = sum((BINS - side + 1) ** 2 for side in BOXES)
    if surprise < np.log(tried / FALSE_FLOW):
        return None
    along_y, along_x = np.s_[row : row + side], np.s_[column : column + side]
    box = counts[along_y, along_x]
    moved: F64 = np.array([box.sum(axis=1) @ centres[along_y], box.sum(axis=0) @ centres[along_x]]) / box.sum()
    return moved


def refine(matrix: F64, vector: F64, sections: I64, *, shortest: int = 1) -> F64:
    """Flow from links: least squares over as many frames as the video allows.

    The window is chosen by how well one half of the links predicts the other: no flow at all, a constant one, or
    means over ever fewer frames. So a still video has a flow of exactly zero, and shaking is followed frame by
    frame where there are enough particles to see it.

    Parameters
    ----------
    matrix : float64 (2, n_frames − 1, n_terms, n_terms)
        Normal equations of each half of the links in each frame: with one term the summed weight of the links. With
        weights of `Steps.precision`, the solution is that of maximum likelihood.
    vector : float64 (2, n_frames − 1, n_terms, 2)
        Their right-hand sides for displacements along y and x; with one term the weighted sum of the displacements.
    sections : int64 (n_frames − 1,)
        Section of each frame in which a link may begin; averages do not reach over its ends.
    shortest : int
        Frames that are averaged at least.

    Returns
    -------
    float64 (n_frames − 1, n_terms, 2)
        Coefficients of the terms; with one term the flow.
    """
    n_steps = len(sections)
    best, score = None, 0.0
    for half_window in (n_steps, *HALF_WINDOWS):
        if 2 * half_window + 1 < shortest:
            continue
        gain = 0.0
        for known, unseen in ((0, 1), (1, 0)):
            fit = _windowed(matrix[known], vector[known], sections, half_window)
            gain += float(np.sum(2.0 * fit * vector[unseen]) - np.sum(fit * (matrix[unseen] @ fit)))
        if gain > score + GAIN:
            best, score = half_window, gain
    if best is None:
        return np.zeros(vector.shape[1:])
    return _windowed(matrix.sum(axis=0), vector.sum(axis=0), sections, best)


def without_constant(matrix: F64, vector: F64) -> tuple[F64, F64]:
    """Normal equations of all terms but the first, whatever the first is in each frame.

    The mean of each frame takes one displacement from each half of its links; in return the flow may pulsate, and
    spots may lie anywhere in the field.
    """
    own = matrix[:, :, :1, :1]
    share = matrix[:, :, 1:, :1] / np.where(own > 0.0, own, 1.0)
    return matrix[:, :, 1:, 1:] - share @ matrix[:, :, :1, 1:], vector[:, :, 1:] - share @ vector[:, :, :1]


def _windowed(matrix: F64, vector: F64, sections: I64, half_window: int) -> F64:
    """Least squares over the steps around each, within its section; those of the section where there is no link."""
    n_steps, n_terms = vector.shape[:2]
    step = np.arange(n_steps)
    start = np.searchsorted(sections, sections)
    stop = np.searchsorted(sections, sections, side="right")
    first, last = np.maximum(step - half_window, start), np.minimum(step + half_window + 1, stop)
    total = np.zeros((n_steps + 1, n_terms, n_terms + 2))
    total[1:] = np.cumsum(np.concatenate([matrix, vector], axis=2), axis=0)
    local, whole = total[last] - total[first], total[stop] - total[start]
    # Differences of running sums leave a rounding error where there is no link.
    enough = np.diagonal(local, axis1=1, axis2=2).min(axis=1) > 1e-9 * np.diagonal(whole, axis1=1, axis2=2).max(axis=1)
    known = np.where(enough[:, None, None], local, whole)
    square, right = known[:, :, :n_terms], known[:, :, n_terms:]
    if n_terms == 1:
        return np.asarray(right / np.where(square > 0.0, square, 1.0))
    ridge = 1e-9 * np.trace(square, axis1=1, axis2=2) + np.finfo(float).tiny
    return np.asarray(np.linalg.solve(square + ridge[:, None, None] * np.eye(n_terms), right))
