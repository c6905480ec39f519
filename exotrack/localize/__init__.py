"""From frames to spots: where the particles are, how sure that is, and nothing an operator has to set.

1. A global time grid of windows (`plan_windows`), so that background and noise never depend on how a video is cut.
2. From its first window, a video's `SpotModel`: polarity, width of the spots, noise, gain (`calibrate`).
3. Per window: the still background (temporal) and the noise of the filtered frames on tiles.
4. Per frame: matched filter, local maxima above the threshold that gives the false alarms asked for, and
   maximum-likelihood refinement with errors from the Fisher matrix.
"""

from exotrack.localize.injection import Detection as Detection
from exotrack.localize.injection import injected_detection as injected_detection
from exotrack.localize.stream import FrameSource as FrameSource
from exotrack.localize.stream import calibrate as calibrate
from exotrack.localize.stream import localize as localize
from exotrack.localize.stream import plan_windows as plan_windows
