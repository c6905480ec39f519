"""The device of this process: data in and out through pinned memory, kernels, and what happens when it fails.

A lane is a stream with its own staging memory. Every operation takes one that is free, enqueues its work there and
waits for it when it fetches its results, so that as many blocks are under way as there are threads, and the copies of
one overlap with the kernels of another.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import numpy as np

from exotrack.backends.cuda import sources
from exotrack.backends.cuda.runtime import CudaRuntime, unavailable
from exotrack.errors import BackendError, DeviceError, DeviceLostError, DeviceMemoryError
from exotrack.tables import Array

STAGE_BYTES: Final = 8 * 2**20
"""Size of a piece of pinned memory: two pieces stay in the processor's cache while one is filled and one is copied."""


class Uploaded:
    """Frames, or a map, that lie on the device as well as on the host."""

    def __init__(self, host: Array, on_device: Any) -> None:
        self.host, self.on_device = host, on_device
        self.shape, self.dtype = host.shape, host.dtype

    def __len__(self) -> int:
        return len(self.host)


class Lane:
    """A stream of the device, for one operation at a time."""

    def __init__(self, runtime: Any) -> None:
        self.runtime, self.stream = runtime, runtime.new_stream()
        self._slots: list[Array] = []
        self._marks: list[Any] = [None, None]

    @property
    def arrays(self) -> Any:
        """The module whose functions work on the device's arrays: CuPy."""
        return self.runtime.arrays

    def empty(self, shape: tuple[int, ...] | int, dtype: Any) -> Any:
        """An array of the device that holds anything."""
        return self.runtime.empty((shape,) if isinstance(shape, int) else shape, np.dtype(dtype))

    def zeros(self, shape: tuple[int, ...] | int, dtype: Any) -> Any:
        """An array of the device that holds zeros."""
        array = self.empty(shape, dtype)
        if array.nbytes:
            self.runtime.fill(array, 0, self.stream)
        return array

    def put(self, array: Array | Uploaded) -> Any:
        """Enqueue a copy to the device; the array may not change before the lane's next `get` or `wait`.

        Pinned arrays are copied as they are. Others go through two pieces of pinned memory, one of which is filled
        while the other one is copied.
        """
        if isinstance(array, Uploaded):
            return array.on_device
        source = np.ascontiguousarray(array)
        target = self.empty(source.shape, source.dtype)
        data = source.reshape(-1).view(np.uint8)
        if not len(data):
            return target
        if self.runtime.is_pinned(data):
            self.runtime.copy_in(target, 0, data, self.stream)
            return target
        for start in range(0, len(data), STAGE_BYTES):
            piece = data[start : start + STAGE_BYTES]
            slot, mark = self._stage(start // STAGE_BYTES % 2)
            if mark is not None:
                mark.synchronize()
            np.copyto(slot[: len(piece)], piece)
            self.runtime.copy_in(target, start, slot[: len(piece)], self.stream)
            self._marks[start // STAGE_BYTES % 2] = self.runtime.mark(self.stream)
        return target

    def get(self, array: Any) -> Array:
        """Wait for all work of the lane and return a copy on the host."""
        result = np.empty(array.shape, array.dtype)
        data = result.reshape(-1).view(np.uint8)
        for start in range(0, len(data), STAGE_BYTES):
            piece = data[start : start + STAGE_BYTES]
            slot, _ = self._stage(0)
            self.runtime.copy_out(slot[: len(piece)], array, start, self.stream)
            self.wait()
            np.copyto(piece, slot[: len(piece)])
        return result

    def launch(
        self,
        operation: str,
        entry: str,
        grid: tuple[int, int, int],
        block: int,
        arguments: tuple[Any, ...],
        constants: sources.Constants | None = None,
    ) -> None:
        """Enqueue a kernel: arrays of the device and NumPy scalars of the very types of its parameters."""
        for value in arguments:
            if type(value) in (bool, int, float):
                raise TypeError(f"{operation}.{entry}: {value!r} has no width; give a NumPy scalar")
        self.runtime.kernel(operation, entry, constants or {})(grid, (block, 1, 1), arguments)

    def wait(self) -> None:
        """Wait for all work of the lane."""
        self.runtime.synchronize(self.stream)

    def _stage(self, number: int) -> tuple[Array, Any]:
        while len(self._slots) <= number:
            self._slots.append(self.runtime.pinned((STAGE_BYTES,), np.uint8))
        return self._slots[number], self._marks[number]


class Device:
    """A device and its lanes."""

    def __init__(self, runtime: Any) -> None:
        self.runtime = runtime
        self.name = runtime.describe()["device"]
        self._lock = threading.Lock()
        self._free: list[Lane] = []
        self._lost = ""

    @contextmanager
    def lane(self, operation: str) -> Iterator[Lane]:
        """A free lane; failures inside are raised as errors of exotrack.

        Raises
        ------
        DeviceMemoryError
            There is no room: the caller may try again with less.
        DeviceLostError
            The device does not answer any more, as after an illegal access to memory or a fault of the hardware: CUDA
            gives this process nothing but the same error from then on.
        DeviceError
            A kernel failed. Errors of earlier work may come up here.
        BackendError
            A kernel cannot be compiled, or a library of CUDA is missing.
        """
        if self._lost:
            raise DeviceLostError(self._lost)
        lane: Lane | None = None
        try:
            with self._lock:
                lane = self._free.pop() if self._free else None
            lane = lane or Lane(self.runtime)
            with self.runtime.current(lane.stream):
                yield lane
        except self.runtime.failures as error:
            if self.runtime.short_of_memory(error):
                raise DeviceMemoryError(f"{operation}: {self.name} has no memory left ({_one_line(error)})") from error
            if self.runtime.is_setup(error):
                raise BackendError(f"{operation}: {_one_line(error)}") from error
            words = f"{operation} failed on {self.name}: {_one_line(error)}; see what nvidia-smi says"
            if lane is None or not self._answers(lane):
                self._lost = f"{words}, and start again: this process cannot use the device any more"
                raise DeviceLostError(self._lost) from error
            raise DeviceError(f"{words}, or run with --backend cpu") from error
        finally:
            if lane is not None and not self._lost:
                self._free.append(lane)

    def _answers(self, lane: Lane) -> bool:
        """Whether the device still works; what an operation has left in its lane is done afterwards."""
        try:
            lane.wait()
        except self.runtime.failures:
            return False
        return True


_lock = threading.Lock()
_device: Device | None = None


def current() -> Device:
    """The device of this process, opened when it is first asked for."""
    global _device
    with _lock:
        if _device is None:
            reason = unavailable()
            if reason is not None:
                raise BackendError(f"backend 'cuda' cannot run here: {reason}; use --backend cpu or auto")
            _device = Device(CudaRuntime())
        return _device


def missing() -> str | None:
    """Why there is no device, in one clause; None where there is one."""
    return unavailable() if _device is None else None


def lane(operation: str) -> AbstractContextManager[Lane]:
    """Context of an operation on a lane of the current device; see `Device.lane`."""
    return current().lane(operation)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
