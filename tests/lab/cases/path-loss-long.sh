# shellcheck shell=bash
# limit: 3000
# by hand: it takes a quarter of an hour
# As path-loss, 200 failures of one path and 20 of both.
# shellcheck source=tests/lab/path-loss.sh
. "$(dirname "${BASH_SOURCE[0]}")/../path-loss.sh"
path_loss 200 20
