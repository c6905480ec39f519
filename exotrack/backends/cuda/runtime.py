"""CuPy as the backend uses it: memory, streams and kernels. The one place where CuPy is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from exotrack.backends.cuda import sources
from exotrack.tables import Array

Kernel = Callable[[tuple[int, int, int], tuple[int, int, int], tuple[Any, ...]], None]
"""A compiled kernel: takes grid, block and arguments, and returns before it has run."""


def unavailable() -> str | None:
    """Why CuPy finds no CUDA device here, in one clause; None where it does."""
    if find_spec("cupy") is None:
        return "CuPy is not installed (pip install 'exotrack[cuda13]', or [cuda12] for drivers before 580)"
    try:
        import cupy
    except ImportError as error:
        return f"CuPy cannot be imported ({' '.join(str(error).split())})"
    if not cupy.cuda.is_available():
        return "CuPy finds no CUDA device (see what nvidia-smi says)"
    try:
        _library_errors()
    except ImportError as error:
        return f"CuPy finds no libraries of CUDA ({' '.join(str(error).split())}; pip install 'exotrack[cuda13]')"
    return None


def _library_errors() -> tuple[type[BaseException], ...]:
    """Errors of the libraries for linear algebra and Fourier transforms, which are loaded here."""
    from cupy.cuda.cufft import CuFFTError
    from cupy_backends.cuda.libs.cublas import CUBLASError

    return CuFFTError, CUBLASError


class CudaRuntime:
    """The current CUDA device of this process."""

    def __init__(self) -> None:
        import cupy
        import cupyx

        self.arrays, self._extra = cupy, cupyx
        self._cuda = cupy.cuda.runtime
        self.failures: tuple[type[BaseException], ...] = (
            cupy.cuda.memory.OutOfMemoryError,
            cupy.cuda.runtime.CUDARuntimeError,
            cupy.cuda.driver.CUDADriverError,
            cupy.cuda.compiler.CompileException,
            *_library_errors(),
        )
        self._device = cupy.cuda.Device()

    def short_of_memory(self, error: BaseException) -> bool:
        """Whether a failure is one of memory: of arrays, of pinned memory, or of what a kernel needs to start."""
        if isinstance(error, self.arrays.cuda.memory.OutOfMemoryError) or "ALLOC_FAILED" in str(error):
            return True
        calls = (self._cuda.CUDARuntimeError, self.arrays.cuda.driver.CUDADriverError)
        return isinstance(error, calls) and error.status == 2  # cudaErrorMemoryAllocation, CUDA_ERROR_OUT_OF_MEMORY

    def is_setup(self, error: BaseException) -> bool:
        """Whether a failure is one of this installation, not of the device."""
        return isinstance(error, self.arrays.cuda.compiler.CompileException)

    def describe(self) -> dict[str, str]:
        """Name of the device, versions of driver, CUDA and CuPy."""
        device = self._device
        properties = self._cuda.getDeviceProperties(device.id)
        return {
            "device": properties["name"].decode(),
            "compute_capability": device.compute_capability,
            "cuda_driver": str(self._cuda.driverGetVersion()),
            "cuda_runtime": str(self._cuda.runtimeGetVersion()),
            "cupy": _cupy_version(),
        }

    def new_stream(self) -> Any:
        """A stream beside which others run."""
        with self._device:
            return self.arrays.cuda.Stream(non_blocking=True)

    @contextmanager
    def current(self, stream: Any) -> Iterator[None]:
        """Everything inside is enqueued on this stream of this device, whatever the calling thread's device is."""
        with self._device, stream:
            yield

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Memory of the device, holding anything."""
        return self.arrays.empty(shape, dtype)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Memory of the host that the device copies from and to by itself."""
        array: Array = self._extra.empty_pinned(shape, dtype)
        return array

    def is_pinned(self, array: Array) -> bool:
        """Whether an array lies in such memory."""
        return bool(self.arrays.cuda.pinned_memory.is_memory_pinned(array.ctypes.data))

    def copy_in(self, target: Any, start: int, source: Array, stream: Any) -> None:
        """Enqueue a copy of pinned bytes to a place in an array of the device."""
        to_device = self._cuda.memcpyHostToDevice
        self._cuda.memcpyAsync(target.data.ptr + start, source.ctypes.data, source.nbytes, to_device, stream.ptr)

    def copy_out(self, target: Array, source: Any, start: int, stream: Any) -> None:
        """Enqueue a copy of bytes at a place in an array of the device to pinned memory."""
        to_host = self._cuda.memcpyDeviceToHost
        self._cuda.memcpyAsync(target.ctypes.data, source.data.ptr + start, target.nbytes, to_host, stream.ptr)

    def fill(self, target: Any, byte: int, stream: Any) -> None:
        """Enqueue writing the same value into all bytes of an array of the device."""
        self._cuda.memsetAsync(target.data.ptr, byte, target.nbytes, stream.ptr)

    def mark(self, stream: Any) -> Any:
        """A mark behind the work enqueued so far; its `synchronize` waits for it."""
        event = self.arrays.cuda.Event(disable_timing=True)
        event.record(stream)
        return event

    def synchronize(self, stream: Any) -> None:
        """Wait for all work of a stream; its errors are raised here."""
        stream.synchronize()

    def kernel(self, operation: str, entry: str, constants: sources.Constants) -> Kernel:
        """Compile a source for constants (CuPy keeps the result on disk) and return one of its kernels."""
        return _kernel(operation, entry, tuple(sorted(constants.items())), self._device.id)

    def free_bytes(self) -> int:
        """Memory of the device that an array could take now."""
        free, _ = self._cuda.memGetInfo()
        return int(free + self.arrays.get_default_memory_pool().free_bytes())


_Given = tuple[tuple[str, int | float | str], ...]


@cache
def _kernel(operation: str, entry: str, constants: _Given, device: int) -> Kernel:
    kernel: Kernel = _module(operation, constants, device).get_function(entry)
    return kernel


@cache
def _module(operation: str, constants: _Given, device: int) -> Any:  # noqa: ARG001  # modules belong to a device
    import cupy

    return cupy.RawModule(code=sources.text(operation), options=sources.options(dict(constants)), backend="nvrtc")


def _cupy_version() -> str:
    for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"
