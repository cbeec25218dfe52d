#!/usr/bin/env bash
# The main job, from a bare checkout: a stock Debian kernel in a guest of plumb, its root disk in an
# image and its data disk a raw LUN found by its WWN; the guest writes, goes away, and the host reads
# the same from the LUN. Runs in the lab (tests/lab), which has real KVM and real LUNs anywhere.
# Ends with a summary; exit code 0 only if everything held.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

logs=build/demo-logs
mkdir -p "$logs"
steps=()

# step NAME COMMAND…: runs it, its output in a log that is shown when it fails; notes the time.
step() {
  local name=$1 log=$logs/${1// /-}.log started=$SECONDS
  shift
  echo "… $name"
  if ! "$@" >"$log" 2>&1; then
    tail -n 40 "$log"
    echo "demo.sh: '$name' failed; see $log" >&2
    exit 1
  fi
  steps+=("$(printf '%-24s %4d s' "$name" $((SECONDS - started)))")
}

step "install packages" scripts/deps.sh
step "configure" cmake --preset release
step "build" cmake --build --preset release
step "prepare the lab" tests/lab/prepare
step "guest writes to the LUN" tests/lab/run --build build/release first-boot

echo
echo "What happened"
sed -n 's/^.*summary: /  /p' "$logs/guest-writes-to-the-LUN.log" | tr -d '\r'
echo "How long it took"
printf '  %s\n' "${steps[@]}"
