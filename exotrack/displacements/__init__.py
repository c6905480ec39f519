"""Tracks → displacements in µm, freed of collective flow, with everything that their covariance depends on."""

from exotrack.displacements.flow import Flow as Flow
from exotrack.displacements.noise import Noise as Noise
from exotrack.displacements.prepare import Displacements as Displacements
from exotrack.displacements.prepare import displacements as displacements
from exotrack.displacements.rows import likelihood_rows as likelihood_rows
from exotrack.displacements.rows import size_grid_nm as size_grid_nm
