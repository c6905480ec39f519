"""Run graphs of tasks: on threads of this process, on processes of this machine, or on a dask cluster.

dask schedules whole videos and large parts of them; inside a task a plain loop walks the blocks. Graphs are handed
over one by one as others end, at most two per thread that computes: neither memory nor the scheduler's bookkeeping
grows with their number. The result does not depend on where the tasks run, nor on how many run at once.

A task whose process died is tried once more when all others are done, with nothing beside it, so that no other is
blamed; if its process dies again, that is its result.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any, Final
from uuid import uuid4

import dask
from dask.delayed import Delayed
from threadpoolctl import threadpool_limits

from exotrack import __version__, backends
from exotrack.errors import InputError, RunError
from exotrack.journal import CRASHES_MOST, Journal
from exotrack.pipeline.provenance import code_sha256, device, libraries

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Takes what is being done, how much of it is done, and how much there is; it may be called from any thread."""

CONNECT_TIMEOUT_S = 10.0
ASK_AGAIN_S: Final = 0.1
PER_THREAD: Final = 2
"""Graphs that a cluster is given per thread: one to compute, one to go on with."""
RECOUNT_S: Final = 5.0
"""How often a cluster is asked for its threads, which come and go."""


class Cancelled(BaseException):
    """Raised inside a task after the user has interrupted the run; no result is written."""


class WorkerLost(Exception):  # noqa: N818  # a result, as much as an error
    """A task whose process died twice."""


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


@dataclass(frozen=True)
class Task:
    """A graph with one result."""

    name: str
    build: Callable[[str], Delayed]
    """Makes the graph; its argument is part of every key, for a scheduler takes tasks with equal keys, of whatever run
    and whatever attempt, for the same task."""
    frames: int = 0
    """Frames that it stands for."""


@dataclass(frozen=True)
class Resolved:
    """What will compute."""

    backend: str
    """"cpu" or "cuda"."""
    libraries: Mapping[str, str]
    """Versions that may change a result."""
    device: str


def resolve(backend: str) -> Resolved:
    """What a backend means in this process.

    Raises
    ------
    BackendError
        If it cannot run here.
    """
    name = backends.resolve(backend)
    return Resolved(name, libraries(name), device(name))


class Threads:
    """Runs tasks on threads of this process; the compiled loops release the interpreter's lock."""

    in_process = True

    def __init__(self, workers: int | None) -> None:
        self.workers = workers or _cores()
        self.words = f"threads ({self.workers})"

    def resolve(self, backend: str) -> Resolved:
        """See `resolve`."""
        return resolve(backend)

    def run(self, tasks: Iterable[Task], watch: Watch) -> Iterator[tuple[Task, Any]]:
        """Results of the tasks as they come; the tasks themselves tell `watch` of their frames."""
        journal, suspects = Journal.of_this_process(), list[Task]()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="exotrack")
        leaders = ThreadPoolExecutor(self.workers, thread_name_prefix="exotrack-video")

        def compute(task: Task) -> Any:
            with journal.doing(task.name):
                return task.build(uuid4().hex[:12]).compute(scheduler="threads", pool=pool, optimize_graph=False)

        try:
            # Linear algebra on threads of its own would fight the workers for the cores: the deconvolution of the demo
            # took 62 s instead of 2 s. One thread also makes its rounding the same everywhere.
            with threadpool_limits(limits=1, user_api="blas"):
                waiting: dict[Future[Any], Task] = {}
                left = iter(_unsuspected(tasks, journal, suspects))
                while True:
                    for task in islice(left, self.workers - len(waiting)):
                        waiting[leaders.submit(compute, task)] = task
                    if not waiting:
                        break
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        yield waiting.pop(future), future.result()
                for task in suspects:
                    lost = journal.crashes(task.name) > CRASHES_MOST
                    yield task, WorkerLost("its process died twice") if lost else compute(task)
        except BaseException:
            watch.stop()
            pool.shutdown(wait=False, cancel_futures=True)  # first of all: a leader waits for all of its graph
            raise
        finally:
            leaders.shutdown(wait=True, cancel_futures=True)
            pool.shutdown(wait=True, cancel_futures=True)


def _unsuspected(tasks: Iterable[Task], journal: Journal, suspects: list[Task]) -> Iterator[Task]:
    """Tasks that have not been under way when the process died; the others are set aside."""
    for task in tasks:
        if journal.crashes(task.name):
            suspects.append(task)
        else:
            yield task


class Cluster:
    """Runs tasks on the workers of a dask.distributed client; result folder and videos must be visible to them."""

    in_process = False

    def __init__(self, start: Callable[[], Any], words: str) -> None:
        self._start, self.words = start, words
        self._threads, self._counted = 0, -RECOUNT_S

    @cached_property
    def client(self) -> Any:
        """Client of dask.distributed; processes of this machine are started when it is first asked for."""
        client = self._start()
        if link := getattr(client, "dashboard_link", None):
            logger.info("dask dashboard: %s", link)
        return client

    def resolve(self, backend: str) -> Resolved:
        """What a backend means on the workers.

        Raises
        ------
        InputError
            If "auto" means one thing here and another there.
        BackendError
            If it cannot run on one of them.
        """
        found: list[Resolved] = _ask(self.client, self.words, resolve, backend)
        names = sorted({each.backend for each in found})
        if len(names) > 1:
            raise InputError(f"{self.words}: some workers have a GPU and some have none; say --backend cuda or cpu")
        differ = {name for each in found for name, value in each.libraries.items() if value != found[0].libraries[name]}
        if differ:
            logger.warning("%s: workers differ in %s; results may, too", self.words, ", ".join(sorted(differ)))
        return found[0]

    def run(self, tasks: Iterable[Task], watch: Watch) -> Iterator[tuple[Task, Any]]:
        """Results of the tasks as they come; `WorkerLost` for a task whose worker died twice."""
        from distributed import as_completed

        left, again, running = iter(tasks), [], {}
        ended = as_completed(loop=self.client.loop)

        def submit(some: Iterable[Task]) -> None:
            for task in some:
                future = self.client.compute(task.build(uuid4().hex[:12]), optimize_graph=False)
                running[future] = task
                ended.add(future)

        try:
            with self._connected():
                submit(islice(left, self._room()))
            while running:
                with self._connected():
                    future = next(ended)
                task = running.pop(future)
                result = self._result(future)
                if isinstance(result, WorkerLost):
                    again.append(task)
                else:
                    watch(task.frames)
                    yield task, result
                del future
                with self._connected():
                    submit(islice(left, max(self._room() - len(running), 0)))
            for task in again:
                logger.warning("%s: its worker died; it is tried once more, alone", task.name)
                with self._connected():
                    future = self.client.compute(task.build(uuid4().hex[:12]), optimize_graph=False)
                running[future] = task
                result = self._result(future)
                watch(task.frames)
                yield running.pop(future), result
        except BaseException:
            with suppress(Exception):  # nothing may hide why it ends
                self.client.cancel(list(running))
            raise

    def _result(self, future: Any) -> Any:
        """Result of a future, waited for; `WorkerLost` where its worker died.

        Raises
        ------
        RunError
            If the scheduler is gone, or the task says that the run cannot go on.
        """
        from distributed import KilledWorker, wait

        with self._connected():
            wait(future)
            failed = future.exception() if future.status == "error" else None
            if failed is None:
                return future.result()
        if isinstance(failed, KilledWorker):
            return WorkerLost("its process died twice")
        raise failed

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Turn what a lost scheduler raises into words."""
        from distributed import CancelledError

        try:
            yield
        except (CancelledError, TimeoutError, OSError) as error:
            raise RunError(
                f"{self.words}: the connection to it was lost ({error}); finished videos are kept: run the same "
                "command again when it is back"
            ) from error

    def _room(self) -> int:
        """Graphs that may be under way."""
        now = time.monotonic()
        if now - self._counted >= RECOUNT_S:
            self._threads, self._counted = sum(self.client.nthreads().values()), now
        return PER_THREAD * max(self._threads, 1)


class Local(Cluster):
    """Processes on this machine."""

    def resolve(self, backend: str) -> Resolved:
        """As in this process: it is the same machine."""
        return resolve(backend)


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
    with ExitStack() as stack:
        if scheduler == "threads":
            yield Threads(workers)
        elif scheduler == "local":
            number = workers or _cores()
            yield Local(partial(_processes, number, stack), f"local processes ({number})")
        elif isinstance(scheduler, str):
            yield _remote(stack.enter_context(_client(scheduler)), f"dask scheduler {scheduler}")
        else:
            yield _remote(scheduler, f"dask client {scheduler.scheduler.address}")


def _processes(workers: int, stack: ExitStack) -> Any:
    """Client of so many new processes, which end with the stack."""
    from distributed import Client, LocalCluster

    # A worker that dies is not given its task again by dask, which blames all that waited with it.
    with _interrupts_ignored(), dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        cluster = LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=logging.ERROR
        )
    stack.enter_context(cluster)
    return stack.enter_context(Client(cluster))


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


def _client(address: str) -> Any:
    from distributed import Client

    try:
        return Client(address, timeout=CONNECT_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise InputError(
            f"scheduler {address!r}: no dask scheduler answers ({error}); use threads, local or tcp://HOST:PORT"
        ) from None


def _remote(client: Any, words: str) -> Cluster:
    """Refuse workers that have not this exotrack: a task that they cannot read would be waited for forever."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
    except TimeoutError:
        raise InputError(f"{words}: no worker has joined within {CONNECT_TIMEOUT_S:g} s; start workers first") from None
    try:
        # `eval` is known to a worker without exotrack, a function of this module is not.
        versions = set(_ask(client, words, eval, "__import__('exotrack').__version__"))
    except ImportError:
        raise InputError(f"{words}: its workers cannot import exotrack; install version {__version__} there") from None
    if versions != {__version__}:
        found = ", ".join(sorted(versions))
        raise InputError(f"{words}: its workers have exotrack {found}, this is {__version__}; install the same there")
    if set(_ask(client, words, code_sha256)) != {code_sha256()}:
        raise InputError(f"{words}: its workers run other code of exotrack {__version__}; install the same there")
    return Cluster(lambda: client, words)


def _ask(client: Any, words: str, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What each worker answers; those that die meanwhile say nothing, and if all do, their successors are asked."""
    until = time.monotonic() + CONNECT_TIMEOUT_S
    while time.monotonic() < until:
        answers = client.run(function, *arguments, on_error="return").values()
        found = [answer for answer in answers if not isinstance(answer, OSError)]  # raised by a connection that broke
        failed = [answer for answer in found if isinstance(answer, Exception)]
        if failed:
            raise failed[0]
        if found:
            return found
        time.sleep(ASK_AGAIN_S)
    raise InputError(f"{words}: all its workers died while they were asked; look at their logs")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
