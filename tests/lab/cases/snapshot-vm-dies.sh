# shellcheck shell=bash
# limit: 1800
# by hand: boots ten guests
# The VM's process is killed at each step: the command says so, nothing is left over, and the VM starts and goes on.
. "$lab/kill-steps.sh"
for phase in $phases; do
  : >"$logs/db1.console"
  start_agent_vm db1
  # shellcheck disable=SC2016
  snapshot_with_victim "$phase" 'kill -9 $(pgrep -f "^plumb-vm db1 ")'
  case $phase in
    planned | prepared | frozen | held | copied) wanted=1 ;;
    released) wanted=3 ;;  # the copies are of one instant; whether all was frozen, nobody can say any more
    *) wanted=0 ;;
  esac
  same "VM killed when $phase: exit status" "$status" "$wanted"
  : >"$logs/db1.console"
  start_agent_vm db1
  whole_again "VM killed when $phase"
  check "plumb kill" plumb kill db1
done
