#!/usr/bin/env bash
# All tests, from a bare checkout: installs what is missing, builds, and runs every tier. The
# closing line is "N passed, N failed", with what was skipped and why listed above it.
#
# Usage: scripts/test.sh [TIER…], each one of: checks unit host lab crash asan tsan fuzz tidy (default: all)
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/.." || exit 1

passed=0
failed=0
skipped=0
logs=build/test-logs
mkdir -p "$logs"

# counts PASSED FAILED SKIPPED
count() {
  passed=$((passed + $1))
  failed=$((failed + $2))
  skipped=$((skipped + $3))
}

# build PRESET: a build that fails is one failed test.
build() {
  if cmake --preset "$1" >"$logs/configure-$1.log" 2>&1 &&
    cmake --build --preset "$1" >"$logs/build-$1.log" 2>&1; then
    return 0
  fi
  tail -n 40 "$logs/configure-$1.log" "$logs/build-$1.log"
  echo "FAIL build $1"
  count 0 1 0
  return 1
}

# run_ctest PRESET LABELS [OPTION…]: the unit programs of a build.
run_ctest() {
  local log=$logs/ctest-$1.log total bad skip
  ctest --test-dir "build/$1" -L "$2" "${@:3}" -j "$(nproc)" --output-on-failure >"$log" 2>&1
  grep -E '\*\*\*(Failed|Timeout|Exception|Skipped)|SKIPPED: ' "$log" | sort -u
  total=$(sed -n 's/.*tests passed, .* tests failed out of \([0-9]*\)/\1/p' "$log")
  bad=$(sed -n 's/.*tests passed, \([0-9]*\) tests failed out of .*/\1/p' "$log")
  skip=$(grep -c '\*\*\*Skipped' "$log")
  if [ -z "$total" ] || [ "$bad" -ne 0 ]; then
    tail -n 60 "$log"
  fi
  [ -n "$total" ] || { count 0 1 0; return; }
  echo "$1 ($2): $((total - bad - skip)) passed, $bad failed, $skip skipped"
  count $((total - bad - skip)) "$bad" "$skip"
}

# add_closing_line FILE PREFIX: adds up "PREFIX N passed, N failed[, N skipped]".
add_closing_line() {
  local line
  line=$(grep -E "^$2:? [0-9]+ passed, [0-9]+ failed" "$1" | tail -n 1)
  if [ -z "$line" ]; then
    echo "FAIL $2: ended without a result"
    count 0 1 0
    return
  fi
  # shellcheck disable=SC2046 # three numbers
  count $(echo "$line, 0" | grep -oE '[0-9]+' | head -n 3 | tr '\n' ' ')
}

# run_checks CHECK…
run_checks() {
  PLUMB_BUILD=build/release scripts/check.sh "$@" | tee "$logs/checks.log"
  add_closing_line "$logs/checks.log" checks
}

# run_host PRESET: command line and guests on this host's KVM.
run_host() {
  local test log
  for test in tests/host/*_test.py; do
    # Scripts for guests, and the programs of others: the build makes no difference to them.
    if [ "$1" = asan ] && [[ $test =~ /(hooks|libvirt)_test.py$ ]]; then continue; fi
    log=$logs/host-$1-$(basename "$test" .py).log
    PLUMB_BUILD=build/$1 python3 "$test" >"$log" 2>&1
    grep -E '^(FAIL|ERROR):|SKIPPED' "$log"
    tail -n 1 "$log"
    grep -qE '^host: .* 0 failed' "$log" || tail -n 60 "$log"
    add_closing_line "$log" host
  done
}

run_lab() {
  local cases
  mapfile -t cases < <(tests/lab/run --list)
  tests/lab/run --build build/release --machines 2 "${cases[@]}" | tee "$logs/lab.log"
  add_closing_line "$logs/lab.log" lab
}

# A slice of scripts/crash.sh: that nothing is lost, and that the rig would see it.
run_crash() {
  scripts/crash.sh --case log --cuts 2 | tee "$logs/crash.log"
  add_closing_line "$logs/crash.log" crash
  scripts/crash.sh --case image --cuts 1 | tee "$logs/crash-image.log"
  add_closing_line "$logs/crash-image.log" crash
  scripts/crash.sh --planted no-dsync | tee "$logs/crash-planted.log"
  add_closing_line "$logs/crash-planted.log" crash
}

# fuzz TARGET: 20 seconds for what guests send to the devices, five for the rest.
fuzz() {
  local seconds=5
  case $1 in queue_* | blk_* | pci_* | virtio_*) seconds=20 ;; esac
  if "build/fuzz/bin/$1" -max_total_time="$seconds" -timeout=30 -rss_limit_mb=2048 \
    -artifact_prefix="$logs/$1-" >"$logs/$1.log" 2>&1; then
    echo "PASS $1"
  else
    tail -n 30 "$logs/$1.log"
    echo "FAIL $1"
  fi
}

# A short slice of each target, two at a time; long campaigns are run by hand.
run_fuzz() {
  export -f fuzz
  export logs
  find build/fuzz/bin -name '*_fuzz' -printf '%f\n' | sort |
    xargs -P 2 -I{} bash -c 'fuzz {}' | tee "$logs/fuzz.log"
  count "$(grep -c '^PASS' "$logs/fuzz.log")" "$(grep -c '^FAIL' "$logs/fuzz.log")" 0
}

run_tier() {
  echo "== $1"
  case $1 in
    checks) run_checks format layers headers shell sizes ;;
    unit) build release && run_ctest release 'unit|host' ;;
    tidy) build release && run_checks tidy ;;  # needs a build: for its commands and what it generates
    host) build release && run_host release ;;
    # What takes its time in these is Python, which is the same again.
    asan) build asan && run_ctest asan 'unit|host' -E 'the example|EqualLogic' && run_host asan ;;
    # The long runs of the simulation have one thread; the vendors' suites fork beside a server's thread, which it cannot follow.
    tsan) build tsan && run_ctest tsan unit -E '^simulation(-cow)?$|cow simulation|EqualLogic|rbd: |does what an array must' ;;
    fuzz) build fuzz && run_fuzz ;;
    lab) build release && run_lab ;;
    crash) run_crash ;;
    *)
      echo "usage: scripts/test.sh [checks|unit|host|lab|crash|asan|tsan|fuzz|tidy]…" >&2
      exit 2
      ;;
  esac
  echo "== $1 ended after $SECONDS s"
}

scripts/deps.sh || exit 1
tiers=("$@")
[ ${#tiers[@]} -gt 0 ] || tiers=(checks unit host lab crash asan tsan fuzz tidy)
for tier in "${tiers[@]}"; do run_tier "$tier"; done

echo "$skipped skipped"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
