"""What the report says about each number, in the words of a laboratory: label, unit and one plain sentence."""

from __future__ import annotations

import re
from typing import Final, NamedTuple


class Term(NamedTuple):
    """A quantity as the reader meets it."""

    label: str
    unit: str
    meaning: str = ""


METRICS: Final[dict[str, Term]] = {
    "mean_nm": Term("Mean", "nm", "the average diameter"),
    "mode_nm": Term("Mode", "nm", "the most frequent diameter: where the curve is highest"),
    "d10_nm": Term("D10", "nm", "10 % of the particles are smaller than this"),
    "d50_nm": Term("D50 (median)", "nm", "half of the particles are smaller than this"),
    "d90_nm": Term("D90", "nm", "90 % of the particles are smaller than this"),
    "pooled_nm": Term("Pooled", "nm", "the diameter of the mean diffusion coefficient; for particles of one size"),
    "span": Term("Span", "", "width of the distribution, (D90 − D10) / D50; a single size would give 0"),
    "cv": Term("CV", "%", "width of the distribution: standard deviation over mean"),
    "pdi": Term("PDI", "", "the CV squared, by particle count; not the PDI of dynamic light scattering"),
    "concentration_per_ml": Term(
        "Concentration", "per mL", "particles per millilitre of the undiluted sample, of those that are seen"
    ),
    "concentration_gross_per_ml": Term("Concentration, gross", "per mL", "before subtraction of the blanks"),
    "blank_per_ml": Term("Blank", "per mL", "what the diluent alone shows, times the dilution of the sample"),
    "concentration_flux_per_ml": Term(
        "Concentration, from arrivals",
        "per mL",
        "a check that needs no calibrated depth: from the particles that come into view; blanks not subtracted",
    ),
    "dls_z_average_nm": Term("DLS z-average", "nm", "what dynamic light scattering would read of this distribution"),
    "dls_pdi": Term("DLS PDI", "", "predicted likewise"),
}
"""Columns of samples.csv and batches.csv, in the order of the report; size classes follow by `size_class`."""

ONLY_IF_STATED: Final = ("concentration_gross_per_ml", "blank_per_ml", "dls_z_average_nm", "dls_pdi")
"""Metrics that are left out where there is nothing to say of them."""

PLAIN: Final[dict[str, Term]] = {
    "limit_nm": Term(
        "Detection limit", "nm", "half of the particles of this size are found in a frame; smaller ones are cut off"
    ),
    "n_modes": Term("Modes", "", "peaks of the distribution, with the share of replicates that have as many"),
    "d50_expanded_nm": Term("Expanded uncertainty of D50", "nm", "k = 2; see the budget"),
    "lod_per_ml": Term("Limit of detection", "per mL", "mean of the blanks and 3.3 standard deviations of a blank"),
    "n_fields": Term("Fields of view", "", "places of the sample that were recorded"),
    "n_independent": Term("Independent particles", "", "frames show the same ones again: what counting rests on"),
}
"""Columns that hold a number without an interval."""

SOURCES: Final[dict[str, str]] = {
    "pixel_size": "Pixel size (enters twice)",
    "temperature": "Temperature, with the viscosity that follows",
    "viscosity": "Viscosity at that temperature",
    "frame_interval": "Frame interval",
    "localization_error": "Localization error",
    "statistics": "Particles and videos",
    "combined": "Combined standard uncertainty",
    "expanded": "Expanded uncertainty (k = 2)",
}
"""Sources of uncertainty in budget.csv."""

KEY_METRICS: Final = ("d10_nm", "d50_nm", "d90_nm", "mode_nm", "pooled_nm", "span", "cv", "concentration_per_ml")
"""The metrics of the overview, and those that a sample row repeats."""


def size_class(name: str) -> Term | None:
    """Term of a column such as "fraction_50_150_nm"; None if the name is not of that form.

    Examples
    --------
    >>> size_class("fraction_50_150_nm").label
    '50–150 nm'
    """
    match = re.fullmatch(r"fraction_(?:(below|above)_([\d.]+)|([\d.]+)_([\d.]+))_nm", name)
    if match is None:
        return None
    side, edge, lo, hi = match.groups()
    label = f"{side.capitalize()} {edge} nm" if side else f"{lo}–{hi} nm"
    return Term(label, "%", "share of the particles in this size class")


WEIGHTINGS: Final[dict[str, Term]] = {
    "number": Term("number-weighted", "", "Every particle in the liquid counts once."),
    "frames": Term(
        "weighted by frames",
        "",
        "Every particle counts by the number of frames in which it is seen. Bright particles are seen over a greater "
        "depth, so they count more than in the liquid.",
    ),
    "tracks": Term(
        "weighted by tracks",
        "",
        "Every track counts once. Small particles leave and return more often, so they count more than in the liquid.",
    ),
}


def weighting_label(weighting: str, limit_nm: float = 0.0) -> str:
    """What is counted and from which size on, as printed on every plot; an unknown weighting is printed as it is.

    Examples
    --------
    >>> weighting_label("number"), weighting_label("frames", 52.3)
    ('number-weighted', 'weighted by frames, ≥ 52 nm')
    """
    label = WEIGHTINGS[weighting].label if weighting in WEIGHTINGS else weighting or "weighting not stated"
    return f"{label}, ≥ {limit_nm:.0f} nm" if limit_nm > 0 else label


ACQUISITION: Final[dict[str, Term]] = {
    "pixel_size_um": Term("Pixel size", "µm", "side of a pixel in the sample"),
    "frame_interval_s": Term("Frame interval", "s", "time from one frame to the next"),
    "exposure_s": Term("Exposure", "s", "time the shutter is open per frame"),
    "temperature_c": Term("Temperature", "°C", "of the sample"),
    "viscosity_mpa_s": Term("Viscosity", "mPa·s", "of the liquid"),
    "medium": Term("Medium", "", "the liquid, whose viscosity is used where none is given"),
    "dilution": Term("Dilution", "-fold", "of the sample before the measurement"),
    "depth_um": Term("Observed depth", "µm", "calibrated; without it there is no concentration"),
    "depth_table": Term("Observed depth, table", "", "calibrated, by brightness or size"),
}

ONLY_IF_KNOWN: Final = ("depth_table",)
"""Values of the recording that are left out where they are not stated."""

COUNTS: Final[dict[str, Term]] = {
    "frames": Term("Frames", ""),
    "localizations": Term("Spots found", "", "bright or dark spots in all frames together"),
    "spots_per_frame": Term("Spots per frame", ""),
    "tracks": Term("Tracks", "", "paths of single particles from frame to frame"),
    "tracks_used": Term("Tracks used for sizing", "", "long enough, and not stuck"),
    "particles": Term("Particles", "", "tracks that were cut apart for safety count as one"),
}

MEASURED: Final[dict[str, Term]] = {
    "noise": Term("Noise", "grey levels", "of the background: standard deviation per pixel"),
    "saturated": Term("Saturated pixels", "%", "as bright as the camera can tell; they hold no more information"),
    "spot_width": Term("Spot width", "px", "standard deviation of a typical spot"),
    "threshold": Term("Threshold", "", "signal-to-noise ratio from which a maximum counts as a spot"),
    "snr": Term("Signal-to-noise ratio", "", "median of the tracks"),
    "mislink_index": Term("Mislink index", "", "grows with crowding and speed; half of it is the share of wrong links"),
    "mislink_classes": Term("Mislink index by size class", "", "above 0.15 the share of a class is not reported"),
    "flow": Term("Flow", "px", "per frame, shared by all particles; subtracted before sizing"),
    "position_error": Term("Position error", "px", "of a spot, per axis"),
    "diffusion": Term("Diffusion coefficient", "µm²/s", "median of the tracks"),
    "diameter": Term("Diameter", "nm", "median of the tracks; the distribution is the better estimate"),
    "anisotropy": Term("Motion along y over x", "", "ratio of the diffusion coefficients; 1 for free diffusion"),
    "in_view": Term("Particles in view", "", "moving ones, per frame, corrected for those seen too shortly"),
    "limit": Term("Limiting signal", "grey levels", "of spots injected into this video, half of which are found"),
    "ddm": Term("DDM diameter", "nm", "from the pixels, no particle being found; weighted with d¹² in a dark field"),
    "ddm_frames": Term("DDM of detections", "nm", "the same, each particle seen counting alike"),
    "piccs": Term("PICCS ratio", "", "D from distances between spots, not linked, over D of the sizes; 1 agrees"),
    "stuck": Term("Stuck particles", "", "tracks that do not move; left out of the sizes"),
    "unusual": Term("Unusual motion", "", "tracks that do not fit free diffusion"),
    "moving": Term("Moving on their own", "", "tracks with a velocity beside the flow"),
}
"""What is measured of a video, in the order of its card."""

LEVELS: Final = {"ok": "no remarks", "info": "note", "warning": "check", "fail": "failed"}
"""Quality level → the word on its badge, from harmless to serious."""

SHEET_TERMS: Final[dict[str, tuple[str, str]]] = {
    "operator": ("Identity", "Operator"),
    "reviewer": ("Identity", "Reviewer"),
    "purpose": ("Identity", "Purpose of the measurement"),
    "cell_type": ("Source", "Cell type"),
    "donor": ("Source", "Donor"),
    "passage": ("Source", "Passage"),
    "isolation": ("Source", "Isolation method"),
    "storage": ("Source", "Storage and freeze–thaw cycles"),
    "instrument": ("Instrument", "Instrument"),
    "instrument_serial": ("Instrument", "Serial number"),
    "laser_nm": ("Instrument", "Laser wavelength, nm"),
    "channel": ("Instrument", "Channel"),
    "bead_check": ("Instrument", "Last check with beads"),
    "ph": ("Conditions", "pH"),
    "conductivity": ("Conditions", "Conductivity"),
    "reference_diameter_nm": ("System suitability", "Certified diameter of the beads, nm"),
}
"""Column of the sample sheet → (group, label) of the quality record; further columns are listed as they are."""

LIMITATIONS: Final = (
    (
        "The diameter is hydrodynamic: that of a sphere which diffuses as fast as the particle in the same "
        "liquid. It includes whatever moves along with the particle, and for aggregates or elongated "
        "particles it is an equivalent value."
    ),
    (
        "Particles that are too faint for this instrument and its settings are not seen. Brightness falls "
        "steeply with size, so the smallest particles may be missing, and results of different instruments or "
        "camera settings need not agree at the small end."
    ),
    (
        "Tracking does not tell vesicles from other particles of the same size, such as protein aggregates, "
        "lipoproteins or dust."
    ),
    (
        "The tracks are short, so two populations of similar size can appear as one peak. Small secondary "
        "peaks whose band reaches down to zero should not be interpreted."
    ),
    (
        "Intervals and bands are 95 %. They cover the variation between the videos and the stated "
        "uncertainties of pixel size, temperature and viscosity. They do not cover sampling, isolation, "
        "storage or a wrong entry in the sample sheet. With a single video they do not cover the variation "
        "between videos either."
    ),
    "This report states results and remarks. It judges against no acceptance criteria.",
)
