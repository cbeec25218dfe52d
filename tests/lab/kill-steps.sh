# shellcheck shell=bash
# For cases in which something dies at each step of a snapshot. Sourced by them.
. "$lab/agent-vm.sh"
export PLUMB_STATE_DIR=$work/state
phases="planned prepared frozen held copied released thawed whole recorded"

mkdir "$work/hooks"
for phase in $phases; do
  cat >"$work/hooks/$phase" <<'END'
#!/bin/bash
exec 2>>"$PLUMB_STATE_DIR/../hooks.log"
[ "$PLUMB_PHASE" = "$(<"$PLUMB_STATE_DIR/../kill-at")" ] || exit 0
. "$PLUMB_STATE_DIR/../victim"
END
  chmod +x "$work/hooks/$phase"
done

# snapshot_with_victim PHASE COMMAND: makes a snapshot, during which the hook of PHASE runs COMMAND. Sets status.
# shellcheck disable=SC2034
snapshot_with_victim() {
  echo "$1" >"$work/kill-at"
  echo "$2" >"$work/victim"
  status=0
  plumb snapshot create db1 --quiesce fs --hooks "$work/hooks" --agent-timeout 5 --frozen-limit 5 --held-limit 5 \
    --thaw-timeout 5 >"$logs/out" 2>&1 || status=$?
  cat "$logs/out"
}

# whole_again TEXT: the guest goes on, nothing is frozen or held, each copy belongs to a snapshot, and the next one works.
whole_again() {
  guest_goes_on db1 60
  wait_for 60 no_freeze || fail "$1: $(plumb ps --json)"
  plumb snapshot recover
  same "$1: copies beside snapshots" "$(copies_made)" "$((2 * ($(plumb snapshot list | wc -l) - 1)))"
  same "$1: journals" "$(find "$work/state/snapshots/journals" -type f | wc -l)" 0
  plumb snapshot create db1 --quiesce fs --require fs || fail "$1: no next snapshot"
  # shellcheck disable=SC2046
  plumb snapshot delete $(plumb snapshot list --json | grep -oE '"id":"db1-[^"]*"' | cut -d'"' -f4)
  same "$1: copies after all are deleted" "$(copies_made)" 0
}
