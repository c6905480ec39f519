#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: all tests with the device required, compute-sanitizer on the small cases, both
# backends on a whole simulated study, and the measurements, into benchmarks/results/. Nothing is skipped for want of a
# device. Run it in the repository's root, with exotrack and its test packages importable.
set -uo pipefail
cd "$(dirname "$0")/.."
export EXOTRACK_REQUIRE_CUDA=1 PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
logs=${OUT:-benchmarks/results}
mkdir -p "$logs"
failed=0
number=0
step() {
    number=$((number + 1))
    echo "== $1"
    shift
    "$@" 2>&1 | tee "$logs/gpu_$number.log" || { failed=1; echo "FAILED: $*"; }
}
step "device" "$python" -m exotrack devices
step "kernels against the CPU backend" "$python" -m pytest -q -p no:cacheprovider tests/test_cuda_*.py
for tool in memcheck racecheck initcheck synccheck; do
    # Without CuPy's pool every array is an allocation of its own, whose ends memcheck guards.
    step "compute-sanitizer $tool" env EXOTRACK_NO_MEMORY_POOL=1 compute-sanitizer --tool "$tool" --error-exitcode 9 \
        --print-limit 5 "$python" -m pytest -q -p no:cacheprovider tests/test_cuda_detect.py tests/test_cuda_refine.py \
        tests/test_cuda_noise.py tests/test_cuda_tables.py -k "not float32"
done
step "both backends on a whole study" "$python" -m pytest -q -p no:cacheprovider tests/test_cuda_study.py
step "all tests" "$python" -m pytest -q -p no:cacheprovider
step "measurements" "$python" benchmarks/bench_cuda.py --save
[ -z "${OUT:-}" ] || cp benchmarks/results/cuda.json "$OUT/"
exit $failed
