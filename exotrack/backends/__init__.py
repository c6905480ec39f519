"""Compute backends: modules with the same operations under the same names.

`cpu` compiles its loops with Numba and runs everywhere. `load` is the only way in; workers pass a backend's *name*
and load it inside the task.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from exotrack.backends.contract import Backend
from exotrack.errors import BackendError

if TYPE_CHECKING:  # that both offer all of it
    from exotrack.backends import cpu, cuda

    _BACKENDS: tuple[Backend, Backend] = (cpu, cuda)

NAMES = ("auto", "cpu", "cuda")


def resolve(name: str) -> str:
    """Name of the backend that `name` stands for on this machine: "cpu" or "cuda".

    "auto" is "cuda" where CuPy finds a device, otherwise "cpu".

    Raises
    ------
    BackendError
        For an unknown name, and for "cuda" where it cannot run; the message says why. "auto" never raises.
    """
    check_name(name)
    if name == "cpu":
        return name
    reason = why_no_cuda()
    if name == "cuda" and reason is not None:
        raise BackendError(f"backend 'cuda' cannot run here: {reason}; use --backend cpu or auto")
    return "cpu" if reason is not None else "cuda"


def check_name(name: str) -> None:
    """Raise BackendError unless this is "auto", "cpu" or "cuda"."""
    if name not in NAMES:
        raise BackendError(f"backend {name!r} is unknown; choose one of {', '.join(NAMES)}")


def load(name: str) -> Backend:
    """The backend module for "auto", "cpu" or "cuda"; raises as `resolve` does."""
    module: Any = importlib.import_module(f"exotrack.backends.{resolve(name)}")
    backend: Backend = module
    return backend


def why_no_cuda() -> str | None:
    """Why no CUDA device can be used here, in one clause; None where one can."""
    from exotrack.backends.cuda import device  # loads the compilers of the operations, which `--help` does not need

    return device.missing()
