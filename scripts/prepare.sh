#!/usr/bin/env bash
# Prepares a corpus: raw text in, a binarised fairseq folder out.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/prepare.sh --corpus toy|multi30k|iwslt14|text --out DIR [OPTION...]

Makes DIR: a fairseq data folder with a joint sentencepiece model (spm.model), the cleaned
text (text/), and its settings (prepared.json). Nothing is there before all of it is.

  --corpus NAME       toy: made by a grammar, no network
                      multi30k: downloaded, or --raw DIR
                      iwslt14: downloaded, or --archive PATH
                      text: any parallel text, --train-pref, --valid-pref, --test-pref
  --out DIR           the folder to make
  --vocab-size N      sentencepiece pieces
  --lowercase         lowercase all text
  --source-lang, --target-lang

All options of a corpus: scripts/prepare.sh --corpus NAME --help
  --python PATH       use this interpreter, install nothing (also: NEUROPRUNE_PYTHON);
                      by default .venv of the checkout, made when it is missing
TEXT
}

fail() {
  echo "prepare.sh: error: $1" >&2
  exit 2
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
corpus=""
help=false
rest=()
while (($#)); do
  case "$1" in
    --corpus)
      (($# > 1)) || fail "--corpus needs a name: toy, multi30k, iwslt14 or text"
      corpus="$2"
      shift
      ;;
    --corpus=*) corpus="${1#--corpus=}" ;;
    --python)
      (($# > 1)) || fail "--python needs a value: PATH"
      export NEUROPRUNE_PYTHON="$2"
      shift
      ;;
    --python=*) export NEUROPRUNE_PYTHON="${1#--python=}" ;;
    -h | --help) help=true ;;
    *) rest+=("$1") ;;
  esac
  shift
done

if [[ -z "$corpus" ]]; then
  if $help; then
    usage
    exit 0
  fi
  fail "--corpus is missing: toy, multi30k, iwslt14 or text"
fi
case "$corpus" in
  toy | multi30k | iwslt14 | text) ;;
  *) fail "--corpus $corpus is unknown: choose toy, multi30k, iwslt14 or text" ;;
esac
if $help; then
  rest+=(--help)
fi

[[ "$corpus" != toy ]] || also_needed=num2words
source "$root/scripts/environment.sh"
run_program "$root/data-prep/$corpus.py" ${rest[@]+"${rest[@]}"}
