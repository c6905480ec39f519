"""What every backend offers, and how closely two of them agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from exotrack.tables import F32, F64, I32, I64, U16, Array, Mask


class Backend(Protocol):
    """The operations of a backend; the docstrings of `exotrack.backends.cpu` define them.

    On identical inputs two backends give the same integers and booleans, and floating-point numbers to the tolerance
    that is stated with the operation, or to the bit where none is.
    """

    @property
    def IN_FLIGHT(self) -> int:  # noqa: N802  # a constant
        """Windows under way at the same time, at least; where it is 1, threads share a window."""

    @property
    def upload(self) -> Callable[[Array], Any]:
        """Frames, or a map, where the operations use them."""

    @property
    def frame_buffer(self) -> Callable[[tuple[int, ...], Any], Array]:
        """An array to decode frames into."""

    @property
    def has_room(self) -> Callable[[int], bool]:
        """Whether so many bytes of frames may be kept for operations to come."""

    @property
    def block_frames(self) -> Callable[[int, int], int]:
        """Frames to work on at a time."""

    # Pixels

    @property
    def frame_levels(self) -> Callable[..., F64]:
        """Mean, lowest and highest level of frames."""

    @property
    def still_background(self) -> Callable[..., F32]:
        """What does not move."""

    @property
    def matched_filter(self) -> Callable[..., F32]:
        """Signal of a spot on a lattice of pixels; to 10⁻⁵ of the largest grey level."""

    @property
    def tile_noise(self) -> Callable[..., F64]:
        """Noise of tiles of filtered frames."""

    @property
    def quieten(self) -> Callable[..., None]:
        """Take what stands out from what is quiet."""

    @property
    def noise_cumulants(self) -> Callable[..., tuple[float, float, int]]:
        """Variance and skewness of the noise."""

    @property
    def detect(self) -> Callable[..., tuple[I32, F32, F32, F32]]:
        """Maxima of the matched filter.

        The same lattice points, unless two heights differ by rounding alone; positions to 2 × 10⁻⁴ px, signal-to-noise
        ratios to 10⁻⁵.
        """

    @property
    def refine(self) -> Callable[..., tuple[F64, U16]]:
        """Maximum-likelihood fits of spots.

        The same flags, positions to 10⁻³ px, the rest to 2 × 10⁻³. Fits that do not converge, one in some thousand,
        magnify the rounding: up to a fifth of their stated error was seen.
        """

    @property
    def radial_symmetry(self) -> Callable[..., tuple[F64, Mask]]:
        """Centres of rings."""

    @property
    def residuals(self) -> Callable[..., tuple[F64, F64]]:
        """Squared residuals around fitted spots."""

    @property
    def without_spots(self) -> Callable[..., F32]:
        """Frames less the light of fitted spots."""

    @property
    def structure_function(self) -> Callable[..., F64]:
        """Change of the Fourier modes of a video; to 10⁻⁶ of the largest of a ring."""

    # Spots

    @property
    def continuations(self) -> Callable[..., Mask]:
        """Faint peaks that continue a particle."""

    @property
    def found_twice(self) -> Callable[..., Mask]:
        """Spots found twice."""

    @property
    def crowded(self) -> Callable[..., None]:
        """Spots with a near neighbour."""

    @property
    def displacement_histogram(self) -> Callable[..., I64]:
        """Displacements between frames, in two dimensions."""

    @property
    def distance_histogram(self) -> Callable[..., I64]:
        """Distances between frames."""

    @property
    def densest_box(self) -> Callable[..., tuple[float, int, int, int]]:
        """Most surprising box of a histogram."""

    @property
    def unmix(self) -> Callable[..., F64]:
        """Shares of known distributions in a histogram."""

    # Links and tracks

    @property
    def match(self) -> Callable[..., int]:
        """Exact assignment between frames."""

    @property
    def histories(self) -> Callable[..., tuple[F64, F64]]:
        """Steps before and behind each spot."""

    @property
    def rematch(self) -> Callable[..., int]:
        """Assignment with the tracks as evidence."""

    @property
    def recurrences(self) -> Callable[..., I64]:
        """Spots found again at the same place."""

    @property
    def link_moments(self) -> Callable[..., tuple[F64, F64]]:
        """Normal equations of the flow."""

    @property
    def number_tracks(self) -> Callable[..., tuple[I64, I64, I64]]:
        """Numbers of tracks."""

    @property
    def likelihood(self) -> Callable[..., F32]:
        """Likelihood of tracks over diffusion coefficients; to 10⁻⁶ and a unit in the last place of float32."""

    @property
    def innovations(self) -> Callable[..., tuple[F64, F64]]:
        """Displacements made independent."""

    @property
    def deconvolve(self) -> Callable[..., F64]:
        """Distributions from likelihoods; to 2 × 10⁻⁶ after 50 iterations, 3 × 10⁻⁵ after 1000."""
