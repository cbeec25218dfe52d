# shellcheck shell=bash
# For cases whose VM has the real guest agent: a busybox guest with a file system on the disk "data", on which it commits
# line after line. Sourced by them.

# start_agent_vm NAME OPTION...: starts it, with the image $work/NAME.img as data disk unless an OPTION gives id=data.
# What is in $work/NAME.workload is done instead of the commits; it prints COMMIT lines too.
# Growing the disk "signal" kills the guest's agent, with SIGKILL; growing it again starts a new one.
start_agent_vm() {
  local name=$1 initrd
  shift
  guest_programs "$name" qemu-ga
  cp "$lab/agent-guest" "$work/$name.fs/"
  [ ! -f "$work/$name.workload" ] || cp "$work/$name.workload" "$work/$name.fs/workload"
  initrd=$(busybox_guest_initrd "$name" <<'SCRIPT'
exec >/dev/hvc0 2>&1
. /agent-guest
SCRIPT
)
  rm -f "$work/$name-signal.img"
  plumb image create "$work/$name-signal.img" 1M
  [[ "$*" == *id=data* ]] || {
    [ -f "$work/$name.img" ] || { truncate -s 64M "$work/$name.img" && mkfs.ext4 -q -L data "$work/$name.img"; }
    set -- --disk "$work/$name.img,id=data" "$@"
  }
  start_guest "$name" --memory 256M --kernel "$(guest_elf)" --initrd "$initrd" --cmdline "$quiet_cmdline" --console virtio \
    "$@" --disk "$work/$name-signal.img,id=signal"
  expect_line "$logs/$name.console" "^COMMIT" 120
}

# agent_vm_signal NAME: kills its agent, or starts a new one.
agent_vm_signal() {
  local size
  size=$(stat -c %s "$work/$1-signal.img")
  plumb disk resize "$1" signal $((size + 4096))
}

last_commit() { grep -aoE "^COMMIT [0-9]+" "$logs/$1.console" | tail -n 1 | cut -d' ' -f2; }
_commits_after() { [ "$(last_commit "$1")" -gt "$2" ]; }

# guest_goes_on NAME SECONDS: it commits more than it has so far.
guest_goes_on() { wait_for "$2" _commits_after "$1" "$(last_commit "$1")" || fail "guest $1 does not go on within $2 s"; }

no_freeze() { ! plumb ps --json | grep -q '"freeze"'; }
# How many copies of disks there are; the VM has two disks.
copies_made() { find "$work/.plumb-snapshots" -type f 2>/dev/null | wc -l; }
