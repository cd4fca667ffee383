#!/usr/bin/env bash
# Makes the environment where needed, then runs the test suite on every core.
#
# usage: test.sh [arguments of pytest: -k, -x, --durations, files ...]
#
# No network is needed for the tests themselves.
set -euo pipefail
case ${1-} in --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
make_it=yes
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$ROOT"
# An interpreter that was named may lack pytest-xdist; then one process runs all tests.
parallel=()
if "$PYTHON" -c 'import xdist' 2>/dev/null; then
  # A file's tests stay in one process, since they may share a trained model.
  parallel=(-n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder)
  # One thread in each process: with more threads than cores they wait for each other.
  export OMP_NUM_THREADS=1
fi
# The current folder is the checkout by now, and tests start programs that have modules beside them.
exec env -u PYTHONSAFEPATH "$PYTHON" -m pytest ${parallel[@]+"${parallel[@]}"} "$@"
