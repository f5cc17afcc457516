#!/usr/bin/env bash
# Everything that needs a GPU, in the order of a first contact: build, every op once, tests, bench, counters, sanitizers,
# training steps; see bench/gpu.py, and --help. Offline, with the machine's own python3, each step under a limit of its
# own, all within nine minutes. What has passed is not run again: a second call goes on where the first ended, on the
# same machine by build/gpu/, on another with --after and the folder that the first call left. Rows and the log go to
# $OUT (bench/results/gpu-run) as they are made, so that a run that is cut off leaves what it has. Changes no setting of
# the GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v python3 > /dev/null || {
    echo "gpu.sh: there is no python3 on the PATH"
    exit 2
}
missing=$(python3 -c 'from importlib.util import find_spec
print(*(name for name in ("click", "pytest", "rich") if find_spec(name) is None))')
[[ -z $missing ]] || {
    echo "gpu.sh: python3 has no $missing, which the steps need beside torch, numpy and triton"
    exit 2
}
exec env -u TRITON_INTERPRET PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 \
    python3 bench/gpu.py run "$@"
