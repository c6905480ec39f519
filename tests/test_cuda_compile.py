"""The kernels as compilers see them: for GPUs with a budget, and clean under the sanitizers of g++."""

import shutil
import tomllib
from dataclasses import asdict

import pytest
from host_device import HostRuntime, sanitized
from launches import use_every_kernel
from nvrtc import compile_for

from exotrack.backends.cuda import device, sources

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to build the kernels for the processor")

ARCHITECTURES = ("sm_80", "sm_90")
BUDGET = tomllib.loads((sources.folder() / "budget.toml").read_text(encoding="utf-8"))
KERNELS = [(operation, entry) for operation in sources.operations() for entry in sources.entries(operation)]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Folder of the recorded launches, and the constants of the first of each operation, as the backend gives them."""
    folder = tmp_path_factory.mktemp("launches")
    with pytest.MonkeyPatch.context() as patch:
        runtime = HostRuntime(record=folder)
        patch.setattr(device, "_device", device.Device(runtime))
        use_every_kernel()
    return folder, {operation: constants for operation, _, _, _, constants in reversed(runtime.launches)}


def test_every_kernel_is_launched_and_has_a_budget(launched):
    folder, _ = launched
    assert {tuple(path.name.split("-")[1:]) for path in folder.iterdir() if not path.suffix} == set(KERNELS)
    assert {(operation, entry) for operation, of in BUDGET.items() for entry in of} == set(KERNELS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("operation", sources.operations())
def test_within_budget(launched, operation, architecture):
    pytest.importorskip("cuda.bindings.nvrtc", reason="NVIDIA's compiler is published for Linux and Windows")
    usage = compile_for(operation, launched[1][operation], architecture)
    assert set(usage) == set(BUDGET[operation])
    for entry, found in usage.items():
        allowed = BUDGET[operation][entry]
        over = {name: (n, allowed.get(name, 0)) for name, n in asdict(found).items() if n > allowed.get(name, 0)}
        assert not over, f"{operation}.{entry} takes more than its budget (found, allowed): {over}"


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
@pytest.mark.parametrize(("operation", "entry"), KERNELS)
def test_clean_under_the_sanitizers(launched, operation, entry, sanitizer):
    launch = next(path for path in sorted(launched[0].glob(f"*-{operation}-{entry}")))
    assert sanitized(launch, sanitizer) == (0, "")


def test_a_mistake_is_told_with_file_and_line(launched, monkeypatch):
    pytest.importorskip("cuda.bindings.nvrtc", reason="NVIDIA's compiler is published for Linux and Windows")
    text = sources.text("detect").replace("const int64 frame = blockIdx.x;", "const int64 frame = blockIdx.xx;", 1)
    line = text[: text.index("blockIdx.xx")].count("\n")
    monkeypatch.setattr(sources, "text", lambda _: text)
    with pytest.raises(SyntaxError, match=rf"kernels/detect\.cu\({line}\): error"):
        compile_for("detect", launched[1]["detect"], "sm_90")
