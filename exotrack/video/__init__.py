"""Lazy (t, y, x) access to raw video with bounded memory, and what is known about how it was recorded.

One module per container reads frames; `lazy.Video` is what the rest of exotrack sees of any of them; `metadata`
resolves physical numbers with the origin of each; `convert` writes lossless, checksummed OME-Zarr.
"""

from exotrack.video.convert import convert
from exotrack.video.footprints import footprint
from exotrack.video.lazy import Video
from exotrack.video.opening import look, open_header, open_video

__all__ = ["Video", "convert", "footprint", "look", "open_header", "open_video"]
