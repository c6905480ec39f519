"""Peak memory of `exotrack run` against the length of a video: it must not grow."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import main

from exotrack.simulate import Study, write

RUN = """
import resource, sys
import exotrack
exotrack.run(sys.argv[1], out=sys.argv[2], workers=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row per length: a fresh process analyses one video of 640×480 pixels; its largest resident set counts."""
    rows = []
    for n_frames in (60, 120) if quick else (500, 5000):
        with tempfile.TemporaryDirectory() as folder:
            sheet = write(
                Study.from_dict({"simulation": {"n_frames": n_frames, "seed": 5}, "sample": [{"batch": "a"}]}),
                Path(folder) / "study",
            )
            done = subprocess.run(
                [sys.executable, "-c", RUN, str(sheet), str(Path(folder) / "out")],
                capture_output=True,
                text=True,
                check=True,
            )
            unit = 1 if sys.platform == "darwin" else 1024
            rows.append(
                {
                    "frames": n_frames,
                    "video, MB": n_frames * 0.3072,
                    "peak, MB": int(done.stdout.split()[-1]) * unit / 1e6,
                }
            )
    return rows


if __name__ == "__main__":
    main("memory", measure)
