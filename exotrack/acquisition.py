"""How a video was recorded: the physical numbers that turn pixels and frames into diffusion coefficients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from exotrack import physics
from exotrack.depth import DepthTable
from exotrack.errors import InputError


@dataclass(frozen=True)
class Acquisition:
    """Physical description of a recording. Lengths in µm, times in s, temperature in °C.

    Raises
    ------
    InputError
        If a number is not finite or out of its physical range, or the medium is unknown.

    Examples
    --------
    >>> acquisition = Acquisition(pixel_size_um=0.166, frame_interval_s=1 / 30, exposure_s=0.02, temperature_c=25.0)
    >>> round(acquisition.stokes_einstein_um2_s_nm, 1)
    490.7
    >>> round(acquisition.blur, 3)
    0.1
    """

    pixel_size_um: float
    """Side of a pixel in the sample."""
    frame_interval_s: float
    """Time from the start of one frame to the start of the next."""
    exposure_s: float | None = None
    """Time the shutter is open per frame; None if unknown, and then no estimate may depend on it."""
    temperature_c: float = 25.0
    """Temperature of the sample."""
    viscosity_mpa_s: float | None = None
    """Viscosity of the sample; None means that of `medium` at the temperature."""
    medium: str = "water"
    """Name of the suspending medium, one of `physics.MEDIA`, used when the viscosity is not given."""
    dilution: float = 1.0
    """Factor by which the sample was diluted before the measurement, ≥ 1."""
    depth_um: float | None = None
    """Calibrated effective depth of the observed volume; without it and `depth_table` no concentration is reported."""
    depth_table: DepthTable | None = None
    """Depths by brightness or size, from `exotrack calibrate`, in place of `depth_um`."""
    frame_shape: tuple[int, int] | None = None
    """Height and width of a frame in px, where known."""
    n_frames: int | None = None
    """Frames in the recording, where known."""
    cuts: tuple[int, ...] = ()
    """Frames at which a new position or cycle begins: no track crosses them."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where each value came from: "sample sheet", "sidecar NAME", "container", "protocol default" or "argument"."""

    def __post_init__(self) -> None:
        for name in ("pixel_size_um", "frame_interval_s"):
            _positive(name, getattr(self, name))
        for name in ("viscosity_mpa_s", "depth_um", "dilution"):
            value = getattr(self, name)
            if value is not None:
                _positive(name, value)
        if self.depth_um is not None and self.depth_table is not None:
            raise InputError("depth_um and depth_table state the same thing; give one of them")
        if self.dilution < 1.0:
            raise InputError(f"dilution = {self.dilution:g}: the dilution factor is 1 or more (1000 for 1:1000)")
        if self.exposure_s is not None:
            _positive("exposure_s", self.exposure_s)
            if self.exposure_s > self.frame_interval_s * 1.001:
                raise InputError(
                    f"exposure_s = {self.exposure_s:g} is longer than the frame interval {self.frame_interval_s:g} s; "
                    "correct one of the two"
                )
        try:
            self.viscosity  # noqa: B018  # evaluated for its validation
        except ValueError as error:
            raise InputError(str(error)) from None

    @property
    def viscosity(self) -> float:
        """Viscosity in mPa·s: as given, or that of the medium at the temperature."""
        if self.viscosity_mpa_s is not None:
            return self.viscosity_mpa_s
        return physics.viscosity_mpa_s(self.medium, self.temperature_c)

    @property
    def stokes_einstein_um2_s_nm(self) -> float:
        """Product of diffusion coefficient and diameter, µm²/s·nm."""
        return physics.stokes_einstein_constant(self.temperature_c, self.viscosity)

    @property
    def blur(self) -> float:
        """Motion-blur coefficient R = exposure / (6 × frame interval); 0 where the exposure is unknown."""
        if self.exposure_s is None:
            return 0.0
        return physics.motion_blur(min(self.exposure_s, self.frame_interval_s), self.frame_interval_s)


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{name} = {value!r} is not a positive number")
