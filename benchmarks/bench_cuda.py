"""The CUDA backend: kernels against the copy of the frames and two floors, and whole runs beside CPU and trackpy.

All on one machine in one run. Needs a CUDA device; see `gpu_check.sh`.

- `kernel`: events around every launch while a window is localized on one stream. `copy` is the time in which the bus
  delivers the same frames from pinned memory. The floors are the bytes that a kernel has to move over the measured
  bandwidth of the device's memory, and its floating-point operations, where these count, over the measured rate.
- `whole`: `localize` with the model given, by wall time, of frames in pinned and in ordinary memory and of an OME-Zarr
  store. `share of copy` is its rate in bytes over that of the pinned copy.
- `cpu` and `trackpy` run on one core by CPU time; trackpy sees the first frames only.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import trackpy
from harness import cpu_seconds, main, wall_seconds

import exotrack
from exotrack.backends import cpu, cuda
from exotrack.backends.cuda import device
from exotrack.localize import localize
from exotrack.video import convert

CASES = {
    "640×480 uint8, 60 spots": ((480, 640), 60.0, np.uint8, 3000),
    "1280×1024 uint8, 120 spots": ((1024, 1280), 120.0, np.uint8, 1500),
    "2048×2048 uint16, 300 spots": ((2048, 2048), 300.0, np.uint16, 300),
}
DISTINCT = 60
"""Frames that are simulated; they are repeated until caches are too small for them and many windows are under way."""
SPIN = """
extern "C" __global__ void spin() { for (long long start = clock64(); clock64() - start < 200000;); }
"""
"""About a tenth of a millisecond, in which the host enqueues a kernel and its marks: no launch is part of its time."""
RATE = """
extern "C" __global__ void rate(T* out, int n) {
    T a = threadIdx.x, b = a + 1, c = a + 2, d = a + 3;
    for (int i = 0; i < n; i++) { a = fma(a, a, b); b = fma(b, b, c); c = fma(c, c, d); d = fma(d, d, a); }
    out[blockIdx.x * blockDim.x + threadIdx.x] = a + b + c + d;
}
"""


class Timed:
    """A runtime that measures how long each kernel runs."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._launches: list[tuple[str, Any, Any, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def kernel(self, operation: str, entry: str, constants: Any) -> Any:
        """The kernel between two marks."""
        run = self._runtime.kernel(operation, entry, constants)

        def timed(grid: Any, block: Any, arguments: Any) -> None:
            self._keep_busy()
            before = self._now()
            run(grid, block, arguments)
            moved = sum(getattr(a, "nbytes", 0) for a in arguments if getattr(a, "ndim", 0))
            self._launches.append((f"{operation}.{entry}", before, self._now(), moved))

        return timed

    def collect(self) -> tuple[dict[str, float], dict[str, int]]:
        """Seconds of each kernel since the last call, and the bytes of the arrays that it was given."""
        seconds: dict[str, float] = defaultdict(float)
        moved: dict[str, int] = defaultdict(int)
        for name, before, after, size in self._launches:
            seconds[name] += self._between(before, after)
            moved[name] += size
        self._launches.clear()
        return dict(seconds), dict(moved)

    def _now(self) -> Any:
        if not hasattr(self._runtime.arrays, "cuda"):  # the stand-in of the tests
            return time.perf_counter()
        event = self._runtime.arrays.cuda.Event()
        event.record()
        return event

    def _keep_busy(self) -> None:
        if hasattr(self._runtime.arrays, "cuda"):
            self._spin = getattr(self, "_spin", None) or self._runtime.arrays.RawKernel(SPIN, "spin")
            self._spin((1,), (1,), ())

    def _between(self, before: Any, after: Any) -> float:
        if isinstance(before, float):
            return max(after - before, 1e-9)
        after.synchronize()
        return 1e-3 * float(self._runtime.arrays.cuda.get_elapsed_time(before, after))


@contextmanager
def timed_device() -> Iterator[Timed]:
    """The device with a clock at every kernel, and one window at a time: kernels of others would run in between."""
    before, in_flight = device.current(), cuda.IN_FLIGHT
    timed = Timed(before.runtime)
    device._device, cuda.IN_FLIGHT = device.Device(timed), 1
    try:
        yield timed
    finally:
        device._device, cuda.IN_FLIGHT = before, in_flight


def measure(quick: bool) -> list[dict[str, Any]]:
    """Rows of the table."""
    reason = device.missing()
    if reason is not None:
        raise SystemExit(f"nothing is measured: {reason}")
    trackpy.quiet()
    runtime = device.current().runtime
    size = 2**16 if quick else 2**29
    rates = {"copy": copy_rate(size), "memory": memory_rate(size), **operation_rates(runtime)}
    rows = [row("machine", ", ".join(f"{name} {value}" for name, value in runtime.describe().items()))]
    rows += [row("machine", "pinned copy, GB/s", value=1e-9 * rates["copy"])]
    rows += [row("machine", "device memory, GB/s", value=1e-9 * rates["memory"])]
    rows += [row("machine", f"{t}, Tflop/s", value=1e-12 * rates[t]) for t in ("float", "double") if t in rates]
    for case, (shape, particles, dtype, n_frames) in list(CASES.items())[: 1 if quick else None]:
        shape, particles, n_frames = ((64, 96), 8.0, 12) if quick else (shape, particles, n_frames)
        rows += measure_case(case, shape, particles, dtype, n_frames, rates, quick)
    return rows + measure_tables(rates, quick)


def row(case: str, what: str, **values: Any) -> dict[str, Any]:
    """A row with all columns."""
    columns = ("value", "µs/frame", "frames/s", "Gpx/s", "spots/s")
    columns += ("copy, µs/frame", "floor of bytes, µs/frame", "floor of operations, µs/frame")
    columns += ("share of copy", "times cpu", "times trackpy")
    return {"case": case, "what": what, **dict.fromkeys(columns), **values}


def measure_case(
    case: str, shape: tuple[int, int], particles: float, dtype: Any, n_frames: int, rates: dict[str, float], quick: bool
) -> list[dict[str, Any]]:
    """All of one kind of video."""
    distinct = min(DISTINCT, n_frames)
    video, _ = exotrack.simulate(
        frame_shape=shape, n_frames=distinct, particles_per_frame=particles, snr=10.0, seed=7,
        bit_depth=16 if dtype == np.uint16 else 8,
    )  # fmt: skip
    frames = np.concatenate([video.frames] * (n_frames // distinct)).astype(dtype)
    acquisition, repeats = video.acquisition, 1 if quick else 5
    given = partial(localize, acquisition=acquisition, model=localize(frames, acquisition=acquisition).model)
    pixels, copy = frames[0].size, frames[0].nbytes / rates["copy"]

    with timed_device() as timed:
        samples = []
        for _ in range(repeats + 1):
            spots = given(frames, backend="cuda")
            samples.append(timed.collect())
    moved = samples[-1][1]
    per_kernel = {name: float(np.median([s[name] for s, _ in samples[1:]])) / len(frames) for name in moved}
    n_spots = len(spots) / len(frames)

    def rate_row(what: str, seconds: float, **values: Any) -> dict[str, Any]:
        return row(case, what, **{
            "µs/frame": 1e6 * seconds, "frames/s": 1.0 / seconds, "Gpx/s": 1e-9 * pixels / seconds,
            "spots/s": n_spots / seconds, **values,
        })  # fmt: skip

    sure = sum(seconds for name, seconds in per_kernel.items() if name.partition(".")[0] in ("detect", "refine"))
    rows = [rate_row("kernels detect and refine", sure, **{"copy, µs/frame": 1e6 * copy})]
    for name, seconds in sorted(per_kernel.items()):
        floors = floor(name, frames, n_spots, moved[name] / len(frames), rates)
        rows.append(rate_row(f"kernel {name}", seconds, **{"copy, µs/frame": 1e6 * copy, **floors}))

    pinned = device.current().runtime.pinned(frames.shape, frames.dtype)
    pinned[:] = frames
    one_core = cpu_seconds(lambda: given(frames, backend="cpu"), 1) / len(frames)
    all_cores = wall_seconds(lambda: given(frames, backend="cpu", threads=os.cpu_count() or 1), 1) / len(frames)
    few = 2 if quick else 10
    peer = cpu_seconds(lambda: trackpy.batch(frames[:few], 7, engine="numba", processes=1), 1) / few
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "frames.npy", frames)
        opened = exotrack.open_video(
            Path(folder) / "frames.npy", pixel_size_um=acquisition.pixel_size_um,
            frame_interval_s=acquisition.frame_interval_s,
        )  # fmt: skip
        store = convert(opened, Path(folder) / "frames.zarr")
        sources = {
            "pinned memory": lambda: given(pinned, backend="cuda", threads=4),
            "ordinary memory": lambda: given(frames, backend="cuda", threads=8),
            "OME-Zarr": lambda: localize(store, model=given.keywords["model"], backend="cuda", threads=8),
        }
        for name, call in sources.items():
            seconds = wall_seconds(call, repeats) / len(frames)
            compared = {
                "share of copy": copy / seconds,
                "times cpu": one_core / seconds,
                "times trackpy": peer / seconds,
            }
            rows.append(rate_row(f"whole, from {name}", seconds, **compared))
    rows.append(rate_row("whole, cpu, all cores, wall time", all_cores, **{"times trackpy": peer / all_cores}))
    rows.append(rate_row("whole, cpu, one core", one_core, **{"times trackpy": peer / one_core}))
    rows.append(rate_row("trackpy, one core", peer))
    return rows


def measure_tables(rates: dict[str, float], quick: bool) -> list[dict[str, Any]]:
    """Matching and likelihoods, beside the CPU backend on one core; a unit is a spot, or a track."""
    rng = np.random.default_rng(1)
    n_frames, spots, n_tracks, n_steps, n_grid = (5, 20, 20, 15, 64) if quick else (3000, 60, 100_000, 15, 200)
    n = n_frames * spots
    y, x = rng.uniform(0, 480, n), rng.uniform(0, 640, n)
    first = np.arange(n_frames - 1) * spots
    pairs = np.stack([first, first + spots, first + spots, first + 2 * spots], axis=1)
    costs = np.linspace(0.0, 900.0, 65)

    def match(backend: Any) -> None:
        partner = np.full(n, -1, np.int64)
        backend.match(y, x, y, x, pairs, partner, gate=20.0, costs=costs, cost_unmatched=1000)

    offsets = np.arange(n_tracks + 1) * (n_steps + 1)
    steps, errors = rng.normal(0, 0.4, (2, n_tracks * n_steps)), rng.uniform(0, 0.01, (2, offsets[-1]))
    gap, blur = np.ones(n_tracks * n_steps, np.int32), np.full(n_tracks, 1 / 6)

    def likelihood(backend: Any) -> None:
        grid = np.geomspace(0.1, 50.0, n_grid)
        backend.likelihood(*steps, gap, *errors, blur, offsets, grid, frame_interval_s=1 / 30)

    operations = {"match": 0.0, "likelihood": 2.0 * 13 * n_tracks * n_steps * n_grid}
    rows = []
    for work, units in ((match, n), (likelihood, n_tracks)):
        name = work.__name__
        on_cpu = cpu_seconds(partial(work, cpu), 1 if quick else 3)
        with timed_device() as timed:
            whole = wall_seconds(partial(work, cuda), 1 if quick else 5)
            timed.collect()
            work(cuda)
            seconds, moved = timed.collect()
        for kernel, spent in seconds.items():
            given = n * 40 if name == "match" else moved[kernel]  # without the scratch of the assignment
            rows.append(row("tables", f"kernel {kernel}, µs per 1000", value=1e9 * spent / units, **{
                "floor of bytes, µs/frame": 1e9 * given / rates["memory"] / units,
                "floor of operations, µs/frame": 1e9 * operations[name] / rates["double"] / units,
            }))  # fmt: skip
        compared = {"times cpu": on_cpu / whole}
        rows.append(row("tables", f"whole {name}, µs per 1000", value=1e9 * whole / units, **compared))
    return rows


def copy_rate(size: int) -> float:
    """Bytes per second from pinned memory to the device."""
    runtime = device.current().runtime
    source = runtime.pinned((size,), np.uint8)
    source[:] = 1
    with device.lane("copy") as lane:
        target = lane.empty(size, np.uint8)

        def copy() -> None:
            runtime.copy_in(target, 0, source, lane.stream)
            lane.wait()

        return size / wall_seconds(copy, 10)


def memory_rate(size: int) -> float:
    """Bytes per second that the device reads and writes in a copy within its memory."""
    with device.lane("memory") as lane:
        source, target = lane.zeros(size, np.uint8), lane.zeros(size, np.uint8)

        def copy() -> None:
            lane.arrays.copyto(target, source)
            lane.wait()

        return 2 * size / wall_seconds(copy, 10)


def operation_rates(runtime: Any) -> dict[str, float]:
    """Multiplications and additions per second, fused, in single and double precision; nothing for the stand-in."""
    if not hasattr(runtime.arrays, "cuda"):
        return {"float": math.inf, "double": math.inf}
    cupy = runtime.arrays
    blocks, loops = 32 * cupy.cuda.Device().attributes["MultiProcessorCount"], 4096
    rates = {}
    for name in ("float", "double"):
        kernel = cupy.RawKernel(RATE.replace("T", name), "rate")
        out = cupy.empty(blocks * 256, name if name == "double" else "float32")

        def run(kernel: Any = kernel, out: Any = out) -> None:
            kernel((blocks,), (256,), (out, np.int32(loops)))
            cupy.cuda.Device().synchronize()

        rates[name] = 8.0 * loops * blocks * 256 / wall_seconds(run, 5)
    return rates


def floor(name: str, frames: np.ndarray, n_spots: float, moved: float, rates: dict[str, float]) -> dict[str, float]:
    """The two floors of a kernel per frame: `moved` is the bytes of the arrays that it was given.

    Fits read the windows of the spots alone; there is none where a kernel looks at part of what it gets. Operations are
    counted in the equations, not in the machine code: for the filter of σ near 1.4 px on every second pixel 11 per
    pixel of the columns and 7.5 of the rows, with the margins of the tiles 1.4 times that; for a fit 60 per pixel of a
    9 × 9 window and 300 in double precision in each of 7 steps.
    """
    pixels, size = frames[0].size, frames[0].nbytes
    single = double = 0.0
    if name in ("detect.locate", "refine.fit_crowded", "refine.finish"):
        return {}
    if name == "detect.peaks":
        moved, single = size, 1.4 * 18.5 * pixels
    elif name == "refine.fit":
        moved = n_spots * 81 * (frames.itemsize + 8)
        single, double = 7 * 81 * 60 * n_spots, 7 * 300 * n_spots
    return {
        "floor of bytes, µs/frame": 1e6 * moved / rates["memory"],
        "floor of operations, µs/frame": 1e6 * (single / rates["float"] + double / rates["double"]),
    }


if __name__ == "__main__":
    main("cuda", measure)
