"""The CUDA backend: the operations of `cpu` under the same names, their kernels in the folder `kernels`.

The functions hand frames and tables to a device (`device.py`; CuPy itself is imported in `runtime.py` alone) and launch
the kernels. `on_host.py` names the operations that stay on the host.
"""

from exotrack.backends.cuda.background import still_background as still_background
from exotrack.backends.cuda.blocks import IN_FLIGHT as IN_FLIGHT
from exotrack.backends.cuda.blocks import block_frames as block_frames
from exotrack.backends.cuda.blocks import frame_buffer as frame_buffer
from exotrack.backends.cuda.blocks import has_room as has_room
from exotrack.backends.cuda.blocks import upload as upload
from exotrack.backends.cuda.deconvolve import deconvolve as deconvolve
from exotrack.backends.cuda.detect import detect as detect
from exotrack.backends.cuda.filter import matched_filter as matched_filter
from exotrack.backends.cuda.likelihood import likelihood as likelihood
from exotrack.backends.cuda.match import match as match
from exotrack.backends.cuda.noise import frame_levels as frame_levels
from exotrack.backends.cuda.noise import quieten as quieten
from exotrack.backends.cuda.noise import tile_noise as tile_noise
from exotrack.backends.cuda.on_host import continuations as continuations
from exotrack.backends.cuda.on_host import crowded as crowded
from exotrack.backends.cuda.on_host import densest_box as densest_box
from exotrack.backends.cuda.on_host import displacement_histogram as displacement_histogram
from exotrack.backends.cuda.on_host import distance_histogram as distance_histogram
from exotrack.backends.cuda.on_host import found_twice as found_twice
from exotrack.backends.cuda.on_host import histories as histories
from exotrack.backends.cuda.on_host import innovations as innovations
from exotrack.backends.cuda.on_host import link_moments as link_moments
from exotrack.backends.cuda.on_host import noise_cumulants as noise_cumulants
from exotrack.backends.cuda.on_host import number_tracks as number_tracks
from exotrack.backends.cuda.on_host import radial_symmetry as radial_symmetry
from exotrack.backends.cuda.on_host import recurrences as recurrences
from exotrack.backends.cuda.on_host import rematch as rematch
from exotrack.backends.cuda.on_host import residuals as residuals
from exotrack.backends.cuda.on_host import unmix as unmix
from exotrack.backends.cuda.on_host import without_spots as without_spots
from exotrack.backends.cuda.refine import refine as refine
from exotrack.backends.cuda.structure import structure_function as structure_function
