"""Checks of sizes from the same video that link no spots: DDM, PICCS, and what a DLS instrument would read."""

from exotrack.crosscheck.ddm import Ddm, ddm
from exotrack.crosscheck.dls import Dls, dls
from exotrack.crosscheck.piccs import Piccs, piccs
from exotrack.crosscheck.rendered import region, rendered

__all__ = ["Ddm", "Dls", "Piccs", "ddm", "dls", "piccs", "region", "rendered"]
