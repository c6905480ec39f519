"""Tracks → size distributions deconvolved from the error of single tracks, and concentrations, with intervals."""

from exotrack.sizing.concentration import concentration as concentration
from exotrack.sizing.distribution import pool as pool
from exotrack.sizing.distribution import pooled_diameter as pooled_diameter
from exotrack.sizing.distribution import size_distribution as size_distribution
from exotrack.sizing.histogram import track_histogram as track_histogram
from exotrack.sizing.rows import TrackRows as TrackRows
from exotrack.sizing.rows import track_rows as track_rows
