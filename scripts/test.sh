#!/usr/bin/env bash
# Makes the environment where needed, then runs the test suite.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/options.sh"

if [ "${1:-}" = --help ]; then
  echo "usage: test.sh [--python PATH] [arguments of pytest]

Make the environment where needed, then run the test suite on every core; no network needed
for the tests themselves. Arguments go to pytest: -k, -x, --durations, files ..."
  exit 0
fi
take_python_option "$@"

source "$here/environment.sh"
cd "$ROOT"
# An interpreter that was named may lack pytest-xdist; then one process runs all tests.
parallel=()
if "$PYTHON" -c 'import xdist' 2>/dev/null; then
  # A file's tests stay in one process, since they may share a trained model.
  parallel=(-n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder)
  # One thread in each process: with more threads than cores they wait for each other.
  export OMP_NUM_THREADS=1
fi
# The current folder is the checkout by now, and tests start programs of ours.
run_program -m pytest ${parallel[@]+"${parallel[@]}"} ${rest[@]+"${rest[@]}"}
