"""A stand-in for a GPU: the kernels run on the processor (cuda_host/host.h), the arrays of the device are NumPy's.

Streams are lazy: what is enqueued is done when somebody waits for it, as late as a GPU may do it. A piece of pinned
memory that is filled again before its copy is waited for, or a result that is read too early, comes out wrong here.
New memory holds 0xFF bytes (NaN, −1), so that whatever a kernel leaves out shows.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import subprocess
import tempfile
import threading
import weakref
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from exotrack.backends.cuda import sources

HOST = Path(__file__).parent / "cuda_host"
CACHE = Path(tempfile.gettempdir()) / f"exotrack-kernels-{os.getuid() if hasattr(os, 'getuid') else 0}"
FLAGS = ("-std=c++20", "-O1", "-march=native", "-ffp-contract=off", "-fPIC", "-w")


class KernelError(Exception):
    """What the host build found wrong in a kernel or in its launch."""


class NoMemoryError(Exception):
    """There is no room on the pretended device."""


class FailureError(Exception):
    """The pretended device fails."""


class Launch(ctypes.Structure):
    _fields_ = [("grid", ctypes.c_int64 * 3), ("block", ctypes.c_int64 * 3), ("backward", ctypes.c_int64)]


class Argument(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("kind", ctypes.c_int64),
    ]


def compiled(operation, constants, *, text=None, flags=FLAGS, executable=False):
    """Path of the host build of a source, made when it is first asked for.

    Parameters
    ----------
    operation : str
    constants : mapping
    text : str, optional
        In place of the source as it is, to plant a fault.
    flags : tuple of str
    executable : bool
        A program that runs recorded launches, in place of a library.
    """
    entries = sources.entries(operation)
    text = sources.text(operation) if text is None else text
    served = [
        f'extern "C" int serve_{name}(const host::Launch* l, const host::Argument* a, int64_t n, char* m, int64_t r)'
        f" {{ return host::serve({name}, {threads}, l, a, n, m, r); }}"
        for name, threads in entries.items()
    ]
    if executable:
        served += ['#include "replay.h"', "int main(int n, char** words) {"]
        served += [f'    if (!strcmp(words[1], "{name}")) return replay(serve_{name}, words[2]);' for name in entries]
        served += ["    return 4;", "}"]
    program = "\n".join([text, '#line 1 "entries"', *served, ""])
    options = [option for option in sources.options(constants) if option.startswith(("-D", "-I"))]
    command = ["g++", *flags, *options, "-DEXOTRACK_HOST", f"-I{HOST}", *([] if executable else ["-shared"])]
    headers = b"".join(path.read_bytes() for path in sorted(HOST.glob("*.h")))
    key = hashlib.sha256("\0".join([program, *command]).encode() + headers).hexdigest()[:24]
    path = CACHE / f"{operation}-{key}"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            source, target = Path(folder) / f"{operation}.cpp", Path(folder) / "built"
            source.write_text(program, encoding="utf-8")
            done = subprocess.run([*command, "-o", target, source], capture_output=True, text=True, check=False)
            if done.returncode:
                raise KernelError(done.stderr)
            os.replace(target, path)
    return path


def described(value):
    """A kernel's argument as the host build takes it, and what must stay alive meanwhile."""
    scalar = not isinstance(value, np.ndarray)
    array = np.array(value) if scalar else value
    assert array.flags.c_contiguous, "kernels take whole arrays"
    argument = Argument(array.ctypes.data, -1 if scalar else array.size, array.itemsize, ord(array.dtype.kind))
    return argument, array


class Stream:
    """Work that is enqueued and not done yet."""

    def __init__(self):
        self.queue = []

    def drain(self, until=None):
        while self.queue and (until is None or until > 0):
            self.queue.pop(0)()
            if until is not None:
                until -= 1

    def synchronize(self):
        self.drain()


class Mark:
    """A place in a stream."""

    def __init__(self, stream):
        self.stream, self.passed = stream, False

        def pass_():
            self.passed = True

        stream.queue.append(pass_)

    def synchronize(self):
        while not self.passed and self.stream.queue:  # a failure ends the work before and behind it
            self.stream.drain(until=1)


class HostRuntime:
    """What `exotrack.backends.cuda.runtime.CudaRuntime` is for a GPU.

    Parameters
    ----------
    backward : bool
        Run the threads of a block, and the blocks, in the opposite order.
    room : int, optional
        Bytes of memory that the device has.
    plant : callable, optional
        Takes the name of an operation and its source and returns the source to compile in its place.
    record : Path, optional
        Folder into which every launch is written.
    fail : callable, optional
        Called with the names of operation and kernel before each launch; it may raise an error.
    """

    failures = (NoMemoryError, FailureError, KernelError)

    def __init__(self, *, backward=False, room=None, plant=None, record=None, fail=None):
        self.backward, self.room, self.plant, self.record, self.fail = backward, room, plant, record, fail
        self.used = self.most_used = 0
        self.launches = []
        self.lost = False
        self._pinned = []
        self._local = threading.local()
        self._lock = threading.RLock()
        self._libraries = {}

    @property
    def arrays(self):
        stream = getattr(self._local, "stream", None)
        if stream is not None:
            stream.drain()
        return np

    def is_setup(self, _):
        return False

    def short_of_memory(self, error):
        return isinstance(error, NoMemoryError)

    def describe(self):
        return {"device": "host build", "compute_capability": "0", "cuda_driver": "0", "cuda_runtime": "0", "cupy": "0"}

    def new_stream(self):
        return Stream()

    @contextmanager
    def current(self, stream):
        before = getattr(self._local, "stream", None)
        self._local.stream = stream
        try:
            yield
        except BaseException:
            stream.queue.clear()
            raise
        finally:
            self._local.stream = before

    def empty(self, shape, dtype):
        array = np.empty(shape, dtype)
        with self._lock:
            if self.room is not None and self.used + array.nbytes > self.room:
                raise NoMemoryError(f"{array.nbytes} bytes asked for, {self.room - self.used} free")
            self.used += array.nbytes
            self.most_used = max(self.most_used, self.used)
        weakref.finalize(array, self._free, array.nbytes)
        array.reshape(-1).view(np.uint8)[:] = 0xFF
        return array

    def _free(self, n):
        with self._lock:
            self.used -= n

    def pinned(self, shape, dtype):
        array = np.empty(shape, dtype)
        self._pinned.append(array)
        return array

    def is_pinned(self, array):
        return any(np.may_share_memory(array, own) for own in self._pinned)

    def copy_in(self, target, start, source, stream):
        stream.queue.append(lambda: np.copyto(bytes_of(target)[start : start + len(source)], source))

    def copy_out(self, target, source, start, stream):
        stream.queue.append(lambda: np.copyto(target, bytes_of(source)[start : start + len(target)]))

    def fill(self, target, byte, stream):
        stream.queue.append(lambda: bytes_of(target).fill(byte))

    def mark(self, stream):
        return Mark(stream)

    def synchronize(self, stream):
        if self.lost:
            raise FailureError("the device is lost")
        stream.drain()

    def kernel(self, operation, entry, constants):
        text = None if self.plant is None else self.plant(operation, sources.text(operation))
        key = (operation, tuple(sorted(constants.items())), text)
        with self._lock:
            if key not in self._libraries:
                self._libraries[key] = ctypes.CDLL(str(compiled(operation, constants, text=text)))
        serve = self._libraries[key][f"serve_{entry}"]
        stream = self._local.stream

        def enqueue(grid, block, arguments):
            def launch():
                if self.fail is not None:
                    self.fail(operation, entry)
                self.launches.append((operation, entry, grid, block, dict(constants)))
                both = [described(value) for value in arguments]
                shape = Launch((ctypes.c_int64 * 3)(*grid), (ctypes.c_int64 * 3)(*block), self.backward)
                if self.record is not None:
                    write_launch(self.record / f"{len(self.launches):03}-{operation}-{entry}", constants, shape, both)
                message = ctypes.create_string_buffer(1000)
                given = (Argument * len(both))(*(argument for argument, _ in both))
                if serve(ctypes.byref(shape), given, ctypes.c_int64(len(both)), message, ctypes.c_int64(1000)):
                    raise KernelError(f"{operation}.{entry}: {message.value.decode()}")

            stream.queue.append(launch)

        return enqueue

    def free_bytes(self):
        return 2**30 if self.room is None else self.room - self.used


def write_launch(path, constants, shape, both):
    """Write a launch with its arguments, as cuda_host/replay.h reads it, and its constants."""
    parts = [bytes(shape), np.int64(len(both)).tobytes()]
    for argument, array in both:
        parts += [np.array([argument.length, argument.size, argument.kind]).tobytes(), array.tobytes()]
    path.write_bytes(b"".join(parts))
    path.with_suffix(".json").write_text(json.dumps(dict(constants)), encoding="utf-8")


def sanitized(path, sanitizer, *, plant=None):
    """Run a recorded launch on threads of the system under a sanitizer of g++; exit code and what it says."""
    operation, entry = path.name.split("-")[1:]
    constants = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    text = None if plant is None else plant(operation, sources.text(operation))
    flags = ("-std=c++20", "-O1", "-g", "-w", "-pthread", "-DHOST_THREADS", f"-fsanitize={sanitizer}")
    program = compiled(operation, constants, text=text, flags=flags, executable=True)
    # ThreadSanitizer needs its places in memory, which the randomized layout may take.
    command = ["setarch", "-R", program, entry, path]
    strict = {"TSAN_OPTIONS": "exitcode=66", "UBSAN_OPTIONS": "halt_on_error=1:exitcode=67"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **strict})
    return done.returncode, done.stderr


def bytes_of(array):
    return array.reshape(-1).view(np.uint8)
