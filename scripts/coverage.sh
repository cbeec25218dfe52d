#!/usr/bin/env bash
# Line coverage that the fuzz targets of the devices reach in a fixed number of executions: a fuzzer
# that no longer reaches the code tests nothing. Fails when the ring or the request parser is below
# 90 % of its lines.
#
# Usage: scripts/coverage.sh [EXECUTIONS]   (of each target; default 50000: a minute or two)
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

executions=${1:-50000}
targets=(queue_fuzz blk_request_fuzz pci_config_fuzz virtio_bar_fuzz blk_device_fuzz)
at_least_90=(queue.cc blk_request.cc)

scripts/deps.sh
cmake --preset coverage >/dev/null
cmake --build --preset coverage --target "${targets[@]}" >/dev/null

profiles=$(mktemp -d)
trap 'rm -rf "$profiles"' EXIT
programs=()
for target in "${targets[@]}"; do
  LLVM_PROFILE_FILE=$profiles/$target.profraw build/coverage/bin/"$target" \
    -runs="$executions" -max_len=1024 -seed=1 >"$profiles/log" 2>&1 || {
    tail -n 30 "$profiles/log"
    exit 1
  }
  programs+=(-object "build/coverage/bin/$target")
done
llvm-profdata-14 merge -o "$profiles/all" "$profiles"/*.profraw
llvm-cov-14 export -summary-only -instr-profile "$profiles/all" \
  "${programs[@]:1}" | python3 -c '
import json, sys
low = []
for file in json.load(sys.stdin)["data"][0]["files"]:
    folder, name = file["filename"].rsplit("/", 1)
    if not folder.endswith(("vmm/virtio", "vmm/pci")) or name.endswith(".h"): continue
    lines = file["summary"]["lines"]
    covered, count, percent = lines["covered"], lines["count"], lines["percent"]
    print(f"{name:16} {covered:4} of {count:4} lines {percent:6.1f} %")
    if name in sys.argv[1:] and percent < 90: low.append(name)
if low: sys.exit("coverage.sh: below 90 % of the lines: " + " ".join(low))
' "${at_least_90[@]}"
