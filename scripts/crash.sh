#!/usr/bin/env bash
# Cuts the power of a host under load and looks for acknowledged commits that are lost; tests/lab/power-cut says how.
#
# Usage: scripts/crash.sh [--case log|image|postgres] [--cuts N] [--seed S]      default: all cases, 50, 10 and 10 cuts
#        scripts/crash.sh --planted BUG|all [--seed S]    succeeds only if each bug is caught within 5 cuts
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/.." || exit 1

usage() { sed -n '4,5s/^# //p' "$0" >&2; exit 2; }
cases=(log image postgres)
declare -A cuts=([log]=50 [image]=10 [postgres]=10)
planted=()
rig=(tests/lab/power-cut)
while [ $# -gt 1 ]; do
  case $1 in
    --case) cases=("$2") ;;
    --cuts) cuts=([log]=$2 [image]=$2 [postgres]=$2) ;;
    --seed) rig+=(--seed "$2") ;;
    --planted)
      planted=("$2")
      [ "$2" != all ] || planted=(no-dsync early-completion dropped-flush zero-without-flush dropped-shared-flush) ;;
    *) usage ;;
  esac
  shift 2
done
[ $# -eq 0 ] || usage

passed=0
failed=0
# verdict TEXT COMMAND...: one test.
verdict() {
  local text=$1
  shift
  if "$@"; then
    echo "PASS $text"
    passed=$((passed + 1))
  else
    echo "FAIL $text"
    failed=$((failed + 1))
  fi
}

caught() {
  "${rig[@]}" --cuts 5 --planted "$1"
  [ $? -eq 10 ]
}

scripts/deps.sh || exit 1
mkdir -p build
build() { cmake --preset release && cmake --build --preset release --target crash_rig; }
build >build/crash-build.log 2>&1 || {
  tail -n 40 build/crash-build.log
  exit 1
}
if [ ${#planted[@]} -gt 0 ]; then
  for bug in "${planted[@]}"; do verdict "planted $bug is caught" caught "$bug"; done
else
  for case in "${cases[@]}"; do verdict "power cuts, $case" "${rig[@]}" --case "$case" --cuts "${cuts[$case]}"; done
fi
echo "crash: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
