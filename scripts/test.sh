#!/usr/bin/env bash
# Makes the environment where needed, then runs the test suite on every core.
#
# usage: test.sh [arguments of pytest: -k, -x, --durations, files ...]
set -euo pipefail
case ${1-} in --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
make_it=yes
also_needed="pytest xdist hypothesis"
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$ROOT"
# With more threads than cores they wait for each other.
export OMP_NUM_THREADS=1
# The current folder is the checkout by now, and tests start programs that have modules beside
# them. A file's tests stay in one process, since they may share a trained model.
exec env -u PYTHONSAFEPATH "$PYTHON" -m pytest \
  -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder "$@"
