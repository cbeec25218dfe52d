# shellcheck shell=bash
# limit: 300
# by hand: two guests at a time take minutes
# Two guests of two hosts share a LUN, one in physical mode over dm-multipath, one in virtual mode by a single path: the
# one that registers and reserves fences the other, until that registers and preempts it.
modprobe -a dm_multipath dm_round_robin
read -r first wwn < <(lio_lun data 16M)
second=$(lio_path data second)
third=$(lio_path data third) # the other host's
map=$(multipath_map lab-pr "$wwn" "$first" "$second")
trap 'dmsetup remove --noudevsync --force lab-pr' EXIT
plumb-pr-broker --socket /run/plumb-pr-broker.sock 2>"$logs/broker.log" &
expect_line "$logs/broker.log" "serves" 30

# on_host DEVICES COMMAND...: with a view of sysfs that has these disks only, as another host has one.
on_host() {
  # shellcheck disable=SC2016
  unshare -m bash -c 'devices=$1; shift
    mkdir /tmp/view.$$; for name in $devices; do ln -s "$(readlink -f "/sys/block/${name#/dev/}")" /tmp/view.$$/; done
    mount --bind /tmp/view.$$ /sys/block; exec "$@"' on_host "$@"
}
on_host "$map $first $second" plumb rdm create "$work/a.rdm" --wwn "$wwn" --mode physical --shared
on_host "$third" plumb rdm create "$work/b.rdm" --wwn "$wwn" --shared

# guest NAME DEVICES <SCRIPT: starts a guest with the LUN as /dev/sda; its process is $guest_pid.
guest() {
  local initrd
  guest_programs "$1" sg_persist
  initrd=$({
    cat <<'SCRIPT'
while [ ! -b /dev/sda ]; do :; done # it appears in the background
write() { dd if=/dev/zero of=/dev/sda bs=4k count=1 oflag=direct 2>/tmp-dd; }
conflicts() { ! write && grep -q "Invalid exchange" /tmp-dd; }
say() { echo "SAYS $*"; }
out() { sg_persist --out "$@" /dev/sda >/dev/null 2>&1 || say "failed: $*"; }
keys() { sg_persist --in --read-keys /dev/sda 2>/dev/null | grep -oE '^ +0x[0-9a-f]+' | tr -d ' \n'; }
SCRIPT
    cat
  } | scsi_guest_initrd "$1")
  on_host "$2" plumb run --name "$1" --memory 256M --console virtio --kernel "$(guest_elf)" --initrd "$initrd" \
    --cmdline "$quiet_cmdline" --rdm "$work/$1.rdm,bus=scsi" </dev/null >"$logs/$1.console" 2>"$logs/$1.errors" &
  guest_pid=$!
}
guest a "$map $first $second" <<'SCRIPT'
out --register --param-sark=0xa1
out --reserve --param-rk=0xa1 --prout-type=5
write && say wrote
say reserved
while ! conflicts; do :; done
say fenced
keys >/dev/null # the unit attention of the preemption, if no write has met it
say "keys $(keys)"
SCRIPT
pid_a=$guest_pid
guest b "$third" <<'SCRIPT'
while ! sg_persist --in --read-reservation /dev/sda 2>/dev/null | grep -q "type: Write Exclusive, registrants only"; do :; done
say "keys $(keys)"
conflicts && say conflict
out --register --param-sark=0xb2
write && say wrote
out --preempt --param-rk=0xb2 --param-sark=0xa1 --prout-type=5
say "keys $(keys)"
write && say "wrote again"
SCRIPT
guest_ends b 0 200
guest_pid=$pid_a
guest_ends a 0 100
said() { tr -d '\r' <"$logs/$1.console" | sed -n 's/^SAYS //p' | xargs -d '\n' printf '%s; '; }
cat "$logs"/*.errors "$logs/broker.log"
same "the guest of the map" "$(said a)" "wrote; reserved; fenced; keys 0xb2; "
same "the guest of the single path" "$(said b)" "keys 0xa10xa1; conflict; wrote; keys 0xb2; wrote again; "
