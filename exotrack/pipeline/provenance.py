"""Where a result comes from: versions, commit, machine, and the hash of the code that made it."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from exotrack import __version__
from exotrack.backends.cuda import device as gpu
from exotrack.backends.cuda import sources

PACKAGES: Final = (
    *("av", "dask", "distributed", "imagecodecs", "numba", "numpy", "pandas", "pyarrow"),
    *("scikit-image", "scipy", "tifffile", "zarr"),
)
"""Packages that decode, compute or store, whose versions are recorded."""
DECIDING: Final = ("av", "imagecodecs", "numba", "numpy", "scipy", "tifffile", "zarr")
"""Packages that decode or compute: another version of one may give other results."""
SOURCE: Final = Path(__file__).resolve().parents[1]
"""Folder of the package."""


def package_version(name: str) -> str:
    """Installed version of a distribution, "not installed" where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


@cache
def libraries(backend: str) -> dict[str, str]:
    """Versions of Python and of the packages that may change a result; with "cuda", the device and its libraries."""
    versions = {"python": platform.python_version(), **{name: package_version(name) for name in DECIDING}}
    return {**versions, **gpu.current().runtime.describe()} if backend == "cuda" else versions


@cache
def code_sha256() -> str:
    """Hash of the package's own sources, kernels included: results of other code are never taken for up to date."""
    digest = hashlib.sha256()
    for file in sorted(SOURCE.rglob("*.py")):
        digest.update(file.relative_to(SOURCE).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    digest.update(sources.sha256().encode())
    return digest.hexdigest()


@cache
def commit() -> str | None:
    """Git commit of the checkout that the package runs from, with "+changes" if it was edited; None elsewhere."""
    top = _git("rev-parse", "--show-toplevel")
    # A virtual environment may lie inside somebody else's repository: that commit says nothing about this code.
    if top is None or Path(top).resolve() != SOURCE.parent or _git("ls-files", "--error-unmatch", __file__) is None:
        return None
    head = _git("rev-parse", "HEAD")
    return f"{head}+changes" if head and _git("status", "--porcelain", "--", str(SOURCE)) else head


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=SOURCE, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def device(backend: str = "cpu") -> str:
    """Name of the processor, or of the GPU with the versions of its driver, CUDA and CuPy."""
    if backend == "cuda":
        found = gpu.current().runtime.describe()
        return (
            f"{found['device']} (CUDA driver {found['cuda_driver']}, runtime {found['cuda_runtime']}, "
            f"CuPy {found['cupy']})"
        )
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def software() -> dict[str, Any]:
    """Versions and machine, as `run.json` states them."""
    return {
        "exotrack": __version__,
        "commit": commit(),
        "code_sha256": code_sha256(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "byte_order": sys.byteorder},
    }
