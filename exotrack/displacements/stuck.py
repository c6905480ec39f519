"""Tracks of particles that do not move beyond their localization error: dust, or adhered to a wall."""

from __future__ import annotations

import numpy as np

from exotrack.tables import F64, I64, Mask

_MIN_STEPS = 30  # at 10, 3 % of free particles without localization error pass for stuck, and D rises by 2 %
_RATIO = 0.8
_RESTING_SHARE = 0.25  # of the localizations of a track: those of a particle that blinks are not all recognized


def stuck_tracks(y: F64, x: F64, square: F64, offsets: I64, identity: I64, resting: Mask) -> Mask:
    """Which tracks do not move: by the spread of their places, alone or with the other pieces, or found at rest."""
    n = np.diff(offsets)
    of_row, of_step = np.repeat(np.arange(len(n)), n), np.repeat(np.arange(len(n)), n - 1)
    _, unit = np.unique(identity, return_inverse=True)
    whole = _spread_ratio(y, x, square, unit[of_row], unit[of_step])[unit]
    alone = _spread_ratio(y, x, square, of_row, of_step)
    at_rest = np.bincount(of_row, resting, len(n)) > _RESTING_SHARE * n
    return np.asarray((alone > _RATIO) | (whole > _RATIO) | at_rest)


def _spread_ratio(y: F64, x: F64, square: F64, of_row: I64, of_step: I64) -> F64:
    """Half the mean squared displacement over the variance of the places of each group; 0 for groups of few."""
    size = int(of_row.max(initial=-1)) + 1
    n, steps = np.bincount(of_row, minlength=size), np.bincount(of_step, minlength=size)
    variance = np.zeros(size)
    for axis in (y, x):
        mean = np.bincount(of_row, axis, size) / np.maximum(n, 1)
        variance += np.bincount(of_row, (axis - mean[of_row]) ** 2, size) / np.maximum(n, 1)
    half_step = 0.5 * np.bincount(of_step, square, size) / np.maximum(steps, 1)
    ratio: F64 = np.where(n > _MIN_STEPS, half_step / np.maximum(variance, 1e-300), 0.0)
    return ratio
