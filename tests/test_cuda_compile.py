"""The kernels compiled for GPUs, without one: for which architectures, with how many registers, without spills."""

import tomllib
from dataclasses import asdict

import pytest
from nvrtc import compile_for

from exotrack.backends.cuda import sources

pytest.importorskip("cuda.bindings.nvrtc", reason="NVIDIA's compiler is published for Linux and Windows")

ARCHITECTURES = ("sm_80", "sm_90")
BUDGET = tomllib.loads((sources.folder() / "budget.toml").read_text(encoding="utf-8"))


def test_every_kernel_has_a_budget():
    assert {name: set(sources.entries(name)) for name in sources.operations()} == {
        name: set(entry) - {"constants"} for name, entry in BUDGET.items()
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("operation", sources.operations())
def test_within_budget(operation, architecture):
    budget = BUDGET[operation]
    usage = compile_for(operation, budget["constants"], architecture)
    assert set(usage) == set(budget) - {"constants"}
    for entry, found in usage.items():
        over = {k: (v, budget[entry].get(k, 0)) for k, v in asdict(found).items() if v > budget[entry].get(k, 0)}
        assert not over, f"{operation}.{entry} takes more than its budget (found, allowed): {over}"


def test_a_mistake_is_told_with_file_and_line(monkeypatch):
    text = sources.text("detect").replace("const int64 frame = blockIdx.x;", "const int64 frame = blockIdx.xx;", 1)
    line = text[: text.index("blockIdx.xx")].count("\n")
    monkeypatch.setattr(sources, "text", lambda _: text)
    with pytest.raises(SyntaxError, match=rf"kernels/detect\.cu\({line}\): error"):
        compile_for("detect", BUDGET["detect"]["constants"], "sm_90")
