"""The host build of the kernels itself: each kind of fault that it is there for is planted and must be found."""

import re

import numpy as np
import oracles
import pytest
from host_device import KernelError, sanitized

from exotrack.backends import cpu
from exotrack.backends.cuda import device, sources
from exotrack.backends.cuda import filter as filtering
from exotrack.backends.cuda.blocks import upload
from exotrack.backends.cuda.detect import detect
from exotrack.backends.cuda.filter import matched_filter
from exotrack.errors import DeviceError, DeviceMemoryError
from exotrack.localize.matched import MatchedFilter

pytestmark = pytest.mark.skipif(
    "not __import__('shutil').which('g++')", reason="no g++ to build the kernels for the processor"
)

MATCHED = MatchedFilter.for_sigma(1.3)
SHAPE = (2, 41, 300)
SETTINGS = {"box_half": MATCHED.box_half, "step": MATCHED.step, "pedestal": 0.0}


@pytest.fixture
def frames():
    return np.random.default_rng(1).integers(0, 255, SHAPE, dtype=np.uint8)


def replaced(operation, old, new, *, header=None):
    """A fault to plant: one place of a source, or of a header that it includes, is written differently."""

    def plant(name, text):
        if name != operation:
            return None
        if header is not None:
            inner = (sources.folder() / header).read_text(encoding="utf-8")
            text = text.replace(f'#include "{header}"', inner.replace("#pragma once", ""))
        assert old in text
        return text.replace(old, new, 1)

    return plant


def filtered_well(frames):
    """Whether the kernel as it is planted gives what it should."""
    result = matched_filter(frames, MATCHED.taps, **SETTINGS)
    return np.allclose(result, cpu.matched_filter(frames, MATCHED.taps, **SETTINGS), atol=1e-3)


@pytest.mark.parametrize("backward", [False, True])
def test_without_a_fault_all_is_well(host, frames, backward):
    host(backward=backward)
    assert filtered_well(frames)


def test_an_index_out_of_bounds_is_named(host, frames):
    host(plant=replaced("matched_filter", "0, height - 1)", "0, height)", header="filter.cuh"))
    with pytest.raises(
        DeviceError, match=r"matched_filter\.filter: thread .* index \d+ of argument 0, which has 24600"
    ):
        matched_filter(frames, MATCHED.taps, **SETTINGS)


def test_an_index_out_of_bounds_of_shared_memory_is_named(host, frames):
    host(plant=replaced("matched_filter", "box[centre + u]", "box[centre + u + 1]", header="filter.cuh"))
    with pytest.raises(DeviceError, match=r"index (\d+) of box, which has \1 elements"):
        matched_filter(frames, MATCHED.taps, **SETTINGS)


def test_an_index_off_by_one_within_bounds_shows_in_the_result(host, frames):
    host(plant=replaced("matched_filter", "gauss[centre - t]", "gauss[centre - t + 1]", header="filter.cuh"))
    assert not filtered_well(frames)


def test_a_missing_barrier_shows_in_one_of_the_two_orders(host, frames):
    plant = replaced("matched_filter", "        __syncthreads();\n        for", "        for", header="filter.cuh")
    well = []
    for backward in (False, True):
        host(plant=plant, backward=backward)
        well.append(filtered_well(frames))
    assert not all(well)


def test_a_missing_barrier_is_a_data_race_for_threadsanitizer(host, frames, tmp_path):
    host(record=tmp_path)
    matched_filter(frames[:1, :, :40], MATCHED.taps, **SETTINGS)
    launch = next(path for path in tmp_path.iterdir() if not path.suffix)
    assert sanitized(launch, "thread") == (0, "")
    plant = replaced("matched_filter", "        __syncthreads();\n        for", "        for", header="filter.cuh")
    code, said = sanitized(launch, "thread", plant=plant)
    assert code == 66
    assert "data race" in said


def test_undefined_behaviour_is_found_by_the_sanitizers(host, frames, tmp_path):
    host(record=tmp_path)
    matched_filter(frames[:1, :, :40], MATCHED.taps, **SETTINGS)
    launch = next(path for path in tmp_path.iterdir() if not path.suffix)
    assert sanitized(launch, "address,undefined") == (0, "")
    plant = replaced(
        "matched_filter", "const int64 frame = blockIdx.x;", "const int64 frame = blockIdx.x << threadIdx.x;"
    )
    code, said = sanitized(launch, "address,undefined", plant=plant)
    assert code == 67
    assert "shift exponent" in said


def test_shared_memory_that_nothing_was_written_to_is_no_number(host, frames):
    host(plant=replaced("matched_filter", "c < SPAN; c +=", "c < SPAN - 1; c +=", header="filter.cuh"))
    result = matched_filter(frames, MATCHED.taps, **SETTINGS)
    assert np.isnan(result).any()


def test_a_grid_that_is_too_small_leaves_no_numbers(host, frames, monkeypatch):
    host()
    monkeypatch.setattr(filtering, "tiles", lambda constants, shape: (shape[0] // constants["TILE_H"], 2))
    result = matched_filter(frames, MATCHED.taps, **SETTINGS)
    assert np.isnan(result[:, -1]).all()


def test_more_threads_than_the_kernel_was_compiled_for(host, frames):
    runtime = host()
    matched_filter(frames, MATCHED.taps, **SETTINGS)
    constants = runtime.launches[0][-1]
    with device.lane("test") as lane:
        sizes = (np.int32(41), np.int32(300), np.float32(0), np.int32(21), np.int32(150))
        arguments = (lane.put(frames), lane.put(MATCHED.taps), *sizes, lane.empty((2, 21, 150), np.float32))
        lane.launch("matched_filter", "filter", (1, 1, 1), 288, arguments, constants)
        with pytest.raises(KernelError, match="288 threads per block, but the kernel was compiled for 256"):
            lane.wait()


def test_a_barrier_that_not_all_reach(host, frames):
    host(
        plant=replaced(
            "matched_filter", "    const int64 frame", "    if (threadIdx.x > 200) return;\n    const int64 frame"
        )
    )
    with pytest.raises(DeviceError, match="a barrier is not reached by all"):
        matched_filter(frames, MATCHED.taps, **SETTINGS)


def test_a_warp_operation_of_part_of_a_warp(host):
    spots = np.full((1, 40, 60), 10, np.uint8)
    spots[0, 20:23, 30:33] = 90
    top = cpu.matched_filter(spots, MATCHED.taps, **SETTINGS).max()  # not plain: `locate` has to look at it
    maps = [np.full(MATCHED.lattice(40, 60), value, np.float32) for value in (0.0, 1.0, 0.8 * top)]
    host(
        plant=replaced(
            "detect", "    float tap[RADIUS + 1];\n", "    if (lane > 20) return;\n    float tap[RADIUS + 1];\n"
        )
    )
    with pytest.raises(DeviceError, match="a barrier is not reached by all"):
        detect(spots, *maps, MATCHED.taps, sign=1.0, **SETTINGS)


def test_arguments_of_the_wrong_type_or_number(host):
    host()
    constants = filtering.tile(MATCHED.taps, MATCHED.box_half, MATCHED.step, np.uint8, margin=0)
    with device.lane("test") as lane:
        array = lane.empty(10, np.float32)
        for arguments, words in (
            ((array,), "1 arguments, but the kernel takes 8"),
            ((array,) * 8, "argument 6: the kernel takes no array, i4, not f4"),
        ):
            lane.launch("matched_filter", "filter", (1, 1, 1), 32, arguments, constants)
            with pytest.raises(KernelError, match=words):
                lane.wait()
        with pytest.raises(TypeError, match="3 has no width"):
            lane.launch("matched_filter", "filter", (1, 1, 1), 32, (3,), constants)


def test_staging_memory_that_is_filled_too_early_shows(host, monkeypatch):
    data = np.random.default_rng(1).integers(0, 255, 7000, dtype=np.uint8)
    monkeypatch.setattr(device, "STAGE_BYTES", 1000)
    host()
    with device.lane("test") as lane:
        assert np.array_equal(lane.get(lane.put(data)), data)
        monkeypatch.setattr("host_device.Mark.synchronize", lambda _: None)
        assert not np.array_equal(lane.get(lane.put(data)), data)


def test_a_result_that_is_read_before_it_is_there_shows(host, frames, monkeypatch):
    host()
    monkeypatch.setattr(device.Lane, "wait", lambda _: None)
    assert not filtered_well(frames)


def test_pinned_memory_is_copied_without_staging(host):
    runtime = host()
    data = runtime.pinned((1000,), np.uint8)
    data[:] = 7
    with device.lane("test") as lane:
        assert np.array_equal(lane.get(lane.put(data[100:200])), data[100:200])
        assert len(lane._slots) == 1  # that of `get`


def test_memory_is_given_back_and_its_end_is_told(host, frames):
    runtime = host(room=2 * frames.nbytes)
    held = upload(frames)
    assert runtime.used == frames.nbytes
    with pytest.raises(DeviceMemoryError, match="host build has no memory left"):
        matched_filter(held, MATCHED.taps, **{**SETTINGS, "step": 1, "box_half": 7})
    del held
    assert runtime.used == 0


def test_every_kernel_has_a_bound_and_every_source_a_kernel():
    assert sources.operations()
    for operation in sources.operations():
        text = sources.text(operation)
        assert text.startswith(f'#line 1 "kernels/{operation}.cu"\n//')
        assert len(re.findall(r"__global__|KERNEL\(", text)) == len(sources.entries(operation)) > 0


def test_the_filter_agrees_with_its_definition(host, frames):
    host()
    result = matched_filter(frames, MATCHED.taps, **SETTINGS)
    assert np.allclose(result, oracles.matched_filter(frames, MATCHED.kernel(), MATCHED.step), atol=1e-3)
