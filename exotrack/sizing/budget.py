"""Uncertainty budget of a diameter: what each source contributes, and the expanded uncertainty (GUM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from exotrack import physics
from exotrack.acquisition import Acquisition
from exotrack.protocol import Protocol

COVERAGE_FACTOR = 2.0
"""k of the expanded uncertainty."""


@dataclass(frozen=True)
class BudgetLine:
    """One source of uncertainty of a diameter."""

    source: str
    """"pixel_size", "temperature", "viscosity", "frame_interval", "localization_error", or "statistics"."""
    standard_uncertainty: float
    """Of the source, in `unit`."""
    unit: str
    """"K" or "relative"."""
    sensitivity: float
    """Relative change of the diameter per unit of the source."""

    @property
    def contribution(self) -> float:
        """Relative standard uncertainty of the diameter from this source."""
        return abs(self.sensitivity) * self.standard_uncertainty


def systematic_budget(
    acquisition: Acquisition, protocol: Protocol, *, noise_error: float = 0.0, noise_sensitivity: float = 0.0
) -> tuple[BudgetLine, ...]:
    """Sources that move all diameters of a video together.

    Parameters
    ----------
    acquisition : Acquisition
        How the video was recorded.
    protocol : Protocol
        Standard uncertainties of the conditions.
    noise_error : float
        Relative standard uncertainty of the localization variance.
    noise_sensitivity : float
        Relative change of a diameter per relative change of the localization variance; see `noise_sensitivity`.

    Notes
    -----
    From d = k_B T/(3πηD) and D ∝ pixel²/Δt: the pixel size enters squared. Temperature enters through T/η(T), about
    2.6 %/K in water at 25 °C, or through T alone where the viscosity is given. A temperature that nobody stated has an
    uncertainty of its own.

    References
    ----------
    JCGM 100:2008, Evaluation of measurement data: Guide to the expression of uncertainty in measurement (GUM).
    """
    said = protocol.conditions
    assumed = acquisition.origins.get("temperature_c") == "protocol default"
    per_kelvin = 1.0 / (acquisition.temperature_c + 273.15)
    if acquisition.viscosity_mpa_s is None:
        middle = float(np.clip(acquisition.temperature_c, -19.5, 109.5))
        cold, warm = (physics.water_viscosity_mpa_s(middle + half) for half in (-0.5, 0.5))
        per_kelvin += float(np.log(cold / warm))
    return (
        BudgetLine("pixel_size", said.pixel_size_relative, "relative", -2.0),
        BudgetLine("temperature", said.temperature_unknown_k if assumed else said.temperature_k, "K", per_kelvin),
        BudgetLine("viscosity", said.viscosity_relative, "relative", -1.0),
        BudgetLine("frame_interval", said.frame_interval_relative, "relative", 1.0),
        BudgetLine("localization_error", noise_error, "relative", noise_sensitivity),
    )


def noise_sensitivity(noise_ratio: float, blur: float) -> float:
    """Relative change of a diameter per relative change of the localization variance, for the likelihood of D.

    With known noise the likelihood blames a wrong noise on D at all frequencies: ∂ln D/∂ln σ² =
    −ε Σ (b/λ)(n/λ) / Σ (b/λ)², with the spectra b of diffusion and n of noise, λ = b + εn, per DΔt.

    Parameters
    ----------
    noise_ratio : float
        ε = σ²/(DΔt).
    blur : float
        Motion-blur coefficient R.

    Examples
    --------
    >>> round(noise_sensitivity(0.006, 0.1), 3), round(noise_sensitivity(0.2, 0.1), 2)
    (0.009, 0.21)
    """
    angle = np.pi * (np.arange(256) + 0.5) / 256
    by_diffusion = 2.0 * (1.0 - 2.0 * blur) + 4.0 * blur * np.cos(angle)
    by_noise = 2.0 * (1.0 - np.cos(angle))
    spectrum = by_diffusion + noise_ratio * by_noise
    return float(noise_ratio * np.sum(by_diffusion * by_noise / spectrum**2) / np.sum((by_diffusion / spectrum) ** 2))


def joined_budget(videos: Sequence[Sequence[BudgetLine]], statistics: float = 0.0) -> tuple[BudgetLine, ...]:
    """Budget of several videos together: root mean square per source, since one instrument errs the same way each time.

    Parameters
    ----------
    videos : sequence of budgets
        With the same sources in the same order.
    statistics : float
        Relative standard uncertainty from particles and videos; a line of its own.
    """
    lines = []
    for of_source in zip(*videos, strict=True):
        sensitivity = float(np.mean([line.sensitivity for line in of_source]))
        contribution = float(np.sqrt(np.mean([line.contribution**2 for line in of_source])))
        error = contribution / abs(sensitivity) if sensitivity else of_source[0].standard_uncertainty
        lines.append(replace(of_source[0], standard_uncertainty=error, sensitivity=sensitivity))
    if statistics:
        lines.append(BudgetLine("statistics", statistics, "relative", 1.0))
    return tuple(lines)


def combined(lines: Sequence[BudgetLine]) -> float:
    """Combined relative standard uncertainty."""
    return float(np.sqrt(sum(line.contribution**2 for line in lines)))
