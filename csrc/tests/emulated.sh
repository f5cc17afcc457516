#!/bin/sh
# Builds the extension gconv._cuda for tests without a GPU, its kernels run on the CPU by emulation.cpp, as _cuda*.so in
# the build directory; the last line is its path.
#   csrc/tests/emulated.sh [build directory] [flags]
# For AddressSanitizer the flags are "-O1 -fsanitize=address", and the environment of Python
#   LD_PRELOAD="$(c++ -print-file-name=libasan.so) $(c++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0
set -eu
cd "$(dirname "$0")/../.."
build=${1:-build/emulated}
python=${PYTHON:-python3}
mkdir -p "$build"
quietly() { "$@" > "$build/log" 2>&1 || { cat "$build/log" >&2; exit 1; }; }
quietly cmake -S csrc/tests -B "$build" -DGCONV_FLAGS="${2:-}" -DPython_EXECUTABLE="$(command -v "$python")" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)"
quietly cmake --build "$build" --parallel 2
ls "$build"/_cuda*.so
