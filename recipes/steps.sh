# shellcheck shell=bash
#
# Steps of a recipe: each says what it costs and makes one result, and is passed over where that is there. What a command
# has done is kept, so that the same recipe, started again, goes on where it was interrupted.
#
#   recipes/NAME.sh ... [--list] [--budget TIME]
#
# --list says what there is to do and does nothing. --budget ends the run after a time such as 25m, with exit code 124.

set -euo pipefail

# recipe NAMES WORDS...: each of the NAMES becomes a variable, with one of the words that are not options.
recipe() {
  local names words=() budget=
  read -ra names <<< "$1"
  shift
  listing=
  while (($#)); do
    case $1 in
      --list) listing=yes ;;
      --budget)
        budget=${2-}
        [ -n "$budget" ] || { words=() && break; }
        shift
        ;;
      -*) words=() && break ;;
      *) words+=("$1") ;;
    esac
    shift
  done
  if ((${#words[@]} != ${#names[@]})); then
    printf 'usage: %s %s [--list] [--budget TIME]\n\n' "$0" "${names[*]^^}" >&2
    sed -n '2,/^$/s/^# \?//p' "$0" >&2
    exit 2
  fi
  [ -z "$budget" ] || [ -n "$listing" ] || within "$budget" "${words[@]}"
  for name in "${names[@]}"; do
    printf -v "$name" %s "${words[0]}"
    words=("${words[@]:1}")
  done
}

within() {
  local budget=$1 code=0
  timeout --signal=INT --kill-after=2m "$budget" bash "$0" "${@:2}" || code=$?
  ((code != 124)) || echo "The budget of $budget is spent: the same command goes on from here." >&2
  exit "$code"
}

# needs TOOLS...: before any work is done.
needs() {
  for tool in "$@"; do
    if [ -z "$listing" ] && ! command -v "$tool" > /dev/null; then
      echo "Expected $tool on the PATH, found none: install it, this recipe needs it." >&2
      exit 2
    fi
  done
}

# step RESULT COST COMMAND...
step() {
  local result=$1 cost=$2
  shift 2
  if [ -n "$listing" ]; then
    printf '%-5s  %-24s  %s\n' "$([ -e "$result" ] && echo "done" || echo "to do")" "$result" "$cost"
  elif [ ! -e "$result" ]; then
    printf '\n== %s: %s\n' "$result" "$cost"
    mkdir -p "$(dirname "$result")"
    "$@"
  fi
}
