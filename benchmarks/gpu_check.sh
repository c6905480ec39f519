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
step() {
    echo "== $1"
    shift
    "$@" 2>&1 | tee "$logs/gpu_$((++n)).log" || { failed=1; echo "FAILED: $*"; }
}
n=0
step "device" "$python" -m exotrack devices
step "kernels against the CPU backend" "$python" -m pytest -q -p no:cacheprovider tests/test_cuda_*.py
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        step "compute-sanitizer $tool" compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 5 \
            "$python" -m pytest -q -p no:cacheprovider tests/test_cuda_detect.py tests/test_cuda_refine.py \
            tests/test_cuda_noise.py tests/test_cuda_tables.py -k "not float32"
    done
fi
step "both backends on a whole study" "$python" -m pytest -q -p no:cacheprovider tests/test_cuda_study.py
step "all tests" "$python" -m pytest -q -p no:cacheprovider
step "measurements" "$python" benchmarks/bench_cuda.py --save
[ -n "${OUT:-}" ] && cp benchmarks/results/cuda.json "$OUT/"
exit $failed
