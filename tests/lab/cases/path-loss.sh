# shellcheck shell=bash
# limit: 400
# Paths to LUNs fail and come back under a guest that writes and verifies; then a VM is stopped while its LUN is away.
# shellcheck source=tests/lab/path-loss.sh
. "$(dirname "${BASH_SOURCE[0]}")/../path-loss.sh"
path_loss 6 2
