"""The CPU backend: NumPy arrays, hot loops compiled by Numba (nogil, cached), one operation per file."""

from exotrack.backends.cpu.background import still_background as still_background
from exotrack.backends.cpu.chains import number_tracks as number_tracks
from exotrack.backends.cpu.deconvolve import deconvolve as deconvolve
from exotrack.backends.cpu.detect import detect as detect
from exotrack.backends.cpu.evidence import rematch as rematch
from exotrack.backends.cpu.filter import matched_filter as matched_filter
from exotrack.backends.cpu.follow import continuations as continuations
from exotrack.backends.cpu.follow import found_twice as found_twice
from exotrack.backends.cpu.likelihood import innovations as innovations
from exotrack.backends.cpu.likelihood import likelihood as likelihood
from exotrack.backends.cpu.match import match as match
from exotrack.backends.cpu.moments import link_moments as link_moments
from exotrack.backends.cpu.neighbours import crowded as crowded
from exotrack.backends.cpu.neighbours import displacement_histogram as displacement_histogram
from exotrack.backends.cpu.neighbours import distance_histogram as distance_histogram
from exotrack.backends.cpu.noise import frame_levels as frame_levels
from exotrack.backends.cpu.noise import noise_cumulants as noise_cumulants
from exotrack.backends.cpu.noise import quieten as quieten
from exotrack.backends.cpu.noise import residuals as residuals
from exotrack.backends.cpu.noise import tile_noise as tile_noise
from exotrack.backends.cpu.noise import without_spots as without_spots
from exotrack.backends.cpu.refine import refine as refine
from exotrack.backends.cpu.rings import radial_symmetry as radial_symmetry
from exotrack.backends.cpu.scan import densest_box as densest_box
from exotrack.backends.cpu.unmix import unmix as unmix
