"""Fixtures shared by all tests: backends, hypothesis profiles, a small simulated study."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from host_device import HostRuntime

from exotrack import backends
from exotrack.backends.cuda import device

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def use_cuda(monkeypatch: pytest.MonkeyPatch, **host: Any) -> None:
    """Make the CUDA backend run here: on a device where there is one, otherwise on the processor.

    EXOTRACK_REQUIRE_CUDA=1 asks for a device.
    """
    if os.environ.get("EXOTRACK_REQUIRE_CUDA") == "1" or device.missing() is None:
        if os.environ.get("EXOTRACK_NO_MEMORY_POOL") == "1":  # compute-sanitizer knows whole allocations
            device.current().runtime.arrays.cuda.set_allocator(None)
        device.current()
        if host.get("backward"):
            pytest.skip("the order of the threads is the device's")
    elif shutil.which("g++") is None:
        pytest.skip("there is neither a CUDA device nor g++ to build the kernels for the processor")
    else:
        monkeypatch.setattr(device, "_device", device.Device(HostRuntime(**host)))


@pytest.fixture(params=["cpu", "cuda"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of each backend."""
    if request.param == "cuda":
        use_cuda(monkeypatch)
    return str(request.param)


@pytest.fixture(params=["forward", "backward"])
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The CUDA backend; on the processor with the threads of a block in either order."""
    use_cuda(monkeypatch, backward=request.param == "backward")
    return backends.load("cuda")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., HostRuntime]:
    """Puts a stand-in in the place of a device: a real one neither fills up nor fails nor is faulty when asked to."""

    def use(**options: Any) -> HostRuntime:
        runtime = HostRuntime(**options)
        monkeypatch.setattr(device, "_device", device.Device(runtime))
        return runtime

    return use


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
