#!/bin/sh
# Builds the native tests and runs them for every instruction set of this machine, or for aarch64 under qemu where
# Debian's packages g++-aarch64-linux-gnu and qemu-user are installed. Says which sets ran; the last line is
# "N passed, M failed".
#   csrc/tests/run.sh [aarch64] [build directory] [flags]
# The flags default to AddressSanitizer and UBSan; under qemu, which is slow, to -O2.
set -eu
cd "$(dirname "$0")/../.."
quietly() { "$@" > "$build/log" 2>&1 || { cat "$build/log"; exit 1; }; }
emulator=
if [ "${1:-}" = aarch64 ]; then
    for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
        command -v $tool > /dev/null || { echo "aarch64: skipped, $tool is not installed"; exit 0; }
    done
    emulator="qemu-aarch64 -L /usr/aarch64-linux-gnu"
    build=${2:-build/native-tests-aarch64}
    set -- "$build" "${3:--O2}" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
        -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
fi
build=${1:-build/native-tests}
flags=${2:+"-DGCONV_TEST_FLAGS=$2"}
[ $# -lt 2 ] || shift
[ $# -lt 1 ] || shift
mkdir -p "$build"
quietly cmake -S . -B "$build" -DGCONV_BUILD_TESTS=ON ${flags:+"$flags"} "$@"
# What emulates a GPU is the same everywhere, and slow under qemu.
[ -n "$emulator" ] || {
    quietly cmake --build "$build" --parallel 2 --target emulation_tests cuda_memory_tests
    "$build/emulation_tests"
    "$build/cuda_memory_tests"
}
quietly cmake --build "$build" --parallel 2 --target native_tests
exec $emulator "$build/native_tests"
