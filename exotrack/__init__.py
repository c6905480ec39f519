"""From raw nanoparticle-tracking video to a batch quality record for extracellular vesicles.

The names below are the public ones. They load on first use, so that `import exotrack` is quick and needs no GPU.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exotrack import tables as tables  # noqa: TC004  # __all__ is made from names
    from exotrack.acquisition import Acquisition as Acquisition
    from exotrack.camera import Camera as Camera
    from exotrack.diffusion import measure as measure
    from exotrack.link import link as link
    from exotrack.localize import localize as localize
    from exotrack.pipeline import run as run
    from exotrack.protocol import Protocol as Protocol
    from exotrack.simulate import simulate as simulate
    from exotrack.sizing import size_distribution as size_distribution
    from exotrack.storage import open_results as open_results
    from exotrack.vendor import read_nanosight_summary as read_nanosight_summary
    from exotrack.video import open_video as open_video

__version__ = "0.1.0"

_HOME = {
    "Acquisition": "acquisition",
    "Camera": "camera",
    "Protocol": "protocol",
    "link": "link",
    "localize": "localize",
    "measure": "diffusion",
    "open_results": "storage",
    "open_video": "video",
    "read_nanosight_summary": "vendor",
    "run": "pipeline",
    "simulate": "simulate",
    "size_distribution": "sizing",
}
"""Public name → the module it lives in."""

__all__ = [*_HOME, "tables"]


class _Package(ModuleType):
    """A package whose stages bear the names of their modules: `exotrack.link` is the function.

    The import system binds every imported submodule to its package. Where the module's name is that of a public
    function, the function is bound in its place; `from exotrack.link import …` works as ever, for it looks the
    module up in `sys.modules`.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOME.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "tables":
            return importlib.import_module("exotrack.tables")
        if name not in _HOME:
            raise AttributeError(f"module 'exotrack' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"exotrack.{_HOME[name]}"), name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


def _cache_kernels_somewhere() -> None:
    """Where neither the package nor the home can be written, as in containers, Numba and Matplotlib cache elsewhere."""
    home = os.path.expanduser("~")
    if os.access(os.path.dirname(__file__), os.W_OK) or os.access(home, os.W_OK):
        return
    place = os.path.join(tempfile.gettempdir(), f"exotrack-{os.getuid() if hasattr(os, 'getuid') else 'cache'}")
    os.environ.setdefault("NUMBA_CACHE_DIR", os.path.join(place, "numba"))
    os.environ.setdefault("MPLCONFIGDIR", os.path.join(place, "matplotlib"))


_cache_kernels_somewhere()
sys.modules[__name__].__class__ = _Package
