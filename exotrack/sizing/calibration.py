"""Effective depth of an instrument from videos of particles of known size and concentration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from exotrack.depth import DepthPoint, DepthTable
from exotrack.errors import InputError
from exotrack.sizing.count import counted_share
from exotrack.sizing.rows import TrackRows
from exotrack.tables import F64

_LEAST_UM, _MOST_UM = 0.1, 1e4
_FEW = 10.0


@dataclass(frozen=True)
class BeadVideo:
    """A video of particles that are known."""

    name: str
    rows: TrackRows
    step_um: float
    """R.m.s. displacement per frame and axis of these particles, √(2DΔt)."""
    diameter_nm: float
    per_ml: float
    """Concentration before the dilution that the video states."""


def calibrate_depth(beads: Sequence[BeadVideo], reference_error: float, gap_frames: int) -> DepthTable:
    """Depth in which beads are seen, per bead size, as concentrations are computed with it.

    The depth h solves n = c·h·φ(h) for the density n of confirmed localizations of each video, with φ the share that
    is confirmed in a box of that depth. Counting with the table then makes the same errors as counting the beads did,
    as far as settings, brightness and speed are alike.

    Parameters
    ----------
    beads : sequence of BeadVideo
        All recorded with the settings that the table is for.
    reference_error : float
        Relative standard uncertainty of the stated concentrations.
    gap_frames : int
        Frames that a particle may be missing from within a track.

    Returns
    -------
    DepthTable
        One point per bead size, ordered by size: the mean over its videos, with its error from counting or from the
        spread of the videos, whichever is larger, and that of the reference. Brightness is that of the localizations.
        Blanks are not subtracted: beads are to be many more than what the diluent holds.

    Raises
    ------
    InputError
        Without beads, or if a video shows fewer than ten independent particles.
    """
    if not beads:
        raise InputError("no bead videos to calibrate with")
    for bead in beads:
        if bead.rows.count.independent < _FEW:
            raise InputError(
                f"{bead.name}: it shows {bead.rows.count.independent:.1f} independent particles, too few to calibrate "
                "with; record more fields, or dilute less"
            )
    points = []
    for diameter in sorted({bead.diameter_nm for bead in beads}):
        mine = [bead for bead in beads if bead.diameter_nm == diameter]
        depth = np.array([_depth_um(bead, gap_frames) for bead in mine])
        counting = 1.0 / np.sqrt(sum(bead.rows.count.independent for bead in mine))
        spread = float(np.std(depth, ddof=1) / np.mean(depth) / np.sqrt(len(depth))) if len(depth) > 1 else 0.0
        error = float(np.hypot(max(counting, spread), reference_error))
        points.append(DepthPoint(diameter, float(np.mean(depth)), error, _mass(mine)))
    return DepthTable(tuple(points))


def _depth_um(bead: BeadVideo, gap_frames: int) -> float:
    count = bead.rows.count
    per_um3 = bead.per_ml / count.dilution * 1e-12

    def excess(log_depth: float) -> float:
        depth = np.array([np.exp(log_depth)])
        share = counted_share(np.array([bead.step_um]), depth, count.side_um, count.shortest, gap_frames)
        return float(per_um3 * depth[0] * share[0] - count.confirmed_per_um2)

    low, high = np.log(_LEAST_UM), np.log(_MOST_UM)
    if not excess(low) < 0 < excess(high):
        raise InputError(
            f"{bead.name}: {count.particles_per_frame:.3g} particles per frame and {bead.per_ml:g} per ml (diluted "
            f"{count.dilution:g}-fold) give no depth between {_LEAST_UM:g} and {_MOST_UM:g} µm; check reference_per_ml "
            "and dilution"
        )
    return float(np.exp(optimize.brentq(excess, low, high, xtol=1e-6)))


def _mass(beads: Sequence[BeadVideo]) -> float | None:
    """Mean integrated signal of the localizations; None where it is not known."""
    mass: F64 = np.concatenate([bead.rows.mass for bead in beads])
    weight = np.concatenate([bead.rows.n_frames for bead in beads]).astype(np.float64)
    if not len(mass) or not np.isfinite(mass).all() or np.any(mass <= 0):
        return None
    return float(np.average(mass, weights=weight))
