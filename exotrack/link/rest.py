"""Spots at rest: what adheres to a wall or is part of it, while the liquid carries the particles along."""

from __future__ import annotations

import numpy as np

from exotrack.link.flow import Flow
from exotrack.link.material import Material
from exotrack.tables import I64, Mask

LAGS = (2, 4, 6, 8)
"""Frames before and behind, in which a spot at rest is found again at its place: few enough for the stage to stay."""
LEAST, SHARE = 3, 0.4
"""Times, and share of the times looked for, that it is."""
SAMPLED, NEGLIGIBLE = 8, 1e-3
"""Every how many frames are looked into first, and the share of spots below which that is enough."""
CARRIED = 4
"""Frames over which the flow carries away what is not at rest."""
NARROWEST, WIDEST = 0.5, 1.5
"""Limits of the radius of a place, px."""
ERRORS = 4.0
"""Radius of a place in standard errors of a position."""


def place_radius(error_px: float) -> float:
    """Radius of a place, px, for positions with this standard error per axis; NaN for an unknown one."""
    return float(np.clip(ERRORS * error_px, NARROWEST, WIDEST)) if error_px > 0.0 else NARROWEST


def recurring(material: Material, radius: float) -> Mask:
    """Which spots are found again at their place before and behind, as only slow or resting ones are.

    None where a sample of the frames has hardly any.
    """
    frames = np.arange(len(material.frames.sections))
    few = _recurring(material, frames[::SAMPLED], radius)
    if few.sum() * SAMPLED < NEGLIGIBLE * len(few):
        return np.zeros(len(few), bool)
    return _recurring(material, frames, radius)


def _recurring(material: Material, frames: I64, radius: float) -> Mask:
    """Which spots of some frames are found again at their place."""
    lags = np.array([sign * lag for lag in LAGS for sign in (1, -1)])
    offsets, sections = material.frames.offsets, material.frames.sections
    found = material.engine.recurrences(
        material.y, material.x, offsets, sections, frames, lags, radius=radius, least=LEAST
    )
    return np.asarray((found[:, 0] >= LEAST) & (found[:, 0] >= SHARE * found[:, 1]))


def beside_recurring(material: Material, recurs: Mask, successor: I64, radius: float) -> Mask:
    """Which spots are linked to a recurring one at their place: those that blink are missed by the lags."""
    beside = np.zeros(len(recurs), bool)
    source = np.flatnonzero(successor >= 0)
    target = successor[source]
    source, target = (rows[recurs[source] != recurs[target]] for rows in (source, target))
    near = np.hypot(material.y[target] - material.y[source], material.x[target] - material.x[source]) < radius
    beside[source[near]] = beside[target[near]] = True
    return beside


def at_rest(material: Material, recurs: Mask, flow: Flow, radius: float) -> Mask:
    """Which recurring spots are at rest: those that the flow would have carried away.

    Where it would not, a slow particle stays in place as well, and nothing is said to be at rest.
    """
    resting = np.zeros(len(recurs), bool)
    rows = np.flatnonzero(recurs) if flow.moved.any() else np.zeros(0, np.int64)
    if not len(rows):
        return resting
    frame, sections = material.frame[rows], material.frames.sections
    first = np.searchsorted(sections, sections[frame])
    last = np.searchsorted(sections, sections[frame], side="right") - 1
    for start, until in ((frame, last), (np.maximum(frame - CARRIED, first), frame)):
        y, x = flow.carry(material.y[rows], material.x[rows], start, CARRIED, until)
        carried = np.hypot(y - material.y[rows], x - material.x[rows])
        resting[rows[carried > 2.0 * radius]] = True
    return resting
