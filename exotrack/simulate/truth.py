"""What is true of a simulated video: positions per frame, particles, the size distribution, the concentration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from exotrack.simulate.specification import Component
from exotrack.tables import F32, F64, I32, I64, Table, column

LEAST_LOG_SD = 1e-6
"""Width given to equal particles, so that their distribution function can be inverted."""


@dataclass(frozen=True, eq=False)
class TruePositions(Table):
    """Particles that sent light into a frame and whose centre lies in it, ordered by frame, then y, then x.

    The bounds are those of an isolated spot of exactly this shape, motion blur included, on the background under it:
    Poisson noise, read noise and rounding; amplitude and background unknown, shape known.
    """

    frame: I32 = column("int32", "", "index of the frame, from 0")
    particle: I64 = column("int64", "", "index of the particle, as in TrueParticles")
    y: F64 = column("float64", "px", "row, mean over the exposure; 0 is the centre of the first pixel")
    x: F64 = column("float64", "px", "column, mean over the exposure; 0 is the centre of the first pixel")
    z_um: F64 = column("float64", "um", "height above the focal plane, mean over the exposure")
    mass: F32 = column("float32", "DN", "expected integrated signal of this exposure")
    snr: F32 = column("float32", "", "highest pixel of the expected spot over the background noise per pixel")
    y_crlb_px: F32 = column("float32", "px", "smallest possible s.d. of an unbiased estimate of y")
    x_crlb_px: F32 = column("float32", "px", "smallest possible s.d. of an unbiased estimate of x")
    in_focus: npt.NDArray[np.bool_] = column("bool", "", "got at least half of the light of the focal plane")


@dataclass(frozen=True, eq=False)
class TrueParticles(Table):
    """One row per particle of TruePositions, in the order of first appearance.

    A particle that wanders out of the simulated box is replaced by another of the same size at the opposite face, so
    equal sizes in several rows may go back to one sample of the size distribution.
    """

    particle: I64 = column("int64", "", "index of the particle, from 0")
    component: I32 = column("int32", "", "index of its population in Simulation.sizes")
    diameter_nm: F64 = column("float64", "nm", "hydrodynamic diameter")
    D_um2_s: F64 = column("float64", "um2/s", "diffusion coefficient (Stokes-Einstein)")
    mass: F32 = column("float32", "DN", "expected integrated signal in focus")


@dataclass(frozen=True)
class TrueSizes:
    """Number distribution of the diameters in the liquid: a mixture of log-normal components.

    Examples
    --------
    >>> sizes = TrueSizes((Component(diameter_nm=100.0, cv=0.3),))
    >>> round(sizes.d50_nm, 6), round(sizes.cv, 6)
    (100.0, 0.3)
    """

    components: tuple[Component, ...]

    @property
    def fractions(self) -> F64:
        """Share of each component by number; the sum is one."""
        fraction = np.array([c.fraction for c in self.components])
        return np.asarray(fraction / fraction.sum())

    @property
    def _log_median(self) -> F64:
        return np.log([c.diameter_nm for c in self.components])

    @property
    def _log_sd(self) -> F64:
        return np.maximum([c.log_sd for c in self.components], LEAST_LOG_SD)

    def cumulative(self, diameter_nm: npt.ArrayLike) -> F64:
        """Share of particles not larger than a diameter in nm > 0; any shape."""
        log_d = np.log(np.asarray(diameter_nm, np.float64))[..., None]
        return np.asarray(special.ndtr((log_d - self._log_median) / self._log_sd) @ self.fractions)

    def density_per_nm(self, diameter_nm: npt.ArrayLike) -> F64:
        """Share of particles per nm at a diameter in nm > 0; any shape."""
        d = np.asarray(diameter_nm, np.float64)[..., None]
        z = (np.log(d) - self._log_median) / self._log_sd
        return np.asarray(np.exp(-0.5 * z**2) / (np.sqrt(2.0 * np.pi) * self._log_sd * d) @ self.fractions)

    def quantile_nm(self, share: float) -> float:
        """Diameter that a share 0 < p < 1 of the particles does not exceed."""
        reach = 9.0 * self._log_sd
        low, high = float(np.min(self._log_median - reach)), float(np.max(self._log_median + reach))
        excess: Callable[[float], float] = lambda log_d: float(self.cumulative(np.exp(log_d))) - share  # noqa: E731
        return float(np.exp(optimize.brentq(excess, low, high, xtol=1e-13)))

    def draw(self, rng: np.random.Generator, n: int) -> tuple[I32, F64]:
        """Component and diameter in nm of n independent particles."""
        component = rng.choice(len(self.components), size=n, p=self.fractions)
        log_sd = np.array([c.log_sd for c in self.components])
        diameter = np.exp(self._log_median[component] + log_sd[component] * rng.standard_normal(n))
        return component.astype(np.int32), diameter

    @property
    def mean_nm(self) -> float:
        """Mean diameter."""
        return float(self.fractions @ np.exp(self._log_median + self._log_sd**2 / 2.0))

    @property
    def cv(self) -> float:
        """s.d. of the diameters over their mean."""
        second = float(self.fractions @ np.exp(2.0 * self._log_median + 2.0 * self._log_sd**2))
        return float(np.sqrt(max(second / self.mean_nm**2 - 1.0, 0.0)))

    @property
    def mode_nm(self) -> float:
        """Diameter of the highest density per nm."""
        around = np.linspace(-5.0, 5.0, 2001)
        grid = np.unique(np.exp(self._log_median[:, None] + self._log_sd[:, None] * around))
        top = int(np.clip(np.argmax(self.density_per_nm(grid)), 1, len(grid) - 2))
        found: Any = optimize.minimize_scalar(
            lambda d: -float(self.density_per_nm(d)), bounds=(grid[top - 1], grid[top + 1]), method="bounded"
        )
        return float(found.x)

    @property
    def d10_nm(self) -> float:
        """Diameter that 10 % of the particles do not exceed."""
        return self.quantile_nm(0.1)

    @property
    def d50_nm(self) -> float:
        """Median diameter."""
        return self.quantile_nm(0.5)

    @property
    def d90_nm(self) -> float:
        """Diameter that 90 % of the particles do not exceed."""
        return self.quantile_nm(0.9)

    @property
    def span(self) -> float:
        """(D90 − D10) / D50."""
        return (self.d90_nm - self.d10_nm) / self.d50_nm


@dataclass(frozen=True)
class Truth:
    """Everything that is true of one simulated video."""

    positions: TruePositions
    particles: TrueParticles
    sizes: TrueSizes
    concentration_per_ml: float
    """Particles per mL of the sample before its dilution."""
    stuck_yx_px: F64
    """Row and column of every stuck particle, shape (n, 2), px; they are in no table."""
