"""Spots at rest: what adheres to a wall or is part of it, while the liquid carries the particles along."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from exotrack.link.flow import Flow
from exotrack.link.material import Material

LAGS = (8, 16, 24, 32)
"""Frames before and behind, in which a spot at rest is found again at its place."""
LEAST, SHARE = 3, 0.6
"""Times, and share of the times looked for, that it is."""
NARROWEST, WIDEST = 0.3, 1.0
"""Limits of the radius of a place, px."""
ERRORS = 4.0
"""Radius of a place in standard errors of a position."""

Mask = npt.NDArray[np.bool_]


def place_radius(error_px: float) -> float:
    """Radius of a place, px, for positions with this standard error per axis; NaN for an unknown one."""
    return float(np.clip(ERRORS * error_px, NARROWEST, WIDEST)) if error_px > 0.0 else NARROWEST


def recurring(material: Material, radius: float) -> Mask:
    """Which spots are found again at their place long before and behind, as a Brownian particle hardly ever is."""
    lags = np.array([sign * lag for lag in LAGS for sign in (1, -1)])
    found = material.engine.recurrences(
        material.y, material.x, material.frames.offsets, material.frames.sections, lags, radius=radius, least=LEAST
    )
    return np.asarray((found[:, 0] >= LEAST) & (found[:, 0] >= SHARE * found[:, 1]))


def at_rest(material: Material, recurs: Mask, flow: Flow, radius: float) -> Mask:
    """Which recurring spots are at rest: those that the flow would have carried away by the first lag.

    Without flow a slow particle may stay in place as well; it makes no difference there.
    """
    if not recurs.any() or not flow.moved.any():
        return np.zeros(len(recurs), bool)
    rows = np.flatnonzero(recurs)
    gone = np.zeros(len(rows), bool)
    for start in (material.frame[rows], np.maximum(material.frame[rows] - LAGS[0], 0)):
        y, x = flow.carry(material.y[rows], material.x[rows], start, LAGS[0])
        gone |= np.hypot(y - material.y[rows], x - material.x[rows]) > 2.0 * radius
    resting = np.zeros(len(recurs), bool)
    resting[rows[gone]] = True
    return resting
