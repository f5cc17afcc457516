#!/bin/sh
# Builds the native tests and runs them for every instruction set of this machine. The last line is
# "N passed, M failed".
#   csrc/tests/run.sh [build directory] [flags]
# The flags default to AddressSanitizer and UBSan.
set -eu
cd "$(dirname "$0")/../.."
build=${1:-build/native-tests}
mkdir -p "$build"
quietly() { "$@" > "$build/log" 2>&1 || { cat "$build/log"; exit 1; }; }
quietly cmake -S . -B "$build" -DGCONV_BUILD_TESTS=ON ${2:+"-DGCONV_TEST_FLAGS=$2"}
quietly cmake --build "$build" --parallel 2
exec "$build/native_tests"
