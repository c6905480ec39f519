"""Remarks on a video: each appears when it should, alone, and as a sentence."""

from __future__ import annotations

import numpy as np
import pytest

from exotrack.acquisition import Acquisition
from exotrack.pipeline import quality
from exotrack.tables import LinkSummary, Localizations, ParticleFlag, Particles, SpotFlag, SpotModel


def evidence(**changes):
    given = {
        "acquisition": Acquisition(
            pixel_size_um=0.2, frame_interval_s=1 / 30, exposure_s=0.02, origins={"temperature_c": "sample sheet"}
        ),
        "model": SpotModel("bright", 1.5, 4.5, True, 2.0, 0.3, 0.0),
        "spots": Localizations.empty(),
        "particles": Particles.empty(),
        "linking": LinkSummary(10, 5.0, 0.01, np.zeros(99), np.zeros(99), 0),
        "n_used": 5000,
        "diffusion_um2_s": 5.0,
        "anisotropy": 1.0,
        "stride": 1,
        "n_frames": 500,
    }
    return quality.Evidence(**{**given, **changes})


def spots(flag: int) -> Localizations:
    columns = {name: np.ones(10, spec["dtype"]) for name, spec in Localizations.columns().items()}
    return Localizations(**{**columns, "flag": np.full(10, flag, np.uint16)})


def acquisition(**changes):
    return Acquisition(**{"pixel_size_um": 0.2, "frame_interval_s": 0.04, "exposure_s": 0.02, **changes})


def particles(flag: int) -> Particles:
    columns = {name: np.ones(10, spec["dtype"]) for name, spec in Particles.columns().items()}
    return Particles(**{**columns, "flag": np.full(10, flag, np.uint16)})


@pytest.mark.parametrize(
    ("changes", "code", "level"),
    [
        ({"acquisition": acquisition(origins={"temperature_c": "protocol default"})}, "temperature_assumed", "warning"),
        ({"acquisition": acquisition(exposure_s=None)}, "exposure_unknown", "info"),
        ({"acquisition": acquisition(origins={"frame_interval_s": "container"})}, "container_rate", "info"),
        ({"n_frames": 40}, "short_video", "info"),
        ({"spots": spots(SpotFlag.SATURATED)}, "saturated", "warning"),
        ({"spots": spots(SpotFlag.CROWDED)}, "crowded", "warning"),
        ({"model": SpotModel("bright", 1.5, 4.5, True, 2.0, 0.3, 0.0, ("gain is low",))}, "image", "warning"),
        ({"linking": LinkSummary(9, 5.0, 0.04, np.zeros(9), np.zeros(9), 0)}, "mislink_raised", "info"),
        ({"linking": LinkSummary(9, 5.0, 0.2, np.zeros(9), np.zeros(9), 0)}, "mislink_high", "warning"),
        ({"linking": LinkSummary(9, 5.0, 0.0, np.zeros(9), np.zeros(9), 3)}, "dense_groups", "warning"),
        ({"linking": LinkSummary(9, 5.0, 0.0, np.full(9, 40.0), np.zeros(9), 0)}, "flow_large", "warning"),
        ({"particles": particles(ParticleFlag.STUCK)}, "stuck_particles", "warning"),
        ({"particles": particles(ParticleFlag.NOT_BROWNIAN)}, "not_brownian", "warning"),
        ({"anisotropy": 1.2}, "anisotropic", "warning"),
        ({"spots": spots(0), "n_used": 20}, "few_tracks", "warning"),
        ({"spots": spots(0), "n_used": 200}, "few_tracks", "info"),
    ],
)
def test_each_remark_appears_when_it_should_and_alone(changes, code, level):
    healthy = evidence(spots=spots(0))
    assert quality.flags(healthy) == []
    (flag,) = quality.flags(evidence(**{"spots": spots(0), **changes}))
    assert (flag["code"], flag["level"]) == (code, level)
    assert flag["message"].endswith(".")


def test_no_spots_is_said_plainly():
    assert [flag["code"] for flag in quality.flags(evidence())] == ["no_spots"]
    numbers = {"diffusion_um2_s": np.nan, "anisotropy": np.nan}
    assert [flag["code"] for flag in quality.flags(evidence(**numbers))] == ["no_spots"]
