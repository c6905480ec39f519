"""What to simulate: sample, optics, flow, background and camera as one frozen, strictly validated value."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import numpy as np
import tomli_w
from pydantic import Field, model_validator

from exotrack import physics
from exotrack.acquisition import Acquisition
from exotrack.errors import InputError
from exotrack.protocol import Positive, Section

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]

PARTICLES_PER_FRAME = 60.0
"""Expected particles in focus per frame where neither a concentration nor a number is given."""
SNR = 10.0
"""Peak signal-to-noise ratio of the reference particle where neither it nor its photons are given."""
ALTERNATIVES = (("concentration_per_ml", "particles_per_frame"), ("snr", "photons"))
"""Settings that state the same thing in two ways; at most one of each pair may be given."""


class Component(Section):
    """A log-normal population of particles."""

    diameter_nm: Positive
    """Median hydrodynamic diameter, nm."""
    cv: Annotated[float, Field(ge=0, le=2)] = 0.05
    """s.d. of the diameters over their mean; 0 makes all particles equal. ln d has the s.d. sqrt(ln(1 + cv²))."""
    fraction: Positive = 1.0
    """Share of the number of particles; the fractions of all components are scaled to a sum of one."""

    @property
    def log_sd(self) -> float:
        """s.d. of ln d: the logarithm of the geometric standard deviation."""
        return math.sqrt(math.log1p(self.cv**2))


class Simulation(Section):
    """One video of Brownian particles: everything that decides its pixels.

    Raises
    ------
    InputError
        Through `from_dict`: unknown settings, wrong types, values out of range, both settings of a pair that states
        the same thing (`ALTERNATIVES`), an exposure longer than the frame interval, an unknown medium.

    Examples
    --------
    >>> simulation = Simulation(sizes=[{"diameter_nm": 100, "cv": 0.04}], particles_per_frame=60)
    >>> round(simulation.concentration / 1e8, 2)
    2.17
    """

    frame_shape: tuple[Annotated[int, Field(ge=8)], Annotated[int, Field(ge=8)]] = Field(
        default=(480, 640), strict=False
    )
    """Height and width of a frame, px."""
    n_frames: Annotated[int, Field(ge=1)] = 300
    """Frames of the video."""
    pixel_size_um: Positive = 0.3
    """Side of a pixel in the sample, µm."""
    frame_interval_s: Positive = 1 / 30
    """Time from the start of one frame to the start of the next, s."""
    exposure_s: Positive = 0.02
    """Time the shutter is open per frame, s."""
    temperature_c: float = 25.0
    """Temperature of the sample, °C."""
    medium: str = "water"
    """Suspending medium, one of `physics.MEDIA`."""
    viscosity_mpa_s: Positive | None = None
    """Viscosity of the sample, mPa·s; left out, that of the medium."""
    dilution: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    """Factor by which the sample was diluted before the measurement."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Same settings and seed, same bytes. A shorter video is not the beginning of a longer one."""

    sizes: tuple[Component, ...] = Field(default=(Component(diameter_nm=100.0),), strict=False)
    """Mixture of log-normal populations, by number."""
    concentration_per_ml: NotNegative | None = None
    """Particles per mL of the sample before its dilution."""
    particles_per_frame: NotNegative | None = None
    """Expected number of particles inside the frame and the depth, instead of a concentration (left out: 60)."""

    depth_um: Positive = 10.0
    """Full depth in which a particle is in focus, µm: the height of the slab, or the full width at half maximum of
    the Gaussian sheet."""
    profile: Literal["slab", "gaussian"] = "slab"
    """Light along the optical axis: constant within the depth and none outside, or a Gaussian sheet."""
    wavelength_nm: Positive = 532.0
    """Wavelength of the light in vacuum, nm."""
    na: Annotated[float, Field(gt=0, le=1.7)] = 0.3
    """Numerical aperture of the objective."""
    psf_sigma_px: Annotated[float, Field(ge=0.3, le=20)] | None = None
    """s.d. of the spot of a particle at rest in the focal plane, px; left out, that of the aperture."""
    defocus_um: Positive | None = None
    """Distance from the focal plane at which the spot is wider by √2, µm; left out, it has one width throughout."""

    snr: Positive | None = None
    """Peak signal over background noise of the reference particle in focus, motion blur included (left out: 10)."""
    photons: Positive | None = None
    """Photoelectrons per exposure of the reference particle in focus, instead of `snr`."""
    reference_diameter_nm: Positive = 100.0
    """Diameter of the reference particle, nm."""
    brightness_exponent: Annotated[float, Field(ge=0, le=6)] = 4.0
    """Signal grows as diameter to this power: 6 for small solid spheres, 4 for thin-shelled vesicles."""
    brightness_limit: Positive | None = None
    """Compression: a signal I, in units of the reference, becomes I / (1 + I / limit), scaled to keep the reference."""
    brightness_cv: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Log-normal spread of the signal between particles of equal size: s.d. over mean; the mean is kept."""

    flow_y_um_s: Finite = 0.0
    """Uniform flow along y, µm/s."""
    flow_x_um_s: Finite = 0.0
    """Uniform flow along x, µm/s."""
    pulsation: NotNegative = 0.0
    """Amplitude of a sinusoidal pulsation of the flow, relative to the flow."""
    pulsation_hz: Positive = 1.0
    """Frequency of the pulsation, Hz."""
    field_v_per_cm: Finite = 0.0
    """Electric field along x, V/cm."""
    field_hz: NotNegative = 1.0
    """Polarity cycles of the field per second, the first half cycle along +x; 0 keeps one polarity."""
    mobility_um_cm_per_v_s: Finite = 0.0
    """Electrophoretic mobility of every particle, µm·cm/(V·s)."""

    background_dn: NotNegative = 20.0
    """Mean grey level of the background above the offset, DN."""
    unevenness: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Peak-to-peak variation of the background over the frame (a tilt along x, a bow along y) relative to its mean."""
    stuck_particles: Annotated[int, Field(ge=0)] = 0
    """Reference particles that are stuck in the focal plane and never move: a fixed pattern."""

    gain_dn: Positive = 0.25
    """Grey levels per photoelectron."""
    offset_dn: NotNegative = 4.0
    """Grey level without light."""
    read_noise_e: NotNegative = 2.0
    """s.d. of the read noise per pixel, photoelectrons."""
    bit_depth: Literal[8, 12, 16] = 8
    """Bits of a pixel; what lies above the range is clipped to its end."""
    polarity: Literal["bright", "dark"] = "bright"
    """Particles add light to the background or take it away (at most all of it)."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for one, other in ALTERNATIVES:
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"{one} and {other} state the same thing; give one of the two")
        if not self.sizes:
            raise ValueError("sizes is empty; give at least one component, e.g. [{ diameter_nm = 100, cv = 0.05 }]")
        self.acquisition  # noqa: B018  # evaluated for its validation
        return self

    def but(self, settings: dict[str, Any], *, source: str = "simulation") -> Self:
        """A copy with other settings; a setting replaces its alternative (`ALTERNATIVES`).

        Raises
        ------
        InputError
            As `from_dict`; `source` names the settings in errors.
        """
        kept = self.model_dump(exclude_none=True)
        for pair in ALTERNATIVES:
            if any(name in settings for name in pair):
                for name in pair:
                    kept.pop(name, None)
        return self.from_dict({**kept, **settings}, source=source)

    def to_toml(self) -> str:
        """All settings that are set, defaults included, as TOML text."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    @property
    def acquisition(self) -> Acquisition:
        """How the video counts as recorded, depth and dilution included."""
        return Acquisition(
            pixel_size_um=self.pixel_size_um,
            frame_interval_s=self.frame_interval_s,
            exposure_s=self.exposure_s,
            temperature_c=self.temperature_c,
            viscosity_mpa_s=self.viscosity_mpa_s,
            medium=self.medium,
            dilution=self.dilution,
            depth_um=self.depth_um,
            frame_shape=self.frame_shape,
            n_frames=self.n_frames,
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a pixel: uint8, or uint16 for 12 and 16 bits."""
        return np.dtype(np.uint8 if self.bit_depth == 8 else np.uint16)

    @property
    def frame_um(self) -> tuple[float, float]:
        """Height and width of the frame in the sample, µm."""
        return self.frame_shape[0] * self.pixel_size_um, self.frame_shape[1] * self.pixel_size_um

    @property
    def number_per_um3(self) -> float:
        """Particles per µm³ in the measuring cell, after dilution."""
        if self.concentration_per_ml is not None:
            return self.concentration_per_ml / self.dilution * 1e-12
        number = PARTICLES_PER_FRAME if self.particles_per_frame is None else self.particles_per_frame
        height, width = self.frame_um
        return number / (height * width * self.depth_um)

    @property
    def concentration(self) -> float:
        """Particles per mL of the sample before its dilution, given or derived from `particles_per_frame`."""
        if self.concentration_per_ml is not None:
            return self.concentration_per_ml
        return self.number_per_um3 * 1e12 * self.dilution

    @property
    def sigma_px(self) -> float:
        """s.d. of the spot of a particle at rest in the focal plane, px: as given, or 0.21 λ / NA.

        References
        ----------
        Zhang, Zerubia & Olivo-Marin, Appl. Opt. 46, 1819 (2007), doi:10.1364/AO.46.001819.
        """
        if self.psf_sigma_px is not None:
            return self.psf_sigma_px
        return 0.21 * self.wavelength_nm * 1e-3 / self.na / self.pixel_size_um

    @property
    def background_e(self) -> float:
        """Mean background photoelectrons per pixel and exposure."""
        return self.background_dn / self.gain_dn

    @property
    def extra_variance_e2(self) -> float:
        """Variance that read noise and rounding to whole grey levels add to the shot noise, photoelectrons²."""
        return self.read_noise_e**2 + 1.0 / (12.0 * self.gain_dn**2)

    @property
    def reference_photons(self) -> float:
        """Photoelectrons per exposure of the reference particle in focus: as given, or those that make its `snr`."""
        if self.photons is not None:
            return self.photons
        diffusion = physics.diameter_to_diffusion_um2_s(
            self.reference_diameter_nm, self.temperature_c, self.acquisition.viscosity
        )
        # A path of the length of the exposure has the mean variance D·exposure/3 about its own centre, per axis.
        blurred_sigma = math.sqrt(self.sigma_px**2 + diffusion * self.exposure_s / 3.0 / self.pixel_size_um**2)
        peak_share = math.erf(0.5 / (math.sqrt(2.0) * blurred_sigma)) ** 2
        snr = SNR if self.snr is None else self.snr
        return snr * math.sqrt(self.background_e + self.extra_variance_e2) / peak_share

    def photons_in_focus(self, diameter_nm: physics.Floats) -> physics.Floats:
        """Photoelectrons per exposure of particles in focus, shape as the diameters, before any spread."""
        signal = (diameter_nm / self.reference_diameter_nm) ** self.brightness_exponent
        if self.brightness_limit is not None:
            signal = signal * (1.0 + 1.0 / self.brightness_limit) / (1.0 + signal / self.brightness_limit)
        return np.asarray(self.reference_photons * signal)


def specify(spec: Simulation | None, overrides: dict[str, Any]) -> Simulation:
    """A specification with overrides applied; without one, the overrides of the defaults."""
    if spec is not None and not isinstance(spec, Simulation):
        raise InputError(f"simulate takes a Simulation, not {type(spec).__name__}; build one with Simulation.from_dict")
    return (spec or Simulation()).but(overrides)
