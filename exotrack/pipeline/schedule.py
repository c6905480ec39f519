"""Run a graph of tasks: on threads of this process, on processes of this machine, or on a dask cluster.

dask schedules whole videos and large parts of them; inside a task a plain loop walks the blocks. The result does not
depend on where the tasks run, nor on how many run at once. At most one task per worker is in flight, which bounds the
memory whatever the number and the length of the videos.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import dask
from dask.delayed import Delayed
from threadpoolctl import threadpool_limits

from exotrack import __version__
from exotrack.errors import InputError

Progress = Callable[[str, int, int], None]
"""Takes what is being done, how much of it is done, and how much there is; it may be called from any thread."""

CONNECT_TIMEOUT_S = 10.0


class Cancelled(BaseException):
    """Raised inside a task after the user has interrupted the run; no result is written."""


class Watch:
    """Counts the frames done and carries the wish to stop into tasks that run in this process."""

    def __init__(self, progress: Callable[[int], None] | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def __call__(self, frames: int) -> None:
        """Count frames; raises `Cancelled` once `stop` was called."""
        if self._stopped.is_set():
            raise Cancelled
        if self._progress is not None:
            with self._lock:
                self._progress(frames)

    def stop(self) -> None:
        """Make every task end at its next block."""
        self._stopped.set()


Task = tuple[Delayed, int]
"""A task and the number of frames that it stands for."""


def run_token() -> str:
    """What every key of a run holds: a scheduler takes tasks with equal keys, of whatever run, for the same task."""
    return uuid4().hex[:12]


class Threads:
    """Runs tasks on threads of this process; the compiled loops release the interpreter's lock."""

    in_process = True

    def __init__(self, workers: int | None) -> None:
        self.workers = workers or _cores()
        self.words = f"threads ({self.workers})"
        self.token = run_token()

    def compute(self, tasks: Sequence[Task], watch: Watch) -> list[Any]:
        """Results of the tasks, in their order; the tasks themselves tell `watch` of their frames."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="exotrack")
        try:
            # Linear algebra on threads of its own would fight the workers for the cores: the deconvolution of the demo
            # took 62 s instead of 2 s. One thread also makes its rounding the same everywhere.
            with dask.config.set(pool=pool), threadpool_limits(limits=1, user_api="blas"):
                return list(dask.compute(*(task for task, _ in tasks), scheduler="threads"))
        except BaseException:
            watch.stop()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class Cluster:
    """Runs tasks on the workers of a dask.distributed client; result folder and videos must be visible to them."""

    in_process = False

    def __init__(self, client: Any, words: str) -> None:
        self.client, self.words, self.token = client, words, run_token()

    def compute(self, tasks: Sequence[Task], watch: Watch) -> list[Any]:
        """Results of the tasks, in their order, or the exception of a task whose worker was lost."""
        from distributed import as_completed

        futures = self.client.compute([task for task, _ in tasks], sync=False)
        frames = {future: count for future, (_, count) in zip(futures, tasks, strict=True)}
        try:
            for done in as_completed(futures):
                watch(frames[done])
            return [future.exception() or future.result() for future in futures]
        except BaseException:
            self.client.cancel(futures)
            raise


@contextmanager
def connect(scheduler: Any, workers: int | None) -> Iterator[Threads | Cluster]:
    """Open a scheduler: "threads", "local", the address of a dask scheduler, or a dask client.

    Raises
    ------
    InputError
        If the number of workers is not positive, nothing answers at the address, or no worker with this version of
        exotrack has joined.
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers = {workers}: must be 1 or more")
    if scheduler == "threads":
        yield Threads(workers)
    elif scheduler == "local":
        yield from _local(workers or _cores())
    elif isinstance(scheduler, str):
        yield from _remote(scheduler)
    else:
        words = f"dask client {scheduler.scheduler.address}"
        _check_workers(scheduler, words)
        yield Cluster(scheduler, words)


def _local(workers: int) -> Iterator[Cluster]:
    from distributed import Client, LocalCluster

    with _interrupts_ignored():
        cluster = LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=logging.ERROR
        )
    with cluster, Client(cluster) as client:
        yield Cluster(client, f"local processes ({workers})")


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started inside never see Ctrl-C, which a terminal sends to all of them: this one ends them in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _remote(address: str) -> Iterator[Cluster]:
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise InputError(
            f"scheduler {address!r}: no dask scheduler answers ({error}); use threads, local or tcp://HOST:PORT"
        ) from None
    with client:
        words = f"dask scheduler {address}"
        _check_workers(client, words)
        yield Cluster(client, words)


def _check_workers(client: Any, words: str) -> None:
    """Refuse workers that have not this exotrack: a task that they cannot read would be waited for forever."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
    except TimeoutError:
        raise InputError(f"{words}: no worker has joined within {CONNECT_TIMEOUT_S:g} s; start workers first") from None
    try:
        # `eval` is known to a worker without exotrack, a function of this module is not.
        versions = set(client.run(eval, "__import__('exotrack').__version__").values())
    except ImportError:
        raise InputError(f"{words}: its workers cannot import exotrack; install version {__version__} there") from None
    if versions != {__version__}:
        found = ", ".join(sorted(versions))
        raise InputError(f"{words}: its workers have exotrack {found}, this is {__version__}; install the same there")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
