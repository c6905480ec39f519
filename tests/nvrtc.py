"""Compiles the kernels for GPUs with NVIDIA's compiler, which needs no GPU, and reads what it says of them."""

import re
from dataclasses import dataclass

from exotrack.backends.cuda import sources

_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Usage:
    """What a thread (registers, stack, spills) or a block (shared memory) of a kernel takes."""

    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_bytes: int


def compile_for(operation, constants, architecture):
    """Usage of each kernel of a source; the compiler's messages as an error where it refuses."""
    from cuda.bindings import nvrtc

    def done(result):
        code, *values = result
        assert code == nvrtc.nvrtcResult.NVRTC_SUCCESS, code
        return values[0] if values else None

    program = done(nvrtc.nvrtcCreateProgram(sources.text(operation).encode(), f"{operation}.cu".encode(), 0, [], []))
    options = [*sources.options(constants), f"--gpu-architecture={architecture}", "--ptxas-options=-v"]
    (code,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    log = b" " * done(nvrtc.nvrtcGetProgramLogSize(program))
    done(nvrtc.nvrtcGetProgramLog(program, log))
    said = log.decode().rstrip("\0 \n")
    if code != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise SyntaxError(said)
    assert done(nvrtc.nvrtcGetCUBINSize(program)) > 0
    done(nvrtc.nvrtcDestroyProgram(program))
    usage = {}
    for found in _ENTRY.finditer(said):
        shared = re.search(r"(\d+) bytes smem", found["rest"])
        usage[found["name"]] = Usage(
            registers=int(found["registers"]),
            shared_bytes=int(shared[1]) if shared else 0,
            stack_bytes=int(found["stack"]),
            spill_bytes=int(found["stores"]) + int(found["loads"]),
        )
    return usage
