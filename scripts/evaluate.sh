#!/usr/bin/env bash
# Generates with fairseq-generate, scores, measures and appends one JSON line: see --help.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/options.sh"
take_python_option "$@"
for argument in ${rest[@]+"${rest[@]}"}; do
  # Help needs no environment.
  if [ "$argument" = --help ]; then
    exec env -u PYTHONSAFEPATH "${NEUROPRUNE_PYTHON:-python3}" "$here/evaluate.py" --help
  fi
done

source "$here/environment.sh"
run_program "$here/evaluate.py" ${rest[@]+"${rest[@]}"}
