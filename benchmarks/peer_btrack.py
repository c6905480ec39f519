"""btrack as a peer of `bench_link.py`, run by a Python of its own: its versions that load on older systems need
pydantic 1. Reads spots from one JSON file and writes CPU seconds and tracks to another.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import btrack
import numpy as np
from btrack.config import TrackerConfig
from btrack.constants import BayesianUpdates
from btrack.models import MotionModel


def track(spots: dict[str, Any]) -> tuple[float, list[list[int]]]:
    """CPU seconds of linking, and the rows of each track.

    A Kalman filter for positions that wander by the true step, without btrack's optimization of whole tracks.
    """
    unit = np.eye(3)
    motion = MotionModel(
        measurements=3,
        states=3,
        A=unit,
        H=unit,
        P=0.1 * unit,
        Q=spots["step"] ** 2 * unit,
        R=0.01 * unit,
        G=spots["step"] * np.ones((1, 3)),
        accuracy=7.5,
        max_lost=max(spots["memory"], 1),  # with 0 it finds nothing
        prob_not_assign=1e-4,
    )
    config = TrackerConfig(motion_model=motion, max_search_radius=spots["gate"], update_method=BayesianUpdates.EXACT)
    n = len(spots["t"])
    columns = {"ID": np.arange(n), "z": np.zeros(n), **{name: np.array(spots[name]) for name in "tyx"}}
    objects = btrack.io.objects_from_dict(columns)
    side = max(columns["y"].max(), columns["x"].max())
    with btrack.BayesianTracker(verbose=False) as tracker:
        tracker.configure(config)
        start = time.process_time()
        tracker.append(objects)
        tracker.volume = ((0, side), (0, side), (-1, 1))
        tracker.track(step_size=1000)
        rows = tracker.refs
        seconds = time.process_time() - start
    return seconds, [[row for row in chain if row >= 0] for chain in rows]


if __name__ == "__main__":
    logging.disable()
    request, answer = map(Path, sys.argv[1:])
    answer.write_text(json.dumps([btrack.__version__, *track(json.loads(request.read_text()))]))
