# shellcheck shell=bash
# limit: 600
# by hand: the same without an agent is a test of the host (snapshot_test.py), in seconds
# `plumb snapshot create` is killed at each step: the guest thaws, no disk is held, nothing is left over, the next one works.
. "$lab/kill-steps.sh"
start_agent_vm db1
for phase in $phases; do
  # shellcheck disable=SC2016
  snapshot_with_victim "$phase" 'kill -9 $PPID'
  same "killed when $phase: exit status" "$status" 137
  whole_again "killed when $phase"
done
check "plumb kill" plumb kill db1
