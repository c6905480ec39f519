"""Every setting of an analysis (the procedure, SOP) as one frozen, strictly validated value: TOML in and out, hashed.

The defaults are meant to be kept. What depends on the instrument comes from the video itself (width of the spots,
noise, flow, mobility); what depends on the laboratory (conditions, size classes) is set here once and filed.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from exotrack.errors import InputError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Section(BaseModel):
    """Settings that belong together: unknown keys and wrong types are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    @classmethod
    def from_dict(cls, settings: dict[str, Any], *, source: str = "protocol") -> Self:
        """Validate settings; `source` names them in errors.

        Raises
        ------
        InputError
            Unknown key or value of the wrong type or range, all of them listed with the remedy.
        """
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise InputError("\n".join(_explain(cls, source, e) for e in error.errors())) from None


class LocalizeSection(Section):
    """From frames to spots."""

    polarity: Literal["auto", "bright", "dark"] = "auto"
    """Bright spots on dark, dark spots on bright, or decided from the skewness of the video."""
    psf_sigma_px: Positive | Literal["auto"] = "auto"
    """s.d. of a typical spot in pixels, or estimated from the video."""
    width: Literal["free", "fixed"] = "free"
    """Fit the width of each spot, or take the typical one for all."""
    false_alarms_per_frame: Positive = 0.01
    """Expected number of spots per frame in pure noise; this, not a grey level, sets the threshold."""
    background_s: Positive = 10.0
    """Length of the windows of the global time grid on which the still background is a temporal median."""
    background_frames: Annotated[int, Field(ge=5, le=301)] = 31
    """Frames sampled evenly in each window for that median."""


class LinkSection(Section):
    """From spots to tracks."""

    smallest_diameter_nm: Positive = 30.0
    """Size of the fastest particle that linking must be able to follow."""
    miss_probability: Annotated[float, Field(gt=0, lt=0.1)] = 1e-4
    """Share of true displacements that may exceed the gate."""
    gap_frames: Annotated[int, Field(ge=0, le=5)] = 1
    """Frames that a particle may be missing from within a track."""
    isolation: Annotated[float, Field(ge=0, le=2)] = 0.5
    """A track is cut where another spot of the same frame is nearer than this times the gate; 0 never cuts."""
    flow: Literal["uniform", "affine", "none"] = "uniform"
    """Follow a collective displacement per frame, one that changes linearly over the field, or assume there is none."""
    evidence: Literal["step", "track", "brightness"] = "step"
    """What a link is judged by: its own step; also the steps before and behind it; also the brightness of its ends."""


class DiffusionSection(Section):
    """From tracks to diffusion coefficients."""

    velocity: Literal["collective", "track"] = "collective"
    """What moves besides diffusion: the collective flow alone, or each track with a constant velocity of its own."""


class SizeSection(Section):
    """From tracks to diameters and their distribution."""

    min_steps: Annotated[int, Field(ge=3)] = 4
    """Fewest displacements of a track that enters the distribution."""
    diameter_min_nm: Positive = 20.0
    """Lower end of the size grid."""
    diameter_max_nm: Positive = 3000.0
    """Upper end of the size grid."""
    grid_points: Annotated[int, Field(ge=50, le=1000)] = 240
    """Classes of the logarithmic size grid."""
    weighting: Literal["number", "frames", "tracks"] = "number"
    """What is counted: particles in the liquid, particles seen per frame, or tracks."""
    bootstrap: Annotated[int, Field(ge=50, le=10000)] = 200
    """Replicates of the bootstrap over videos (over tracks within a single video)."""
    folds: Annotated[int, Field(ge=2, le=20)] = 5
    """Folds of the cross-validation that stops the deconvolution."""
    class_edges_nm: tuple[Positive, ...] = Field(default=(50.0, 150.0, 200.0), strict=False)
    """Boundaries of the size classes whose fractions are reported."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of the bootstrap and of the folds."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.diameter_max_nm <= self.diameter_min_nm:
            raise ValueError("diameter_max_nm must be larger than diameter_min_nm")
        if list(self.class_edges_nm) != sorted(set(self.class_edges_nm)):
            raise ValueError("class_edges_nm must increase")
        return self


class ConditionSection(Section):
    """Values used where neither sheet, sidecar nor container states them, and the uncertainties of stated ones."""

    temperature_c: Annotated[float, Field(ge=-20, le=110)] = 25.0
    """Temperature of a video that states none."""
    temperature_unknown_k: Positive = 2.0
    """Standard uncertainty of that assumed temperature."""
    temperature_k: Positive = 0.3
    """Standard uncertainty of a stated temperature."""
    medium: str = "water"
    """Medium of a video that states none."""
    pixel_size_relative: Annotated[float, Field(ge=0, lt=0.5)] = 0.005
    """Relative standard uncertainty of the pixel size; it enters a diameter twice."""
    frame_interval_relative: Annotated[float, Field(ge=0, lt=0.5)] = 0.001
    """Relative standard uncertainty of the frame interval."""
    viscosity_relative: Annotated[float, Field(ge=0, lt=0.5)] = 0.005
    """Relative standard uncertainty of the viscosity at the given temperature."""
    depth_relative: Annotated[float, Field(ge=0, lt=1)] = 0.07
    """Relative standard uncertainty of the calibrated depth; it enters a concentration."""
    colour: Literal["luma", "red", "green", "blue"] = "luma"
    """How a colour frame becomes grey: luma (ITU-R BT.601 weights) or one of its channels."""


class CheckSection(Section):
    """Checks of every video; they change no size, but for the limit below which none is reported."""

    detection_limit: bool = True
    """Inject spots into the video, to find the smallest size that it shows."""
    ddm: bool = True
    """Differential dynamic microscopy of the pixels and of the detections."""
    piccs: bool = True
    """Compare distances between spots of nearby frames with those that the sizes predict."""


class Protocol(Section):
    """All settings of an analysis.

    Examples
    --------
    >>> Protocol().link.gap_frames
    1
    >>> Protocol.from_dict({"size": {"bootstrap": 500}}).size.bootstrap
    500
    >>> Protocol.from_dict({"size": {"boostrap": 500}})
    Traceback (most recent call last):
        ...
    exotrack.errors.InputError: protocol: size.boostrap = 500: unknown setting; known here: min_steps, ...
    """

    localize: LocalizeSection = LocalizeSection()
    link: LinkSection = LinkSection()
    diffusion: DiffusionSection = DiffusionSection()
    size: SizeSection = SizeSection()
    check: CheckSection = CheckSection()
    conditions: ConditionSection = ConditionSection()

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a protocol; settings that the file leaves out keep their defaults.

        Raises
        ------
        InputError
            If the file is missing, is not TOML, or holds an unknown or invalid setting.
        """
        try:
            settings = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: the protocol cannot be read ({error.strerror}); check the path") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a valid TOML file: {error}") from None
        return cls.from_dict(settings, source=str(path))

    def to_toml(self) -> str:
        """All settings, defaults included, as TOML text; `from_toml` gives back an equal protocol."""
        return tomli_w.dumps(self.model_dump(mode="json"))

    @property
    def sha256(self) -> str:
        """Hash of all settings, independent of file layout."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _explain(model: type[BaseModel], source: str, error: Any) -> str:
    # A union reports each member as a last element of the location ("psf_sigma_px", "float"): show the field alone.
    known: type[BaseModel] = model
    shown: list[str] = []
    for name in error["loc"]:
        if isinstance(name, str) and name not in known.model_fields and error["type"] != "extra_forbidden":
            break
        shown.append(str(name))
        if name in known.model_fields:
            known = _model_within(known.model_fields[name].annotation) or known
    if error["type"] == "extra_forbidden":
        what = f"unknown setting; known here: {', '.join(known.model_fields)}"
    else:
        what = error["msg"].removeprefix("Value error, ")
    value = f" = {error['input']!r}" if not isinstance(error["input"], dict) else ""
    return f"{source}: {'.'.join(shown)}{value}: {what}" if shown else f"{source}: {what}"


def _model_within(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, alone or as the elements of a tuple."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
