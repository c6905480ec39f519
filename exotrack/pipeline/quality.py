"""What a reader should know before trusting a video: each remark with a code, a level and a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np

from exotrack.acquisition import Acquisition
from exotrack.sizing.count import Count
from exotrack.sizing.crowding import MISLINK_HIGH, MISLINK_MOST
from exotrack.tables import F64, U16, LinkSummary, Localizations, ParticleFlag, Particles, SpotFlag, SpotModel

MISLINK_ADVISED = 0.03
TRACKS_ADVISED, TRACKS_FEW = 1000, 100
SHARE_HIGH = 0.05
FLOW_STEPS = 2.0
SHEAR_STEPS = 0.15
"""Displacement at the border of the field relative to its centre, in Brownian steps, that adds 1 % to D."""
ANISOTROPY = 0.05
FRAMES_FEW = 100
MERGING_WIDTHS = 2.5
"""Distance of two spots, in widths, below which they are found as one."""
PARTICLES_FEW = 5.0
DDM_APART, DDM_ERRORS = 0.15, 3.0
"""Relative difference, and standard errors, from which on DDM and the sizes disagree."""
SPOTS_USUAL = 5
"""Spots per frame from which on a frame without any is not chance."""


class Flag(TypedDict):
    """A remark on a video, as `video.json` holds it."""

    code: str
    level: Literal["info", "warning"]
    message: str


@dataclass(frozen=True)
class Evidence:
    """All that the remarks on a video are based on."""

    acquisition: Acquisition
    model: SpotModel
    spots: Localizations
    particles: Particles
    linking: LinkSummary
    mislinks: Mapping[str, float]
    """Mislink index of each size class, by the name of its share."""
    n_used: int
    """Tracks that enter the size distribution."""
    diffusion_um2_s: float
    """Median diffusion coefficient; NaN without tracks."""
    anisotropy: float
    """Diffusion along y over that along x; NaN where unknown."""
    stride: int
    """Frames that a displacement spans; more than 1 where images are carried over."""
    n_frames: int
    count: Count
    blank: bool
    """Whether the video shows the diluent alone."""
    without_linking: Mapping[str, Any]
    """As `video.json` holds it."""


def flags(evidence: Evidence) -> list[Flag]:
    """All remarks on a video, in a fixed order: the recording, the spots, the motion, the counts."""
    parts = (_recording, _spots, _motion, _counts, _checks)
    return [flag for part in parts for flag in part(evidence)]


def _info(code: str, message: str) -> Flag:
    return Flag(code=code, level="info", message=message)


def _warning(code: str, message: str) -> Flag:
    return Flag(code=code, level="warning", message=message)


def _recording(evidence: Evidence) -> Iterator[Flag]:
    acquisition = evidence.acquisition
    if acquisition.origins.get("temperature_c") == "protocol default":
        yield _warning(
            "temperature_assumed",
            f"The temperature is not stated; {acquisition.temperature_c:g} °C was assumed. One kelvin changes the "
            "diameter by about 2.6 %, and the intervals are wider for it. Fill in temperature_c in the sample sheet.",
        )
    if acquisition.exposure_s is None:
        yield _info(
            "exposure_unknown",
            "The exposure time is not stated. The sizes do not depend on it, but the localization error cannot be "
            "told from motion blur. Fill in exposure_s in the sample sheet.",
        )
    if acquisition.origins.get("frame_interval_s") == "container":
        yield _info(
            "container_rate",
            f"The frame rate ({1 / acquisition.frame_interval_s:.4g} per second) was read from the video file, which "
            "often states the playback rate instead. Check it, and fill in fps in the sample sheet.",
        )
    if evidence.n_frames < FRAMES_FEW:
        yield _info("short_video", f"Only {evidence.n_frames} frames: {FRAMES_FEW} or more are advised.")


def _spots(evidence: Evidence) -> Iterator[Flag]:
    model, spots = evidence.model, evidence.spots
    per_frame = np.bincount(spots.frame, minlength=evidence.n_frames)
    blank = np.flatnonzero(per_frame == 0)
    if len(spots) and len(blank) and np.median(per_frame[per_frame > 0]) >= SPOTS_USUAL:
        yield _warning(
            "frames_lost",
            f"{len(blank)} of {evidence.n_frames} frames show no particles ({blank[0]} is the first, {blank[-1]} the "
            "last): black, saturated or blank frames end tracks and lower the concentration.",
        )
    repeated = _repeated(spots)
    if repeated:
        yield _warning(
            "frames_repeated",
            f"{repeated} frames show exactly what the frame before shows: the file repeats frames, and times and "
            "diameters are wrong. Record or export the video again.",
        )
    clipped = _share(spots.flag, SpotFlag.SATURATED)
    if clipped > SHARE_HIGH:
        yield _warning(
            "saturated",
            f"{clipped:.0%} of the spots are clipped at the camera's upper limit: lower the exposure or the gain.",
        )
    crowded = _share(spots.flag, SpotFlag.CROWDED)
    if crowded > 2 * SHARE_HIGH:
        yield _warning(
            "crowded",
            f"{crowded:.0%} of the spots have a neighbour within four widths: dilute the sample further.",
        )
    for warning in model.warnings:
        yield _warning("image", f"{warning[:1].upper()}{warning[1:]}".rstrip(".") + ".")


def _repeated(spots: Localizations) -> int:
    """Frames whose spots are those of the frame before to the last digit."""
    borders = np.flatnonzero(np.diff(spots.frame, prepend=-1, append=-1))
    same = 0
    for before, here, after in zip(borders, borders[1:], borders[2:], strict=False):
        follows = spots.frame[here] == spots.frame[before] + 1
        same += bool(follows and np.array_equal(spots.y[before:here], spots.y[here:after]))
    return same


def _motion(evidence: Evidence) -> Iterator[Flag]:
    linking, acquisition = evidence.linking, evidence.acquisition
    if evidence.stride > 1:
        yield _warning(
            "carried_over",
            "Images are carried over into the next frames, as video compression and temporal noise reduction do. Only "
            f"displacements over {evidence.stride} frames were used. The pooled diameter holds; the width of the "
            "distribution (mean, D10, D90, span, CV) is not reliable. Record uncompressed video.",
        )
    if linking.mislink_index > MISLINK_ADVISED:
        high = linking.mislink_index > MISLINK_HIGH
        yield (_warning if high else _info)(
            "mislink_high" if high else "mislink_raised",
            f"Mislink index {linking.mislink_index:.3f}: about {linking.mislink_index / 2:.1%} of the steps may join "
            f"different particles. {MISLINK_ADVISED:g} or less is advised: dilute, or record faster.",
        )
    yield from _crowded_classes(evidence.mislinks)
    if linking.n_shrunk:
        yield _warning(
            "dense_groups",
            f"In {linking.n_shrunk} place(s) so many spots lay together that the search radius was narrowed, or that "
            "they were not linked.",
        )
    step_px = np.sqrt(4 * evidence.diffusion_um2_s * acquisition.frame_interval_s) / acquisition.pixel_size_um
    flow_px = float(np.hypot(_mean(linking.flow_y_px), _mean(linking.flow_x_px)))
    if flow_px > FLOW_STEPS * step_px:
        yield _warning(
            "flow_large",
            f"The liquid flows by {flow_px:.1f} px per frame, {flow_px / step_px:.1f} times the Brownian step. It was "
            "subtracted; a slower pump gives longer tracks.",
        )
    if linking.flow_gradient is None and linking.shear_px > SHEAR_STEPS * step_px:
        yield _warning(
            "flow_sheared",
            f"The liquid moves by {linking.shear_px:.1f} px per frame faster at the border of the field than at its "
            'centre, which passes for diffusion. Set flow = "affine" in the section [link] of the protocol.',
        )
    # The variance of ln(Dy/Dx) over N displacements is about 12/N.
    chance = 3.0 * np.sqrt(12.0 / max(int(evidence.particles.n_steps.sum()), 1))
    if abs(np.log(evidence.anisotropy)) > max(ANISOTROPY, chance):
        yield _warning(
            "anisotropic",
            f"Diffusion along y is {evidence.anisotropy:.2f} times that along x, and should be equal: look for "
            "vibration, astigmatism or uneven flow.",
        )
    stuck = _share(evidence.particles.flag, ParticleFlag.STUCK)
    if stuck > SHARE_HIGH:
        yield _warning("stuck_particles", f"{stuck:.0%} of the tracks do not move; they were left out of the sizes.")
    moving = _share(evidence.particles.flag, ParticleFlag.MOVING)
    if moving > SHARE_HIGH:
        yield _warning(
            "own_velocity",
            f"{moving:.0%} of the tracks have a velocity beside the flow (chance alone gives 0.1 %), which passes for "
            'diffusion. Set velocity = "track" in the section [diffusion] of the protocol, and look for uneven flow.',
        )
    odd = _share(evidence.particles.flag, ParticleFlag.NOT_BROWNIAN)
    if odd > SHARE_HIGH:
        yield _warning(
            "not_brownian",
            f"{odd:.0%} of the tracks do not fit free diffusion (chance alone gives 0.1 %): wrong links, aggregates "
            "or uneven flow.",
        )


def _crowded_classes(mislinks: Mapping[str, float]) -> Iterator[Flag]:
    refused = {name: index for name, index in mislinks.items() if index > MISLINK_MOST}
    raised = {name: index for name, index in mislinks.items() if MISLINK_HIGH < index <= MISLINK_MOST}
    if refused:
        yield _warning(
            "class_not_reported",
            f"Too crowded for some size classes: {_indices(refused)}. Above {MISLINK_MOST:g} the share of a size "
            "class is not reported: dilute, or record faster.",
        )
    if raised:
        yield _warning(
            "class_mislink_high",
            f"Crowded for some size classes: {_indices(raised)}. Above {MISLINK_HIGH:g} "
            "the share of a size class is to be taken with care.",
        )


def _indices(mislinks: Mapping[str, float]) -> str:
    return ", ".join(f"mislink index {index:.2g} for {name}" for name, index in mislinks.items())


def _counts(evidence: Evidence) -> Iterator[Flag]:
    if evidence.blank:
        return  # few particles are what a blank is for
    if not len(evidence.spots) or evidence.count.particles_per_frame == 0:
        yield _warning(
            "no_spots",
            "No particles were followed: the video counts as zero in a concentration. Look at it with `exotrack "
            "inspect`, and check focus, light and polarity.",
        )
    elif evidence.n_used < TRACKS_FEW:
        yield _warning(
            "few_tracks",
            f"Only {evidence.n_used} tracks are long enough for a size: the distribution of this video alone is "
            f"uncertain. {TRACKS_ADVISED} or more per sample are advised.",
        )
    elif evidence.n_used < TRACKS_ADVISED:
        yield _info(
            "few_tracks",
            f"{evidence.n_used} tracks are long enough for a size; {TRACKS_ADVISED} or more per sample are advised.",
        )


def _checks(evidence: Evidence) -> Iterator[Flag]:
    model, density = evidence.model, evidence.linking.density_px2
    merged = 1.0 - np.exp(-np.pi * (MERGING_WIDTHS * model.sigma_px) ** 2 * density)
    if merged > SHARE_HIGH:
        yield _warning(
            "beyond_linear",
            f"About {merged:.0%} of the particles have another one so near that both are one spot: counts and "
            "concentration fall behind. Dilute the sample further.",
        )
    per_frame = evidence.count.particles_per_frame
    if 0 < per_frame < PARTICLES_FEW and not evidence.blank:
        yield _info(
            "few_particles",
            f"Only {per_frame:.1f} particles are in view: the concentration is uncertain. Record more fields, or "
            "dilute less.",
        )
    by_ddm = evidence.without_linking.get("ddm", {})
    off = abs(by_ddm.get("ratio", math.nan) - 1.0)
    error = by_ddm.get("ratio_error", math.nan)
    if math.isfinite(error) and off > max(DDM_APART, DDM_ERRORS * error):
        yield _warning(
            "ddm_disagrees",
            f"Differential dynamic microscopy of the detections gives {by_ddm['ratio']:.2f} ± "
            f"{by_ddm['ratio_error']:.2f} times the mean diffusion coefficient of the sizes.",
        )
    compared = evidence.without_linking.get("piccs", {})
    if compared.get("disagrees"):
        yield _warning(
            "sizes_disagree",
            f"Distances between spots of nearby frames, which need no linking, ask for diffusion coefficients "
            f"{compared['diffusion_ratio']:.2f} ± {compared['diffusion_ratio_error']:.2f} times those of the sizes.",
        )


def _share(flag: U16, bit: int) -> float:
    return float(np.mean((flag & bit) != 0)) if len(flag) else 0.0


def _mean(values: F64) -> float:
    return float(np.mean(values)) if len(values) else 0.0
