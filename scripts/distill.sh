#!/usr/bin/env bash
# Translates the training text of a corpus, and makes a corpus of the translations: see --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "$PYTHON" -m neuroprune_experiments.distill "$@"
