"""Distances that a size distribution predicts between spots of nearby frames, and their fit to counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from exotrack.acquisition import Acquisition
from exotrack.crosscheck.crossings import Counts
from exotrack.errors import InputError
from exotrack.tables import F64

_STEPS: Final = 60
_MOST_STEP: Final = 0.3  # of each parameter; scoring from afar would overshoot
_SETTLED: Final = 1e-9
_LOG_SCALE: Final = (-3.0, 3.0)
_BLUR: Final = (-0.2, 0.4)
_USUAL_BLUR: Final = 1.0 / 12.0  # exposed for half the frame interval
_USUAL_SHARE: Final = 0.9


@dataclass(frozen=True)
class Fit:
    """What fits the counts best."""

    log_scale: float
    """Logarithm of the factor on all diffusion coefficients."""
    blur: float
    again: F64
    """Share that is found again, shape (n_lags,)."""
    density: float
    """Other spots per µm²."""

    @property
    def scale(self) -> float:
        """Factor on all diffusion coefficients."""
        return float(np.exp(self.log_scale))

    @property
    def inside(self) -> bool:
        """Whether the factor is within the range that is searched."""
        return _LOG_SCALE[0] < self.log_scale < _LOG_SCALE[1]

    def unknown(self) -> Fit:
        """The same without an answer."""
        return replace(self, log_scale=float("nan"), again=np.full_like(self.again, np.nan))


@dataclass(frozen=True)
class Displaced:
    """Displacements of a mixture of Brownian particles over a number of frames."""

    mean_square: F64
    """4 D Δt of each class, µm², shape (n_classes,)."""
    weight: F64
    """Share of each class; the sum is one."""
    error: float
    """4 σ², µm²."""
    blur: float | None
    """Motion-blur coefficient; None to fit it."""
    lags: F64
    """Frames, shape (n_lags,)."""

    @classmethod
    def of(
        cls,
        diameter_nm: npt.ArrayLike,
        share: npt.ArrayLike,
        acquisition: Acquisition,
        position_error_um: float,
        lags: Sequence[int],
    ) -> Displaced:
        """From a size distribution; raises InputError as `piccs`."""
        diameter, weight = np.atleast_1d(diameter_nm).astype(np.float64), np.atleast_1d(share).astype(np.float64)
        if diameter.ndim != 1 or diameter.shape != weight.shape or not np.all(diameter > 0):
            raise InputError(
                f"diameter_nm of shape {diameter.shape} and share of shape {weight.shape}: give one share per diameter "
                "above zero"
            )
        if not (np.all(weight >= 0) and 0 < weight.sum() < np.inf and np.all(np.isfinite(diameter))):
            raise InputError("share is negative, not finite or sums to zero; give the shares of a size distribution")
        if not (np.isfinite(position_error_um) and position_error_um >= 0.0):
            raise InputError(f"position_error_um = {position_error_um!r} is no standard deviation; give one ≥ 0")
        held = weight > 0
        diffusion = acquisition.stokes_einstein_um2_s_nm / diameter[held]
        return cls(
            mean_square=4.0 * diffusion * acquisition.frame_interval_s,
            weight=weight[held] / weight.sum(),
            error=4.0 * position_error_um**2,
            blur=None if acquisition.exposure_s is None else acquisition.blur,
            lags=np.array(lags, np.float64),
        )

    @property
    def step_um(self) -> float:
        """R.m.s. displacement over the longest lag, µm."""
        return float(np.sqrt(self.weight @ self.mean_square * self.lags[-1] + self.error))

    def expected(self, counts: Counts, fit: Fit) -> F64:
        """Spots within each radius of a spot after each lag, less other particles, shape (n_lags, n_radii)."""
        radius = counts.radius_um[1:]
        found = fit.again[:, None] * self._within(radius, fit, 0.0)[0]
        without: F64 = found - counts.hidden * self._within(radius, fit, _core_um2(counts))[0]
        return without

    def _within(self, radius_um: F64, fit: Fit, spread: float) -> tuple[F64, F64, F64]:
        """Share of the displacements over each lag below each radius, and its derivatives by ln s and R.

        `spread` is a mean squared distance that is added to all displacements, µm².
        """
        moved = fit.scale * self.mean_square * (self.lags - 2.0 * fit.blur)[:, None, None]
        variance = moved + self.error + spread
        ratio = radius_um[:, None] ** 2 / variance
        beyond = np.exp(-ratio)
        slope = -beyond * ratio / variance
        by_scale = (slope * moved) @ self.weight
        by_blur = (slope * (-2.0 * fit.scale * self.mean_square)) @ self.weight
        return (1.0 - beyond) @ self.weight, by_scale, by_blur

    def fit(self, counts: Counts, *, scaled: bool = True) -> Fit:
        """Most likely factor, shares found again and density for independent Poisson counts, by Fisher scoring.

        Parameters
        ----------
        counts : Counts
            Pairs of spots.
        scaled : bool
            Whether the factor is free; else it is 1.
        """
        fit = Fit(
            0.0, _USUAL_BLUR if self.blur is None else self.blur, np.full(len(self.lags), _USUAL_SHARE), counts.density
        )
        free = np.ones(3 + len(self.lags), bool)
        free[0], free[1] = scaled, self.blur is None
        for _ in range(_STEPS):
            score, information = self._score(counts, fit)
            step = np.zeros(len(free))
            scale = np.sqrt(np.maximum(np.diagonal(information)[free], 1e-300))
            unit = information[np.ix_(free, free)] / np.outer(scale, scale) + 1e-12 * np.eye(int(free.sum()))
            step[free] = np.linalg.solve(unit, score[free] / scale) / scale
            step[:-1] = np.clip(step[:-1], -_MOST_STEP, _MOST_STEP)
            fit = Fit(
                float(np.clip(fit.log_scale + step[0], *_LOG_SCALE)),
                float(np.clip(fit.blur + step[1], *_BLUR)) if self.blur is None else fit.blur,
                np.maximum(fit.again + step[2:-1], 0.0),
                max(fit.density + step[-1], 0.5 * fit.density),
            )
            if np.max(np.abs(step[:-1])) < _SETTLED:
                break
        return fit

    def _score(self, counts: Counts, fit: Fit) -> tuple[F64, F64]:
        """Gradient and Fisher matrix of the log-likelihood in ln s, R, all α and ρ."""
        rings = [np.diff(part, axis=1) for part in self._within(counts.radius_um, fit, 0.0)]
        hides = [np.diff(part, axis=1) for part in self._within(counts.radius_um, fit, _core_um2(counts))]
        n_lags, n_rings = rings[0].shape
        area = np.pi * np.diff(counts.radius_um**2)
        centres, again = counts.centres[:, None], fit.again[:, None]
        hidden = counts.hidden
        expected = np.maximum(centres * (again * rings[0] - hidden * hides[0] + fit.density * area), 1e-12)
        gradient = np.zeros((3 + n_lags, n_lags, n_rings))
        for row in (0, 1):
            gradient[row] = centres * (again * rings[1 + row] - hidden * hides[1 + row])
        gradient[2 + np.arange(n_lags), np.arange(n_lags)] = centres * rings[0]
        gradient[-1] = centres * area
        flat, mean = gradient.reshape(len(gradient), -1), expected.ravel()
        score = flat @ (counts.cross.ravel() / mean - 1.0)
        information = (flat / mean) @ flat.T
        # The spots of one frame tell of the density alone.
        score[-1] += counts.others / max(fit.density, 1e-12) - counts.others_um2
        information[-1, -1] += counts.others_um2 / max(fit.density, 1e-12)
        return score, information


def _core_um2(counts: Counts) -> float:
    """Mean squared distance from its centre of the disc in which a spot hides others, µm²."""
    return abs(counts.hidden) / (2.0 * np.pi * counts.density) if counts.density > 0 else 0.0
