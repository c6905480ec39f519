"""Brownian particles in a reservoir around the observed volume: where each one is during every exposure.

The particles fill a periodic box as a Poisson field, so the number in any volume is Poisson at all times and particles
enter and leave the observed volume by all its faces at the equilibrium rate, whatever the size of the box. What a
finite box distorts is the memory: a particle that left comes back too soon through the opposite face. A margin of
six r.m.s. steps of the fastest particles excludes this from one frame to the next; a margin of three r.m.s.
displacements over the whole video excludes it altogether. The second one stops growing at `MOST_DEPTHS` depths and
`MOST_FRAMES` frames, where less than one per cent of the particles in the box are in view and a return is as rare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from exotrack import physics
from exotrack.simulate.specification import Simulation
from exotrack.simulate.truth import TrueSizes

Floats = npt.NDArray[np.float64]

INSTANTS = 8
"""Positions per exposure that make up the image of a particle."""
STEP_REACH = 6.0
"""r.m.s. displacements that no particle exceeds in practice (two in 10⁹ do)."""
FASTEST_SHARE = 1e-3
"""Share of the particles, the smallest ones, that may be faster than the margin allows for."""
VIDEO_REACH = 3.0
"""r.m.s. displacements over the whole video by which the reservoir surrounds the observed volume."""
MOST_DEPTHS = 50.0
"""Depths beyond which the reservoir above and below is not extended."""
MOST_FRAMES = 1.0
"""Frame sides beyond which the reservoir beside the frame is not extended; ten times as many along a flow."""
SHEET_FLOOR = 1e-5
"""Share of the light of the focal plane below which a Gaussian sheet counts as dark."""
SPOT_REACH = 5.0
"""Widths (s.d.) of a spot beyond which it sends no light: 10⁻⁶ of it."""


def instants(spec: Simulation) -> Floats:
    """Times within a frame, s, at which a particle is drawn: evenly spaced, centred in the exposure.

    Their spacing makes the mean of |t − t'| over all pairs a third of the exposure, as for an open shutter. Because
    displacements between frames depend on the instants through this mean alone, motion blur has exactly the
    coefficient exposure / (6 × frame interval), and the spot exactly the mean spread, however few the instants.
    """
    spacing = spec.exposure_s * INSTANTS / (INSTANTS**2 - 1)
    centred = (np.arange(INSTANTS) - (INSTANTS - 1) / 2.0) * spacing
    return np.asarray(spec.exposure_s / 2.0 + centred)


def drift_um(spec: Simulation, time_s: Floats) -> Floats:
    """Displacement since time 0 that all particles share, µm, shape (*time, 2) as (y, x): flow and electric field."""
    seconds = time_s
    if spec.pulsation:
        omega = 2.0 * math.pi * spec.pulsation_hz
        seconds = time_s + spec.pulsation * (1.0 - np.cos(omega * time_s)) / omega
    along_field = time_s
    if spec.field_hz:
        half = 0.5 / spec.field_hz
        along_field = half - np.abs(np.mod(time_s, 2.0 * half) - half)
    electric = spec.mobility_um_cm_per_v_s * spec.field_v_per_cm * along_field
    return np.stack([spec.flow_y_um_s * seconds, spec.flow_x_um_s * seconds + electric], axis=-1)


def illumination(spec: Simulation, z_um: Floats) -> Floats:
    """Light at a height above the focal plane relative to that in it, shape as z."""
    if spec.profile == "slab":
        return (np.abs(z_um) <= spec.depth_um / 2.0).astype(np.float64)
    # depth is the full width at half maximum: exp(−2 z²/w²) with w = depth / sqrt(2 ln 2)
    light = np.exp(-4.0 * math.log(2.0) * (z_um / spec.depth_um) ** 2)
    return np.where(light >= SHEET_FLOOR, light, 0.0)


def lit_half_depth_um(spec: Simulation) -> float:
    """Height above the focal plane from which no light comes."""
    if spec.profile == "slab":
        return spec.depth_um / 2.0
    return spec.depth_um * math.sqrt(-math.log(SHEET_FLOOR) / (4.0 * math.log(2.0)))


def spot_sigma_px(spec: Simulation, z_um: Floats) -> Floats:
    """s.d. of the spot of a particle at a height above the focal plane, px, shape as z: that of a Gaussian beam."""
    if spec.defocus_um is None:
        return np.full_like(z_um, spec.sigma_px)
    return spec.sigma_px * np.sqrt(1.0 + (z_um / spec.defocus_um) ** 2)


@dataclass(frozen=True)
class Box:
    """Periodic box around the observed volume, µm, axes (z, y, x); the focal plane and the frame's corner are at 0."""

    low: Floats
    size: Floats

    @property
    def volume_um3(self) -> float:
        """Volume, µm³."""
        return float(np.prod(self.size))


def surround(spec: Simulation) -> Box:
    """The box for a specification; see the module's text for its margins."""
    constant = spec.acquisition.stokes_einstein_um2_s_nm
    sizes = TrueSizes(spec.sizes)
    fastest = constant / sizes.quantile_nm(FASTEST_SHARE)
    typical = constant / sizes.d50_nm
    duration = spec.n_frames * spec.frame_interval_s
    drift = drift_um(spec, spec.frame_interval_s * np.arange(spec.n_frames + 1, dtype=np.float64))
    step = STEP_REACH * math.sqrt(2.0 * fastest * spec.frame_interval_s)
    wander = VIDEO_REACH * math.sqrt(2.0 * typical * duration)

    half_depth = lit_half_depth_um(spec)
    depth = 2.0 * (half_depth + step + min(wander, MOST_DEPTHS * spec.depth_um))
    spot = SPOT_REACH * float(spot_sigma_px(spec, np.array(half_depth))) * spec.pixel_size_um
    frame = np.array(spec.frame_um)
    margin = spot + step + np.abs(np.diff(drift, axis=0)).max(axis=0) + np.minimum(wander, MOST_FRAMES * frame)
    fresh = np.minimum(np.ptp(drift, axis=0), 10.0 * MOST_FRAMES * frame)
    return Box(
        low=np.array([-depth / 2.0, *(-margin - fresh / 2.0)]),
        size=np.array([depth, *(frame + 2.0 * margin + fresh)]),
    )


@dataclass(frozen=True)
class Exposure:
    """The particles that may send light into one frame: their positions at the instants of the exposure."""

    rows: npt.NDArray[np.int64]
    """Rows of the population, shape (n,)."""
    position_um: Floats
    """Positions, µm, shape (n, INSTANTS, 3) as (z, y, x)."""


class Population:
    """All particles of the box, moved from frame to frame.

    Parameters
    ----------
    spec : Simulation
        What to simulate.
    rng : numpy.random.Generator
        Drawn from once per frame, in order; the same generator state gives the same paths.

    Attributes
    ----------
    component, diameter_nm, D_um2_s : array of shape (n,)
        What each particle is. Their number n is a Poisson variate.
    position_um : array of shape (n, 3)
        (z, y, x) at the first instant of the coming frame, µm.
    renewed : bool array of shape (n,)
        Whether a particle left the box after the last exposure, so that its row is now another particle.
    """

    def __init__(self, spec: Simulation, rng: np.random.Generator) -> None:
        self._spec = spec
        self._rng = rng
        self.box = surround(spec)
        n = int(rng.poisson(spec.number_per_um3 * self.box.volume_um3))
        self.component, self.diameter_nm = TrueSizes(spec.sizes).draw(rng, n)
        self.D_um2_s = physics.diameter_to_diffusion_um2_s(
            self.diameter_nm, spec.temperature_c, spec.acquisition.viscosity
        )
        self.position_um: Floats = self.box.low + self.box.size * rng.random((n, 3))
        self.renewed: npt.NDArray[np.bool_] = np.zeros(n, bool)
        self._frame = 0

    def expose(self) -> Exposure:
        """Record the next frame and move on to the first instant of the one after it."""
        spec = self._spec
        times = self._frame * spec.frame_interval_s + instants(spec)
        span = times[-1] - times[0]
        drift = drift_um(spec, np.append(times, times[0] + spec.frame_interval_s))
        drift = np.pad(drift - drift[0], ((0, 0), (1, 0)))  # nothing drifts along z

        rows = np.flatnonzero(self._near(span, np.abs(drift[:-1]).max(axis=0)))
        step_sd = np.sqrt(2.0 * self.D_um2_s[rows] * span / (INSTANTS - 1))
        steps = np.zeros((len(rows), INSTANTS, 3))
        steps[:, 1:] = step_sd[:, None, None] * self._rng.standard_normal((len(rows), INSTANTS - 1, 3))
        wandered = np.cumsum(steps, axis=1)
        exposure = Exposure(rows, self.position_um[rows, None, :] + wandered + drift[:-1])

        remaining = np.full(len(self.D_um2_s), spec.frame_interval_s)
        remaining[rows] -= span
        jump = np.sqrt(2.0 * self.D_um2_s * remaining)[:, None] * self._rng.standard_normal(self.position_um.shape)
        moved = self.position_um + jump + drift[-1]
        moved[rows] += wandered[:, -1]
        turns = np.floor((moved - self.box.low) / self.box.size)
        self.position_um = moved - turns * self.box.size
        self.renewed = turns.any(axis=1)
        self._frame += 1
        return exposure

    def _near(self, span_s: float, drift_um: Floats) -> npt.NDArray[np.bool_]:
        """Particles that can send light into the frame during an exposure."""
        spec = self._spec
        half_depth = lit_half_depth_um(spec)
        spot = SPOT_REACH * float(spot_sigma_px(spec, np.array(half_depth))) * spec.pixel_size_um
        reach = STEP_REACH * np.sqrt(2.0 * self.D_um2_s * span_s)
        z, y, x = self.position_um.T
        near: Any = np.abs(z) <= half_depth + reach
        for centre, side, drift in zip((y, x), spec.frame_um, drift_um[1:], strict=True):
            near &= np.abs(centre - side / 2.0) <= side / 2.0 + spot + reach + drift
        return np.asarray(near)
