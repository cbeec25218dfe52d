# shellcheck shell=bash
# limit: 1200
# by hand: takes some minutes
# The guest's agent is killed at each step; one that never answers the thaw is exit code 15, and is told again until it does.
. "$lab/kill-steps.sh"
start_agent_vm db1
deaths=0
for phase in $phases; do
  snapshot_with_victim "$phase" "plumb disk resize db1 signal $((1048576 + 4096 * (2 * deaths + 1))) &&
    until [ \$(grep -ca '^AGENT killed' $logs/db1.console) = $((deaths + 1)) ]; do read -rt 0.05 <> <(:) || true; done"
  deaths=$((deaths + 1))
  case $phase in
    planned | prepared) wanted=3 ;;                  # not frozen: weaker than asked
    frozen | held | copied | released) wanted=15 ;;  # frozen, and nobody thaws it
    *) wanted=0 ;;
  esac
  same "agent killed when $phase: exit status" "$status" "$wanted"
  [ "$wanted" != 15 ] || check "plumb ps tells of it" grep -q '"state":"thawing"' <(plumb ps --json)
  agent_vm_signal db1
  wait_for 30 eval "[ \$(grep -ca '^AGENT started' '$logs/db1.console') = $deaths ]" || fail "no new agent"
  whole_again "agent killed when $phase"
done
check "plumb kill" plumb kill db1
