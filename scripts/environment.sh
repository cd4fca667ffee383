# shellcheck shell=bash
# Finds the Python environment. Sourced by the other scripts; afterwards ROOT is the checkout,
# PYTHON an interpreter that has what the project needs, and PYTHONPATH starts with the checkout.
#
# NEUROPRUNE_PYTHON names an interpreter: it is used as it is. Otherwise it is that of .venv in
# the checkout, which quickstart.sh, test.sh and `make env` make (make_it=yes), and a stamp tells
# that it is complete.
#
# No module is imported from the folder where a script is started: -I while the environment is
# made, later PYTHONSAFEPATH (Python 3.11 and newer know it).

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# die MESSAGE: one line on stderr, exit status 2.
die() {
  printf '%s: error: %s\n' "$(basename "$0")" "$*" >&2
  exit 2
}

# The first Python 3.11 or 3.12 that has venv and pip, and runs: a version manager's may not.
find_base_python() {
  local name
  for name in python3.11 python3.12 python3 python; do
    "$name" -I -c 'import sys, venv, ensurepip
sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1 &&
      command -v "$name" && return
  done
}

# What the installation depends on; the folder too, since an editable install points to it.
environment_stamp() {
  (printf '%s\n' "$ROOT" && cd "$ROOT" && cat setup.py constraints.txt requirements-lock.txt) | cksum
}

environment_is_complete() {
  [ "$(cat "$ROOT/.venv/.neuroprune-stamp" 2>/dev/null)" = "$(environment_stamp)" ] &&
    "$ROOT/.venv/bin/python" -I -c '' 2>/dev/null
}

# pip's install in the new environment, with these arguments.
install() {
  (cd "$ROOT" && .venv/bin/python -I -m pip install --disable-pip-version-check "$@") >&2 ||
    die "the installation into $ROOT/.venv failed; the same command goes on from here"
}

# Every file that is installed from the lock has a known hash: fairseq's wheel comes from a third
# party. The lock (make lock) holds where that wheel does. torch is not in it: its build, and the
# many packages that a build for GPUs needs, differ from machine to machine under one version.
make_environment() {
  local base venv=$ROOT/.venv
  if ! "$venv/bin/python" -I -m pip --version >/dev/null 2>&1; then
    base=$(find_base_python) || die "no Python 3.11 or 3.12 with venv found (Debian, Ubuntu:" \
      "install python3-venv), or name an interpreter with NEUROPRUNE_PYTHON=PATH"
    echo "Making the environment $venv with $base" >&2
    "$base" -I -m venv "$venv" >&2 || die "$base -m venv $venv failed"
  fi
  echo "Installing the project and what it needs into $venv: 2 to 5 minutes" >&2
  if [ "$(uname -sm)" = "Linux x86_64" ]; then
    install --require-hashes --no-deps -r requirements-lock.txt
  fi
  install -c constraints.txt -e '.[fairseq,dev]'
  environment_stamp >"$venv/.neuroprune-stamp.new"
  mv "$venv/.neuroprune-stamp.new" "$venv/.neuroprune-stamp"
}

if [ -n "${NEUROPRUNE_PYTHON:-}" ]; then
  PYTHON=$NEUROPRUNE_PYTHON
  # Not -I: it would not find packages of the user's own folder. The first place is where we are.
  missing=$("$PYTHON" -c 'import sys
sys.path = [folder for folder in sys.path if folder]
from importlib.util import find_spec
print(*(name for name in sys.argv[1].split() if find_spec(name) is None), sep=", ")' \
    "torch fairseq numpy sacrebleu sentencepiece tqdm ${also_needed:-}" 2>/dev/null) ||
    die "NEUROPRUNE_PYTHON=$PYTHON does not run"
  [ -z "$missing" ] || die "NEUROPRUNE_PYTHON=$PYTHON lacks $missing" \
    "(in $ROOT: $PYTHON -m pip install -c constraints.txt -e '.[fairseq,dev]')"
else
  PYTHON=$ROOT/.venv/bin/python
  if [ -n "${make_it:-}" ]; then
    # Two that start at once must not install at once: the second waits, then finds it done.
    mkdir -p "$ROOT/.venv"
    exec 8>"$ROOT/.venv/.neuroprune-lock"
    if command -v flock >/dev/null; then flock 8; fi
    environment_is_complete || make_environment
    exec 8>&-
  fi
  environment_is_complete ||
    die "$ROOT/.venv is missing or not up to date; 'make env' makes it, or set NEUROPRUNE_PYTHON=PATH"
fi
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1
# fairseq's own use of old interfaces is nothing that a user can mend.
export PYTHONWARNINGS=${PYTHONWARNINGS-ignore}
source "$ROOT/scripts/allocator.sh"
