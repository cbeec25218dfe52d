# shellcheck shell=bash
# limit: 300
# A guest with the real guest agent commits to an image on XFS; `plumb snapshot create` freezes it. Each copy is a clean
# file system with every commit that was acknowledged before.
. "$lab/agent-vm.sh"
export PLUMB_STATE_DIR=$work/state
start_agent_vm db1
mkdir "$work/mounted"
for round in 1 2 3; do
  before=$(last_commit db1)
  check "snapshot $round" plumb snapshot create db1 --quiesce fs --json >"$logs/created"
  check "its grade is fs" grep -q '"grade":"fs"' "$logs/created"
  [[ $(<"$logs/created") =~ \"id\":\"(db1-[^\"]*)\" ]] && id=${BASH_REMATCH[1]}
  [[ $(<"$logs/created") =~ \"snapshot_id\":\"([^\"]*)\" ]] && copy=${BASH_REMATCH[1]}
  plumb snapshot show "$id"
  check "the copy needs no recovery" eval "! dumpe2fs -h '$copy' 2>/dev/null | grep -q needs_recovery"
  check "the copy is a clean file system" e2fsck -fn "$copy" >"$logs/e2fsck" 2>&1
  mount -o ro,loop "$copy" "$work/mounted"
  seen=$(tail -n 1 "$work/mounted/log")
  check "commit $before, acknowledged before, is in the copy, which ends with $seen" [ "$seen" -ge "$before" ]
  umount "$work/mounted"
  guest_goes_on db1 30
done
plumb snapshot list db1
check "deleted in any order" plumb snapshot delete "$id"
same "copies that are left" "$(copies_made)" 4
check "nothing is frozen or held" no_freeze

agent_vm_signal db1
expect_line "$logs/db1.console" "^AGENT killed" 30
check_refused "without an agent, fs asked for" 3 "grade crash only, not fs: no guest agent answers" \
  plumb snapshot create db1 --quiesce fs --agent-timeout 2
check_refused "without an agent, fs required" 15 "no guest agent answers" \
  plumb snapshot create db1 --quiesce fs --require fs --agent-timeout 2
check "without an agent, crash asked for" plumb snapshot create db1 --quiesce crash
same "copies that are left" "$(copies_made)" 8
check "plumb kill" plumb kill db1
