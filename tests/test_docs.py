"""What the documentation shows runs: docstring examples, the README's Python, the notebooks."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import exotrack

ROOT = Path(__file__).parents[1]
MODULES = [m.name for m in pkgutil.walk_packages(exotrack.__path__, "exotrack.") if not m.name.endswith("__main__")]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(importlib.import_module(name), optionflags=flags).failed == 0


def test_readme_examples(tmp_path, monkeypatch):
    """The Python blocks, in order, as one session, in a folder that holds the small study they speak of."""
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    simulated = exotrack.simulate(n_frames=120, frame_shape=(120, 160), particles_per_frame=8.0, snr=12.0, seed=3)
    simulated.video.write(tmp_path / "sample.avi")
    monkeypatch.chdir(tmp_path)
    Path("sheet.csv").write_text("video,batch,sample,pixel_size_um,fps,exposure_s\nsample.avi,B07,S,0.3,30,0.02\n")
    exotrack.run("sheet.csv", "results", exotrack.Protocol.from_dict({"size": {"bootstrap": 50}}))
    session: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), session)


def test_readme_links_exist():
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", README):
        assert (ROOT / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
@pytest.mark.filterwarnings("ignore")  # the kernel's own start-up, not ours: our code runs in another process
def test_notebooks_run_and_are_stored_without_output(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    assert cells
    assert all(not c.outputs and c.execution_count is None for c in cells)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
