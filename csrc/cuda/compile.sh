#!/bin/sh
# compile.sh OBJECT COMMAND...: runs a command that writes OBJECT.part, and names that OBJECT. What the compiler says, of
# ptxas the registers of every kernel, stays in OBJECT.log for bench/nvcc.py; warnings and errors are printed as well.
object=$1
shift
"$@" > "$object.log" 2>&1
status=$?
grep -v -e '^ptxas info' -e ' bytes stack frame, ' -e '^$' "$object.log"
[ $status = 0 ] && mv "$object.part" "$object"
