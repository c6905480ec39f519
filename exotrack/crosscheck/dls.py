"""What a dynamic light scattering instrument would read of a size distribution by number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from exotrack.errors import InputError
from exotrack.tables import F64, Estimate


@dataclass(frozen=True)
class Dls:
    """Predicted cumulant results with 95 % intervals from the replicates; NaN intervals without replicates."""

    z_average_nm: Estimate
    """Diameter of the intensity-weighted mean diffusion coefficient."""
    pdi: Estimate
    """Polydispersity index: relative variance of the decay rate, weighted by intensity."""
    statement: str
    """The weighting in words."""


def dls(
    diameter_nm: npt.ArrayLike,
    share: npt.ArrayLike,
    replicates: npt.ArrayLike | None = None,
    *,
    form: Literal["sphere", "rayleigh"] = "sphere",
    angle_deg: float = 173.0,
    wavelength_nm: float = 633.0,
    refractive_index: float = 1.33,
) -> Dls:
    """Z-average and polydispersity index that follow from a number distribution.

    A particle scatters as d⁶, times P(qd/2) for a sphere that is not small beside the wavelength: a few large ones
    decide. Temperature and viscosity cancel.

    Parameters
    ----------
    diameter_nm, share : array, shape (n_classes,)
        Number distribution; shares need not sum to one.
    replicates : array, shape (n_replicates, n_classes), optional
        Bootstrap replicates of the shares, as in `SizeDistribution`.
    form : {"sphere", "rayleigh"}
        Form factor of Rayleigh–Gans–Debye spheres, P(u) = [3 (sin u − u cos u)/u³]², or none.
    angle_deg, wavelength_nm, refractive_index : float
        Scattering angle, vacuum wavelength and refractive index of the liquid, for q = 4πn sin(θ/2)/λ.

    Returns
    -------
    Dls
        The interval is that of the replicates, widened where needed to hold the value.

    Raises
    ------
    InputError
        For shapes that do not agree, numbers that are negative or not finite, shares that are all zero.

    Notes
    -----
    For a log-normal number distribution and `form="rayleigh"`, z = d₅₀ exp(5.5 s²) and PDI = exp(s²) − 1, with the s.d.
    s of ln d.

    Spheres of uniform index much like that of water are a fair model of vesicles up to 150 nm or so; beyond, their
    shell matters. At 173° the form factor of a sphere has its first zero near 340 nm.

    Examples
    --------
    >>> predicted = dls([80.0, 200.0], [0.9, 0.1], form="rayleigh")
    >>> round(predicted.z_average_nm.value, 1), round(predicted.pdi.value, 3)
    (189.9, 0.07)
    """
    d, weight = np.asarray(diameter_nm, np.float64), np.asarray(share, np.float64)
    if d.ndim != 1 or d.shape != weight.shape or not np.all(np.isfinite(d) & (d > 0)):
        raise InputError(
            f"diameter_nm of shape {d.shape} and share of shape {weight.shape}: give one share per diameter above zero"
        )
    for name, value in (("wavelength_nm", wavelength_nm), ("refractive_index", refractive_index)):
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"{name} = {value!r} is not a positive number")
    if not 0.0 < angle_deg <= 180.0:
        raise InputError(f"angle_deg = {angle_deg!r}: give an angle between 0 and 180°")
    if form not in ("sphere", "rayleigh"):
        raise InputError(f"form = {form!r} is unknown; choose sphere or rayleigh")
    scattered = (d / d.max(initial=1.0)) ** 6
    if form == "sphere":
        wave_number = 4.0 * np.pi * refractive_index * np.sin(np.radians(angle_deg) / 2.0) / wavelength_nm
        scattered = scattered * form_factor(0.5 * wave_number * d)
    z, pdi = _cumulants(_rows("share", weight[None], len(d)), scattered, d)
    if replicates is None:
        z_bounds = pdi_bounds = np.full(2, np.nan)
    else:
        drawn = _cumulants(_rows("replicates", np.asarray(replicates, np.float64), len(d)), scattered, d)
        z_bounds, pdi_bounds = (np.quantile(values, [0.025, 0.975]) for values in drawn)
    factor = "d^6 times the form factor of a sphere" if form == "sphere" else "d^6"
    return Dls(
        z_average_nm=_estimate(float(z[0]), z_bounds),
        pdi=_estimate(float(pdi[0]), pdi_bounds),
        statement=f"Weighted with {factor} at {angle_deg:g} degrees and {wavelength_nm:g} nm; the number distribution "
        "itself is the better comparison.",
    )


def form_factor(u: F64) -> F64:
    """P(u) of a sphere of radius a at u = qa ≥ 0, any shape; P(0) = 1.

    References
    ----------
    Bohren & Huffman, Absorption and Scattering of Light by Small Particles, Wiley (1983), doi:10.1002/9783527618156.
    """
    small = u < 0.05  # sin u − u cos u cancels there; the series is good to 1e-9
    v = np.where(small, 1.0, u)
    exact = (3.0 * (np.sin(v) - v * np.cos(v)) / v**3) ** 2
    return np.where(small, 1.0 - u**2 / 5.0 + 3.0 * u**4 / 175.0, exact)


def _rows(name: str, shares: F64, n_classes: int) -> F64:
    if shares.ndim != 2 or shares.shape[1] != n_classes or len(shares) == 0:
        raise InputError(f"{name} of shape {shares.shape}: give one share for each of the {n_classes} diameters")
    if not (np.all(np.isfinite(shares)) and np.all(shares >= 0) and np.all(shares.sum(axis=1) > 0)):
        raise InputError(f"{name} is negative, not finite or all zero; give the shares of a size distribution")
    return shares


def _cumulants(shares: F64, scattered: F64, diameter: F64) -> tuple[F64, F64]:
    """Z-average and PDI of each row."""
    intensity = shares * scattered
    total, first, second = intensity.sum(axis=1), intensity @ (1.0 / diameter), intensity @ diameter**-2.0
    return total / first, second * total / first**2 - 1.0


def _estimate(value: float, bounds: F64) -> Estimate:
    lo, hi = float(bounds[0]), float(bounds[1])
    return Estimate(value, min(lo, value), max(hi, value)) if np.isfinite(lo) else Estimate(value, lo, hi)
