"""Fixtures shared by all tests: backends, hypothesis profiles, a small simulated study."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from exotrack import backends
from exotrack.errors import BackendError

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def backend(request: pytest.FixtureRequest) -> str:
    """Name of each backend that runs here; EXOTRACK_REQUIRE_CUDA=1 turns a missing device into a failure."""
    name: str = request.param
    try:
        return backends.resolve(name)
    except BackendError as error:
        if os.environ.get("EXOTRACK_REQUIRE_CUDA") == "1":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sample sheet of two batches of two simulated videos: 120 frames of 128×160 px, about 25 particles of 100 nm."""
    from exotrack.simulate import simulate

    folder = tmp_path_factory.mktemp("study")
    lines = ["video,batch,sample,role,pixel_size_um,frame_interval_s,exposure_s,temperature_c,depth_um,donor"]
    for i, (batch, diameter) in enumerate([("B1", 100.0), ("B1", 100.0), ("B2", 150.0), ("B2", 150.0)]):
        video, _ = simulate(
            frame_shape=(128, 160),
            n_frames=120,
            sizes=[{"diameter_nm": diameter, "cv": 0.04}],
            particles_per_frame=25.0,
            reference_diameter_nm=diameter,
            seed=i + 1,
        )
        np.save(folder / f"v{i}.npy", video.frames)
        a = video.acquisition
        lines.append(
            f"v{i}.npy,{batch},S{i % 2},,{a.pixel_size_um},{a.frame_interval_s!r},{a.exposure_s},25,{a.depth_um},D{i}"
        )
    sheet = folder / "samplesheet.csv"
    sheet.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return sheet
