"""The columns of every result: name, dtype, unit and meaning, declared once.

A table is a frozen dataclass of equal-length one-dimensional arrays. Fields made with `column` are columns; other
fields are attributes that belong to the table as a whole. At rest a table is Arrow/Parquet, where each field carries
its unit and meaning as metadata.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntFlag
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from exotrack.errors import InputError

Array = npt.NDArray[Any]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U16 = npt.NDArray[np.uint16]
Mask = npt.NDArray[np.bool_]


class SpotFlag(IntFlag):
    """What is unusual about a localization; 0 is a clean one."""

    SATURATED = 1
    """Clipped pixels in the spot; they were left out of the fit."""
    EDGE = 2
    """The fitting window was cut by the border of the frame."""
    CROWDED = 4
    """Another spot lies within four widths, so that position and mass may be shared."""
    SEED_ONLY = 8
    """The fit did not improve on the log-quadratic seed: the position is the seed, its error is inflated."""
    DEFOCUSED = 16
    """The spot is more than 1.6 times as wide as the typical one of this video."""
    FAINT = 32
    """Below the threshold: kept because a particle was here in the frame before or after."""
    RING = 64
    """The image of a particle far out of focus: its centre is that of radial symmetry."""
    POOR_FIT = 128
    """The pixels do not fit a spot on a constant background (χ² per degree of freedom beyond chance, p < 0.001)."""
    RESTING = 256
    """Stays in place while the liquid carries the others away: adhered to a wall. Set by linking."""


class ParticleFlag(IntFlag):
    """What is unusual about a track; 0 is a clean one."""

    SHORT = 1
    """Fewer than 10 displacements: used in the distribution, too uncertain to be reported alone."""
    STUCK = 2
    """Does not move beyond its localization error: dust or an adsorbed particle, left out of sizes."""
    NOT_BROWNIAN = 4
    """Its displacements do not fit free diffusion (p < 0.001): a wrong link, an aggregate or residual flow."""
    OUTSIDE_GRID = 8
    """The most likely diameter lies at the border of the size grid."""
    MOVING = 16
    """Has a mean velocity beside the collective flow (p < 0.001)."""


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    lo: float
    hi: float


def column(dtype: str, unit: str, meaning: str) -> Any:
    """Declare a table column: NumPy dtype, unit ("" if dimensionless) and one sentence of meaning."""
    return field(metadata={"dtype": dtype, "unit": unit, "meaning": meaning})


@dataclass(frozen=True, eq=False)
class Table:
    """Equal-length one-dimensional columns with declared dtypes; see `Table.columns`.

    Raises
    ------
    InputError
        If columns are not one-dimensional, differ in length, or cannot be cast safely.
    """

    trackpy_names: ClassVar[Mapping[str, str]] = {}
    """Column of this table → its name in trackpy, where the two differ; understood by `from_pandas`."""

    def __post_init__(self) -> None:
        length: int | None = None
        for name, spec in self.columns().items():
            values = np.ascontiguousarray(getattr(self, name), dtype=spec["dtype"])
            if values.ndim != 1:
                raise InputError(f"{type(self).__name__}.{name} must be one-dimensional, got shape {values.shape}")
            if length is None:
                length = len(values)
            elif len(values) != length:
                raise InputError(f"{type(self).__name__}.{name} has {len(values)} rows, the columns before it {length}")
            values = values.view()
            values.flags.writeable = False
            object.__setattr__(self, name, values)

    @classmethod
    def columns(cls) -> dict[str, Mapping[str, str]]:
        """Name → {dtype, unit, meaning} of every column, in order."""
        return {f.name: f.metadata for f in fields(cls) if "dtype" in f.metadata}

    def __len__(self) -> int:
        return len(getattr(self, next(iter(self.columns()))))

    def __iter__(self) -> Iterator[Array]:
        raise TypeError(f"{type(self).__name__} is a table of columns: use its columns, or .to_pandas() for rows")

    @classmethod
    def empty(cls, **attributes: Any) -> Self:
        """A table without rows."""
        return cls(**{name: np.empty(0, spec["dtype"]) for name, spec in cls.columns().items()}, **attributes)

    @classmethod
    def concat(cls, tables: Sequence[Self]) -> Self:
        """Rows of several tables, in order; attributes are those of the first. Empty input gives an empty table."""
        if not tables:
            return cls.empty()
        joined = {name: np.concatenate([getattr(t, name) for t in tables]) for name in cls.columns()}
        return replace(tables[0], **joined)

    def take(self, rows: Array) -> Self:
        """The rows given by an index array or a boolean mask."""
        return replace(self, **{name: getattr(self, name)[rows] for name in self.columns()})

    def to_arrow(self) -> pa.Table:
        """Arrow table; every field's metadata holds its unit and meaning."""
        schema = pa.schema(
            [
                pa.field(name, pa.from_numpy_dtype(np.dtype(spec["dtype"])), nullable=False).with_metadata(
                    {"unit": spec["unit"], "meaning": spec["meaning"]}
                )
                for name, spec in self.columns().items()
            ]
        )
        return pa.Table.from_arrays([pa.array(getattr(self, name)) for name in schema.names], schema=schema)

    @classmethod
    def from_arrow(cls, table: pa.Table, **attributes: Any) -> Self:
        """Inverse of `to_arrow`; further columns are ignored, a missing one raises InputError."""
        missing = [name for name in cls.columns() if name not in table.column_names]
        if missing:
            raise InputError(f"a table of {cls.__name__} lacks the column(s) {', '.join(missing)}")
        return cls(**{name: table[name].to_numpy() for name in cls.columns()}, **attributes)

    def to_pandas(self) -> pd.DataFrame:
        """DataFrame with the same columns, in order."""
        return pd.DataFrame({name: np.array(getattr(self, name)) for name in self.columns()})

    @classmethod
    def from_pandas(cls, frame: pd.DataFrame) -> Self:
        """Build from a DataFrame with our column names or trackpy's.

        A floating-point column that is absent becomes NaN, an absent flag 0; any other absent column is an error.

        Raises
        ------
        InputError
            If `frame`, `y`, `x` or another column that cannot be left out is missing.
        """
        values: dict[str, Array] = {}
        for name, spec in cls.columns().items():
            source = name if name in frame else cls.trackpy_names.get(name, name)
            if source in frame:
                values[name] = frame[source].to_numpy()
            elif name == "flag":
                values[name] = np.zeros(len(frame), spec["dtype"])
            elif np.dtype(spec["dtype"]).kind == "f" and name not in ("y", "x"):
                values[name] = np.full(len(frame), np.nan)
            else:
                raise InputError(f"the DataFrame lacks the column {name!r} that {cls.__name__} needs")
        return cls(**values)


@dataclass(frozen=True)
class SpotModel:
    """What localization learned from the first seconds of a video and then applied to all of it."""

    polarity: str
    """"bright" or "dark"."""
    sigma_px: float
    """s.d. of a typical spot, px: the width of the matched filter."""
    threshold: float
    """Matched-filter signal-to-noise ratio above which a maximum is a spot."""
    still_background: bool
    """Whether the temporal median is subtracted; not where particles are too slow to be told from it."""
    noise_dn: float
    """Median s.d. of the background noise per pixel, DN."""
    gain_dn: float
    """Growth of the noise variance with the signal, DN: the camera's DN per photoelectron where shot noise rules."""
    saturated_share: float
    """Share of pixels at the upper end of the number range."""
    saturation_dn: float = float("inf")
    """Grey level from which a pixel counts as clipped; infinite where there is none."""
    stage_drift_px: float = float("nan")
    """Distance that still structure moves within half of the first window, px; NaN where there is none to follow."""
    large_objects: int = 0
    """Still objects that are much larger than a spot."""
    further_sigmas_px: tuple[float, ...] = ()
    """Further widths at which spots are looked for, px: particles out of focus."""
    skew_dn: float = 0.0
    """Third over second cumulant of the noise per pixel, DN: its tail is that of photons, not that of a normal one."""
    pedestal_dn: float = 0.0
    """Grey level that is taken off frames of real numbers before they are filtered, DN; it bears on rounding alone."""
    warnings: tuple[str, ...] = ()
    """Faults of the video that bear on localization, in words."""

    @property
    def sign(self) -> float:
        """1 for bright spots, −1 for dark ones."""
        return 1.0 if self.polarity == "bright" else -1.0


@dataclass(frozen=True, eq=False)
class Localizations(Table):
    """Spots found in a video, ordered by frame, then y, then x. Pixel (0, 0) has its centre at y = x = 0."""

    trackpy_names: ClassVar[Mapping[str, str]] = {"sigma": "size", "snr": "signal", "y_err": "ep_y", "x_err": "ep_x"}

    frame: I32 = column("int32", "", "index of the frame, from 0")
    y: F64 = column("float64", "px", "row of the centre; 0 is the centre of the first pixel")
    x: F64 = column("float64", "px", "column of the centre; 0 is the centre of the first pixel")
    mass: F32 = column("float32", "DN", "integrated signal above the local background, positive for dark spots too")
    background: F32 = column("float32", "DN", "local background under the spot")
    noise: F32 = column("float32", "DN", "s.d. of the background noise per pixel at the spot")
    snr: F32 = column("float32", "", "peak signal over the background noise per pixel")
    sigma: F32 = column("float32", "px", "fitted s.d. of the spot")
    y_err: F32 = column("float32", "px", "standard error of y from the Fisher matrix")
    x_err: F32 = column("float32", "px", "standard error of x from the Fisher matrix")
    flag: U16 = column("uint16", "", "bits of SpotFlag; 0 is a clean spot")
    model: SpotModel | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class LinkSummary:
    """What linking found out about a video."""

    n_links: int
    """Links made between spots, gap closing included."""
    gate_px: float
    """Largest displacement after subtraction of the flow that was considered, one frame."""
    mislink_index: float
    """x = π ρ v with the density of spots ρ and the mean squared step v ≈ 4DΔt: about twice the share of wrong links
    where no track is cut."""
    density_px2: float
    """ρ, spots per px² as a spot has them around it: in frames that show any, where in the field they are."""
    flow_y_px: F64
    """Collective displacement along y from frame t to t + 1, px, shape (n_frames − 1,)."""
    flow_x_px: F64
    """The same along x."""
    flow_centre_px: tuple[float, float]
    """Where in the field that is, where it is not the same everywhere."""
    flow_gradient: F64 | None
    """Change of the displacement along y and x (second axis) per px along y and x (third) from that centre, shape
    (n_frames − 1, 2, 2); None where the flow was taken as uniform."""
    shear_px: float
    """Collective displacement at the border of the field relative to its centre, px per frame, whether it was followed
    or not; 0 where none is seen."""
    n_shrunk: int
    """How often spots lay so densely that their gate was narrowed or they were left alone; 0 in a healthy video."""

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """From `video.json`; whatever else is recorded there is left out. KeyError if something is missing."""
        fields = {name: record[name] for name in cls.__dataclass_fields__}
        gradient = fields["flow_gradient"]
        shaped = {
            "flow_y_px": np.array(fields["flow_y_px"], np.float64),
            "flow_x_px": np.array(fields["flow_x_px"], np.float64),
            "flow_centre_px": tuple(fields["flow_centre_px"]),
            "flow_gradient": None if gradient is None else np.array(gradient, np.float64).reshape(-1, 2, 2),
        }
        return cls(**fields | shaped)


@dataclass(frozen=True, eq=False)
class Tracks(Localizations):
    """Localizations that belong to tracks, ordered by particle, then frame; trackpy's functions take `.to_pandas()`."""

    particle: I64 = column("int64", "", "index of the track, from 0")
    identity: I64 = column(
        "int64", "", "the uncut track that this piece belongs to; pieces of one identity are one particle"
    )
    linking: LinkSummary | None = field(default=None, kw_only=True)

    @classmethod
    def from_pandas(cls, frame: pd.DataFrame) -> Self:
        """As `Table.from_pandas`; without `identity` every track is its own particle, and the rows are put in order."""
        if "identity" not in frame and "particle" in frame:
            frame = frame.assign(identity=frame["particle"])
        if {"particle", "frame"} <= set(frame.columns):
            # The order comes from an array: trackpy's index level may share the name of the column.
            frame = frame.iloc[np.lexsort((frame["frame"].to_numpy(), frame["particle"].to_numpy()))]
        return super().from_pandas(frame)


@dataclass(frozen=True, eq=False)
class Particles(Table):
    """One row per track: its diffusion coefficient and hydrodynamic diameter with 95 % intervals."""

    particle: I64 = column("int64", "", "index of the track, as in Tracks")
    first_frame: I32 = column("int32", "", "frame of the first localization")
    n_frames: I32 = column("int32", "", "localizations in the track")
    n_steps: I32 = column("int32", "", "displacements in the track")
    D_um2_s: F64 = column("float64", "um2/s", "maximum-likelihood diffusion coefficient")
    D_err_um2_s: F64 = column("float64", "um2/s", "standard error of D from the curvature of the likelihood")
    diameter_nm: F64 = column("float64", "nm", "hydrodynamic diameter of the most likely D (Stokes-Einstein)")
    diameter_lo_nm: F64 = column("float64", "nm", "lower end of the 95 % likelihood interval")
    diameter_hi_nm: F64 = column("float64", "nm", "upper end of the 95 % likelihood interval")
    mass: F32 = column("float32", "DN", "mean integrated signal")
    snr: F32 = column("float32", "", "mean signal-to-noise ratio")
    y: F32 = column("float32", "px", "mean position, row")
    x: F32 = column("float32", "px", "mean position, column")
    flag: U16 = column("uint16", "", "bits of ParticleFlag; 0 is a clean track")
    D_cve_um2_s: F64 = column("float64", "um2/s", "covariance-based estimate of D, a cross-check; may be negative")
    D_msd_um2_s: F64 = column(
        "float64", "um2/s", "least-squares slope of the first MSD points, a cross-check; NaN where there are too few"
    )


@dataclass(frozen=True, eq=False)
class SizeDistribution(Table):
    """Deconvolved density of hydrodynamic diameters with its pointwise 95 % band; the density integrates to one."""

    diameter_nm: F64 = column("float64", "nm", "hydrodynamic diameter, centre of the class")
    density_per_nm: F64 = column("float64", "1/nm", "share of particles per nm of diameter")
    lo: F64 = column("float64", "1/nm", "lower end of the pointwise 95 % band of the density")
    hi: F64 = column("float64", "1/nm", "upper end of the pointwise 95 % band of the density")
    weighting: str = "number"
    """What is counted: "number" (particles in the liquid), "frames" (particles seen per frame) or "tracks"."""
    weighting_reason: str = ""
    """Why the weighting is not the one that was asked for; empty if it is."""
    n_tracks: int = 0
    n_videos: int = 0
    limit_nm: float = 0.0
    """Detection limit: nothing is said of smaller particles; 0 where it is not known, NaN where less than half of the
    particles of any size are detected."""
    summary: Mapping[str, Estimate] = field(default_factory=dict)
    """pooled_nm, mean_nm, mode_nm, d10_nm, d50_nm, d90_nm, span, cv, pdi, shares of size classes, with intervals; NaN
    for the share of a class whose mislink index is too high."""
    modes: Any = None
    """`exotrack.sizing.modes.Modes`; None without rows."""
    populations: tuple[Any, ...] = ()
    """Log-normal populations: `exotrack.sizing.mixture.Population`, by diameter."""
    budget: tuple[Any, ...] = ()
    """Uncertainty budget of D50: `exotrack.sizing.budget.BudgetLine` per source."""
    mislink_index: Mapping[str, float] = field(default_factory=dict)
    """Mislink index of each size class, by the name of its share."""
    replicates: F64 | None = None
    """Bootstrap replicates of the share per class, shape (n_replicates, n_classes); None if read back from a file."""
