# shellcheck shell=dash
# /run.sh of a guest of the power-cut rig: the log.
exec >/dev/hvc0 2>&1
/cut-log "$(cat /mode)" /dev/vda /ledger
