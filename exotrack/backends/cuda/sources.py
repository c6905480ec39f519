"""The CUDA sources: where they lie, how they are read, and what is compiled of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from exotrack.errors import BackendError

_PACKAGE: Final = Path(__file__).resolve().parents[2]
_PLACES: Final = (_PACKAGE / "kernels", _PACKAGE.parent / "kernels")
"""In an installed package, and in a checkout."""
_KERNEL: Final = re.compile(r"^KERNEL\((?P<threads>[^)]+)\)\s+(?P<name>\w+)\(", re.MULTILINE)

Constants = Mapping[str, int | float | str]
"""What a kernel is compiled for: numbers and the names of C++ types."""


@cache
def folder() -> Path:
    """The folder of the kernels.

    Raises
    ------
    BackendError
        There is none: the installation is damaged.
    """
    for place in _PLACES:
        if (place / "exotrack.cuh").is_file():
            return place
    tried = " nor in ".join(str(place) for place in _PLACES)
    raise BackendError(f"the CUDA kernels are neither in {tried}; install exotrack again")


def operations() -> tuple[str, ...]:
    """Names of all sources, without their suffix, in alphabetical order."""
    return tuple(sorted(path.stem for path in folder().glob("*.cu")))


@cache
def text(operation: str) -> str:
    """Source of an operation; compilers name its own file and line in their messages.

    Signs of the comments that are not ASCII are replaced: CuPy writes the text in the encoding of the system.
    """
    path = folder() / f"{operation}.cu"
    source = path.read_text(encoding="utf-8").encode("ascii", "replace").decode("ascii")
    return f'#line 1 "kernels/{path.name}"\n{source}'


def entries(operation: str) -> dict[str, str]:
    """Kernels of a source, and the most threads per block of each (a number, or the constant that holds it)."""
    return {found["name"]: found["threads"] for found in _KERNEL.finditer(text(operation))}


@cache
def sha256() -> str:
    """Hash of all sources and headers, which is part of the options: caches of compilers do not look into headers."""
    digest = hashlib.sha256()
    for path in sorted(folder().glob("*.cu*")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def options(constants: Constants) -> tuple[str, ...]:
    """Options of the compiler: constants, headers, and arithmetic that is the same on every device.

    Multiplications and additions are fused where the source says so (`fmaf`), nowhere else.
    """
    given = tuple(f"-D{name}={value}" for name, value in sorted(constants.items()))
    return (*given, f"-DSOURCES={sha256()[:16]}", f"-I{folder()}", "--std=c++17", "--fmad=false")
