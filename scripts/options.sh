# shellcheck shell=bash
# The one option parser of the shell scripts. Sourced, never run.
#
# A script declares its options, then calls parse_options "$@". The value of --save-dir is
# afterwards in $save_dir; what is passed on to fairseq is in the array $rest.
#
#   about     "Text at the top of --help"
#   required  data DIR "help"                an option without which the script stops
#   option    epochs N 15 "help"             an option with a default ("" = none)
#   flag      plain "help"                   no value; "yes" or ""
#   passes_on fairseq-train                  unknown options go to that command
#
# Written for bash 3.2, too: no associative arrays, no "${empty[@]}".

TOOL=$(basename "$0")
option_names=()
option_values=()  # what the value is called in --help; "" for a flag
option_defaults=()
option_helps=()
option_required=()
about_text=""
passes_on_to=""
rest=()

# die MESSAGE: one line on stderr, exit status 2.
die() {
  printf '%s: error: %s\n' "$TOOL" "$*" >&2
  exit 2
}

about() { about_text=$1; }
passes_on() { passes_on_to=$1; }
required() { declare_option "$1" "$2" "" "$3" yes; }
option() { declare_option "$1" "$2" "$3" "$4" ""; }
flag() { declare_option "$1" "" "" "$2" ""; }

variable_of() { printf '%s' "${1//-/_}"; }

declare_option() {
  option_names+=("$1")
  option_values+=("$2")
  option_defaults+=("$3")
  option_helps+=("$4")
  option_required+=("$5")
  printf -v "$(variable_of "$1")" '%s' "$3"
}

# find_option NAME: sets $found to its place, fails when there is no such option.
find_option() {
  for found in "${!option_names[@]}"; do
    [ "${option_names[$found]}" = "$1" ] && return 0
  done
  return 1
}

show_help() {
  local place note
  printf 'usage: %s [options]%s\n\n%s\n\noptions:\n' \
    "$TOOL" "${passes_on_to:+ [-- flags of $passes_on_to]}" "$about_text"
  for place in "${!option_names[@]}"; do
    note=""
    [ -n "${option_required[$place]}" ] && note=" (required)"
    [ -n "${option_defaults[$place]}" ] && note=" (default: ${option_defaults[$place]})"
    printf '  --%s%s\n      %s%s\n' "${option_names[$place]}" \
      "${option_values[$place]:+ ${option_values[$place]}}" "${option_helps[$place]}" "$note"
  done
  printf '  --help\n      show this text\n'
  if [ -n "$passes_on_to" ]; then
    printf '\nEvery other flag is passed on to %s.\n' "$passes_on_to"
  fi
}

# Options with a value: --name value and --name=value.
parse_options() {
  local name value passing="" place
  option python PATH "" "use this interpreter, install nothing (also: NEUROPRUNE_PYTHON)"
  while [ $# -gt 0 ]; do
    case $1 in
      --help | -h) show_help; exit 0 ;;
      --)
        [ -n "$passes_on_to" ] || die "unexpected '--'; see $TOOL --help"
        shift
        rest+=("$@")
        break
        ;;
      --*)
        name=${1#--}
        name=${name%%=*}
        passing=""
        if ! find_option "$name"; then
          [ -n "$passes_on_to" ] || die "unknown option --$name; see $TOOL --help"
          rest+=("$1")
          passing=yes
        elif [ -z "${option_values[$found]}" ]; then
          [ "$1" = "--$name" ] || die "--$name takes no value"
          printf -v "$(variable_of "$name")" yes
        else
          case $1 in
            *=*) value=${1#*=} ;;
            *)
              [ $# -gt 1 ] || die "--$name needs a value: ${option_values[$found]}"
              value=$2
              case $value in --*) die "--$name needs a value, not the option $value" ;; esac
              shift
              ;;
          esac
          [ -n "$value" ] || die "--$name needs a value: ${option_values[$found]}"
          printf -v "$(variable_of "$name")" '%s' "$value"
        fi
        ;;
      *)
        [ -n "$passing" ] || die "unexpected argument '$1'; see $TOOL --help"
        rest+=("$1")
        ;;
    esac
    shift
  done
  for place in "${!option_names[@]}"; do
    name=${option_names[$place]}
    value=$(variable_of "$name")
    if [ -n "${option_required[$place]}" ] && [ -z "${!value}" ]; then
      die "--$name ${option_values[$place]} is missing; see $TOOL --help"
    fi
  done
  [ -z "$python" ] || export NEUROPRUNE_PYTHON=$python
}

# For a script that only starts a Python program, which reads the options itself:
# takes --python out of "$@" and leaves the others in the array $rest.
take_python_option() {
  while [ $# -gt 0 ]; do
    case $1 in
      --python)
        [ $# -gt 1 ] || die "--python needs a value: PATH"
        export NEUROPRUNE_PYTHON=$2
        shift
        ;;
      --python=*) export NEUROPRUNE_PYTHON=${1#*=} ;;
      *) rest+=("$1") ;;
    esac
    shift
  done
}

# check_count NAME: the option's value must be a whole number above zero.
check_count() {
  local variable
  variable=$(variable_of "$1")
  case ${!variable} in
    "" | *[!0-9]* | 0) die "--$1 must be a whole number above 0, not '${!variable}'" ;;
  esac
}

# check_number NAME: the option's value must be a number of at least zero.
check_number() {
  local variable
  variable=$(variable_of "$1")
  [[ ${!variable} =~ ^([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$ ]] ||
    die "--$1 must be a number of at least 0, not '${!variable}'"
}

# check_choice NAME CHOICE...: the option's value must be one of the choices.
check_choice() {
  local variable choice
  variable=$(variable_of "$1")
  for choice in "${@:2}"; do
    [ "${!variable}" != "$choice" ] || return 0
  done
  die "--$1 must be one of ${*:2}, not '${!variable}'"
}

# any_file FOLDER PATTERN: whether the folder has a file of that name.
any_file() {
  local file
  for file in "$1"/$2; do
    [ ! -e "$file" ] || return 0
  done
  return 1
}

# put FILE TEXT OPTION: writes a file under a temporary name, then renames it; OPTION is what
# the user gave, for the message.
put() {
  { printf '%s\n' "$2" >"$1.new" && mv "$1.new" "$1"; } 2>/dev/null || {
    rm -f "$1.new"
    die "$3 cannot be written to; make room there or name another folder"
  }
}

# check_corpus: --data must be a folder with fairseq's dictionaries and binarised text.
check_corpus() {
  [ -d "$data" ] || die "--data $data: no such folder; scripts/prepare.sh makes one"
  if ! any_file "$data" 'dict.*.txt' || ! any_file "$data" 'train.*.idx'; then
    die "--data $data holds no prepared corpus (dict.*.txt, train.*.idx); scripts/prepare.sh makes one"
  fi
}
