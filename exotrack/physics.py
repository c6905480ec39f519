"""Pure formulae of Brownian motion and its imaging, each with its source. SI units inside, named units outside.

Lengths in µm, times in s, diffusion coefficients in µm²/s, diameters in nm, viscosities in mPa·s, temperatures in °C.
"""

from __future__ import annotations

from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

BOLTZMANN: Final = 1.380649e-23
"""Boltzmann constant, J/K (exact, SI 2019)."""

Floats = npt.NDArray[np.float64]
Real = TypeVar("Real", float, Floats)

MEDIA: Final[dict[str, float]] = {"water": 1.0, "pbs": 1.018, "pbs_0.1x": 1.002}
"""Viscosity relative to water. PBS: Jones–Dole coefficients of 0.15 M NaCl plus phosphate, ±0.005."""


def water_viscosity_mpa_s(temperature_c: float) -> float:
    """Dynamic viscosity of liquid water at 0.1 MPa, in mPa·s.

    Parameters
    ----------
    temperature_c : float
        Temperature in °C, between -20 and 110.

    Raises
    ------
    ValueError
        Outside the range of the correlation (253.15 K to 383.15 K).

    References
    ----------
    Pátek et al., J. Phys. Chem. Ref. Data 38, 21 (2009), doi:10.1063/1.3043575 (IAPWS R12-08 simplified form).

    Examples
    --------
    >>> round(water_viscosity_mpa_s(25.0), 4)
    0.89
    """
    kelvin = temperature_c + 273.15
    if not 253.15 <= kelvin <= 383.15:
        raise ValueError(
            f"temperature {temperature_c:g} °C is outside -20…110 °C, where the viscosity of water is known"
        )
    t = kelvin / 300.0
    viscosity: float = 1e-3 * (280.68 * t**-1.9 + 511.45 * t**-7.7 + 61.131 * t**-19.6 + 0.45903 * t**-40.0)
    return viscosity


def viscosity_mpa_s(medium: str, temperature_c: float) -> float:
    """Dynamic viscosity of a known medium in mPa·s: its ratio to water (`MEDIA`) times that of water.

    Raises
    ------
    ValueError
        Unknown medium, or a temperature outside the range of `water_viscosity_mpa_s`.

    Examples
    --------
    >>> round(viscosity_mpa_s("pbs", 25.0), 4)
    0.906
    """
    try:
        ratio = MEDIA[medium.strip().lower()]
    except KeyError:
        known = ", ".join(MEDIA)
        raise ValueError(f"medium {medium!r} is unknown (known: {known}); give viscosity_mpa_s instead") from None
    return ratio * water_viscosity_mpa_s(temperature_c)


def stokes_einstein_constant(temperature_c: float, viscosity: float) -> float:
    """Product D·d of a sphere in µm²/s·nm: k_B T / (3 π η).

    Parameters
    ----------
    temperature_c, viscosity : float
        Temperature in °C and dynamic viscosity in mPa·s.

    References
    ----------
    Einstein, Ann. Phys. 322, 549 (1905), doi:10.1002/andp.19053220806.

    Examples
    --------
    >>> round(stokes_einstein_constant(25.0, water_viscosity_mpa_s(25.0)), 1)
    490.7
    """
    return BOLTZMANN * (temperature_c + 273.15) / (3.0 * np.pi * viscosity * 1e-3) * 1e12 * 1e9


def diffusion_to_diameter_nm(diffusion: Real, temperature_c: float, viscosity: float) -> Real:
    """Hydrodynamic diameter in nm of a sphere with diffusion coefficient in µm²/s (Stokes–Einstein)."""
    return stokes_einstein_constant(temperature_c, viscosity) / diffusion


def diameter_to_diffusion_um2_s(diameter_nm: Real, temperature_c: float, viscosity: float) -> Real:
    """Diffusion coefficient in µm²/s of a sphere with hydrodynamic diameter in nm (Stokes–Einstein)."""
    return stokes_einstein_constant(temperature_c, viscosity) / diameter_nm


def motion_blur(exposure_s: float, frame_interval_s: float) -> float:
    """Motion-blur coefficient R of a uniform shutter: exposure / (6 × frame interval), between 0 and 1/6.

    References
    ----------
    Berglund, Phys. Rev. E 82, 011917 (2010), doi:10.1103/PhysRevE.82.011917.
    """
    return exposure_s / (6.0 * frame_interval_s)


def position_crlb_px(photons: Real, background: Real, sigma_px: float) -> Real:
    """Smallest possible s.d. of a position estimate, per axis, in pixels (Poisson noise, known width).

    Parameters
    ----------
    photons, background : float or array
        Photons in the spot and background photons per pixel.
    sigma_px : float
        s.d. of the Gaussian spot in pixels, before integration over the pixel.

    Notes
    -----
    Within 2 % of the numerical Cramér–Rao bound for σ of 1.2 to 1.8 px (checked in the tests).

    References
    ----------
    Rieger & Stallinga, ChemPhysChem 15, 664 (2014), doi:10.1002/cphc.201300711.
    """
    s2 = sigma_px**2 + 1.0 / 12.0
    tau = 2.0 * np.pi * s2 * background / photons
    variance = s2 / photons * (1.0 + 4.0 * tau + np.sqrt(2.0 * tau / (1.0 + 4.0 * tau)))
    result: Real = np.sqrt(variance)
    return result


def diffusion_crlb(n_steps: int, noise_ratio: float, blur: float, *, axes: int = 2, noise_known: bool = True) -> float:
    """Smallest possible relative s.d. of the diffusion coefficient estimated from one gap-free track.

    Parameters
    ----------
    n_steps : int
        Displacements in the track.
    noise_ratio : float
        σ²/(D·Δt): localization variance per axis over the mean squared step per axis and two.
    blur : float
        Motion-blur coefficient R.
    axes : int
        Observed axes.
    noise_known : bool
        Whether σ² is known or estimated from the same track.

    Notes
    -----
    The covariance of the displacements is tridiagonal Toeplitz; its eigenvalues are
    λ_k = C₁₁ + 2 C₁₂ cos(πk/(N+1)), and the Fisher matrix is I_ab = (m/2) Σ_k ∂_aλ_k ∂_bλ_k / λ_k².

    Examples
    --------
    >>> round(diffusion_crlb(20, 1.0, 0.0), 2)
    0.36
    """
    k = np.arange(1, n_steps + 1)
    cosine = np.cos(np.pi * k / (n_steps + 1))
    by_diffusion = 2.0 * (1.0 - 2.0 * blur) + 4.0 * blur * cosine  # per D·Δt
    by_noise = 2.0 - 2.0 * cosine  # per σ²
    eigenvalue = by_diffusion + noise_ratio * by_noise
    i_dd = axes / 2 * np.sum((by_diffusion / eigenvalue) ** 2)
    if noise_known:
        return float(1.0 / np.sqrt(i_dd))
    i_ds = axes / 2 * np.sum(by_diffusion * by_noise / eigenvalue**2)
    i_ss = axes / 2 * np.sum((by_noise / eigenvalue) ** 2)
    return float(np.sqrt(i_ss / (i_dd * i_ss - i_ds**2)))
