"""How much the two ends of a link look alike."""

from __future__ import annotations

import numpy as np

from exotrack.tables import F32, F64, I64

NORMAL = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
MOST_ALIKE = 0.99
"""Correlation that is believed at most."""
FEWEST_LINKS = 100
"""Links from which the correlation is learned."""


def compare_brightness(mass: F32, successor: I64) -> tuple[F64, float]:
    """Standardized logarithm of the brightness of each spot, and its correlation along links.

    Parameters
    ----------
    mass : float32 (n,)
        Integrated signal of each spot.
    successor : int64 (n,)
        Spot that each is linked to, or -1.

    Returns
    -------
    brightness : float64 (n,)
        NaN where the mass is not positive.
    correlation : float
        From 0, where the brightness tells nothing or the links are too few to say, to 0.99. Medians make it robust to
        links between different particles.
    """
    positive = mass > 0
    if not positive.any():
        return np.full(len(mass), np.nan), 0.0
    value = np.log(np.where(positive, mass, np.nan).astype(np.float64))
    middle = float(np.median(value[positive]))
    spread = NORMAL * float(np.median(np.abs(value[positive] - middle)))
    source = np.flatnonzero(successor >= 0)
    change = value[successor[source]] - value[source]
    change = change[np.isfinite(change)]
    if len(change) < FEWEST_LINKS or spread == 0.0:
        return np.full(len(mass), np.nan), 0.0
    within = NORMAL * float(np.median(np.abs(change)))
    correlation = float(np.clip(1.0 - 0.5 * (within / spread) ** 2, 0.0, MOST_ALIKE))
    return (value - middle) / spread, correlation
