"""Remarks on a video: each appears when it should, alone, and as a sentence."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_sizing import counted

from exotrack.acquisition import Acquisition
from exotrack.pipeline import quality
from exotrack.tables import LinkSummary, Localizations, ParticleFlag, Particles, SpotFlag, SpotModel

DISAGREEING = {"diffusion_ratio": 1.3, "diffusion_ratio_error": 0.05, "disagrees": True}


def evidence(**changes):
    given = {
        "acquisition": Acquisition(
            pixel_size_um=0.2, frame_interval_s=1 / 30, exposure_s=0.02, origins={"temperature_c": "sample sheet"}
        ),
        "model": SpotModel("bright", 1.5, 4.5, True, 2.0, 0.3, 0.0),
        "spots": Localizations.empty(),
        "particles": Particles.empty(),
        "linking": linking(),
        "mislinks": {"fraction_below_50_nm": 0.04, "fraction_above_50_nm": 0.01},
        "n_used": 5000,
        "diffusion_um2_s": 5.0,
        "anisotropy": 1.0,
        "stride": 1,
        "n_frames": 500,
        "count": counted(1e9),
        "blank": False,
        "without_linking": {},
    }
    return quality.Evidence(**{**given, **changes})


def linking(**changes):
    """What linking says of a healthy video."""
    flow = {"flow_y_px": np.zeros(99), "flow_x_px": np.zeros(99), "flow_centre_px": (49.5, 49.5), "flow_gradient": None}
    numbers = {
        "n_links": 10,
        "gate_px": 5.0,
        "mislink_index": 0.01,
        "density_px2": 1e-3,
        "shear_px": 0.0,
        "n_shrunk": 0,
    }
    return LinkSummary(**{**flow, **numbers, **changes})


def spots(flag: int) -> Localizations:
    """One spot in every frame of the healthy video, never twice at the same place."""
    columns = {name: np.ones(500, spec["dtype"]) for name, spec in Localizations.columns().items()}
    place = {"frame": np.arange(500), "y": np.arange(500.0), "flag": np.full(500, flag, np.uint16)}
    return Localizations(**{**columns, **place})


def crowd(frames, y) -> Localizations:
    """Six spots in each of the frames, at the same places in all frames of equal y."""
    columns = {name: np.ones(6 * len(frames), spec["dtype"]) for name, spec in Localizations.columns().items()}
    place = {"frame": np.repeat(frames, 6), "y": np.repeat(y, 6) + np.tile(np.arange(6.0), len(frames))}
    return Localizations(**{**columns, **place, "flag": np.zeros(6 * len(frames))})


def acquisition(**changes):
    return Acquisition(**{"pixel_size_um": 0.2, "frame_interval_s": 0.04, "exposure_s": 0.02, **changes})


def particles(flag: int) -> Particles:
    columns = {name: np.ones(10, spec["dtype"]) for name, spec in Particles.columns().items()}
    return Particles(**{**columns, "flag": np.full(10, flag, np.uint16)})


def many(flag: int) -> Particles:
    """As `particles`, of 10,000 displacements."""
    return dataclasses.replace(particles(flag), n_steps=np.full(10, 1000, np.int32))


@pytest.mark.parametrize(
    ("changes", "code", "level"),
    [
        ({"acquisition": acquisition(origins={"temperature_c": "protocol default"})}, "temperature_assumed", "warning"),
        ({"acquisition": acquisition(exposure_s=None)}, "exposure_unknown", "info"),
        ({"acquisition": acquisition(origins={"frame_interval_s": "container"})}, "container_rate", "info"),
        ({"n_frames": 40}, "short_video", "info"),
        ({"spots": spots(SpotFlag.SATURATED)}, "saturated", "warning"),
        ({"spots": spots(SpotFlag.CROWDED)}, "crowded", "warning"),
        ({"model": SpotModel("bright", 1.5, 4.5, True, 2.0, 0.3, 0.0, warnings=("gain is low",))}, "image", "warning"),
        ({"linking": linking(mislink_index=0.04)}, "mislink_raised", "info"),
        ({"linking": linking(mislink_index=0.2)}, "mislink_high", "warning"),
        ({"mislinks": {"fraction_below_50_nm": 0.07}}, "class_mislink_high", "warning"),
        ({"mislinks": {"fraction_below_50_nm": 0.2, "fraction_above_50_nm": 0.02}}, "class_not_reported", "warning"),
        ({"linking": linking(n_shrunk=3)}, "dense_groups", "warning"),
        ({"linking": linking(flow_y_px=np.full(9, 40.0))}, "flow_large", "warning"),
        ({"linking": linking(shear_px=2.0)}, "flow_sheared", "warning"),
        ({"particles": particles(ParticleFlag.STUCK)}, "stuck_particles", "warning"),
        ({"particles": particles(ParticleFlag.NOT_BROWNIAN)}, "not_brownian", "warning"),
        ({"anisotropy": 1.2, "particles": many(0)}, "anisotropic", "warning"),
        ({"stride": 4}, "carried_over", "warning"),
        ({"spots": crowd(np.arange(0, 500, 2), np.arange(250.0))}, "frames_lost", "warning"),
        ({"spots": crowd(np.arange(500), np.arange(500) // 2 * 10.0)}, "frames_repeated", "warning"),
        ({"spots": spots(0), "n_used": 20}, "few_tracks", "warning"),
        ({"spots": spots(0), "n_used": 200}, "few_tracks", "info"),
        ({"particles": many(ParticleFlag.MOVING)}, "own_velocity", "warning"),
        ({"linking": linking(density_px2=2e-3)}, "beyond_linear", "warning"),
        ({"count": dataclasses.replace(counted(1e9), particles_per_frame=2.0)}, "few_particles", "info"),
        ({"without_linking": {"piccs": DISAGREEING}}, "sizes_disagree", "warning"),
        ({"without_linking": {"ddm": {"ratio": 1.4, "ratio_error": 0.1}}}, "ddm_disagrees", "warning"),
    ],
)
def test_each_remark_appears_when_it_should_and_alone(changes, code, level):
    healthy = evidence(spots=spots(0))
    assert quality.flags(healthy) == []
    (flag,) = quality.flags(evidence(**{"spots": spots(0), **changes}))
    assert (flag["code"], flag["level"]) == (code, level)
    assert flag["message"].endswith(".")


def test_anisotropy_of_few_displacements_is_chance():
    assert quality.flags(evidence(spots=spots(0), anisotropy=1.2, particles=particles(0))) == []


def test_a_blank_without_particles_is_as_it_should_be():
    assert quality.flags(evidence(blank=True)) == []


def test_no_spots_is_said_plainly():
    assert [flag["code"] for flag in quality.flags(evidence())] == ["no_spots"]
    numbers = {"diffusion_um2_s": np.nan, "anisotropy": np.nan}
    assert [flag["code"] for flag in quality.flags(evidence(**numbers))] == ["no_spots"]
