#!/usr/bin/env bash
# Translates a test set, scores it, measures the model and adds one JSON line: see --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "$PYTHON" -m neuroprune_experiments.evaluate "$@"
