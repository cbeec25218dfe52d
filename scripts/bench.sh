#!/usr/bin/env bash
# Benchmarks beside QEMU, ours and the peer's taken in turn in one run; a table with ratios and goals.
#
# Usage: scripts/bench.sh NAME [--json FILE] [--runs N] [--option=OPTION…], NAME one of: start memory io cpu syscalls cow
# kept freeze; OPTION is one of plumb run's, such as --option=--io-poll-us=0. io --bus scsi: QEMU's virtio-scsi and our virtio-blk.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
scripts/deps.sh
cmake --preset release >/dev/null
cmake --build --preset release --target plumb plumb-vm plumb-snapshot plumb-libvirt probe-guest cow_bench write-pace >/dev/null
PYTHONPATH=tests/host exec python3 tests/bench/bench.py --build build/release "$@"
