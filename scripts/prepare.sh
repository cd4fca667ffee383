#!/usr/bin/env bash
# Prepares a corpus: raw text in, a binarised fairseq folder out.
#
# usage: prepare.sh --corpus toy|multi30k|iwslt14|text|monolingual --out DIR [OPTION...]
#
#   --corpus NAME   toy: made by a grammar, no network
#                   multi30k: downloaded, or --raw DIR
#                   iwslt14: downloaded, or --archive PATH
#                   text: any parallel text, --train-pref, --valid-pref, --test-pref;
#                   several prefixes are put together
#                   monolingual: text for a language model, --train, --valid, --test
#   --out DIR       the folder to make: joint sentencepiece model (spm.model), cleaned text (text/),
#                   settings (prepared.json). Nothing is there before all of it is.
#
# All options of a corpus: prepare.sh --corpus NAME --help
set -euo pipefail
corpus="" rest=()
while [ $# -gt 0 ]; do
  case $1 in
    --corpus) corpus=${2-}; [ $# = 1 ] || shift ;;
    --corpus=*) corpus=${1#*=} ;;
    *) rest+=("$1") ;;
  esac
  shift
done
case "$corpus ${rest[*]-}" in
  " --help"* | " -h"*) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
  "toy "*) also_needed=num2words ;;
esac
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
case $corpus in
  toy | multi30k | iwslt14 | text | monolingual) ;;
  "") die "--corpus is missing: toy, multi30k, iwslt14, text or monolingual" ;;
  *) die "--corpus $corpus is unknown: choose toy, multi30k, iwslt14, text or monolingual" ;;
esac
# It has its modules beside it.
exec env -u PYTHONSAFEPATH "$PYTHON" "$ROOT/data-prep/$corpus.py" ${rest[@]+"${rest[@]}"}
