# shellcheck shell=bash
# A LUN that somebody uses, that is ambiguous or that is not there is refused with its reason, and not touched.
modprobe -a dm_mod
read -r device wwn < <(lio_lun data 16M)

# refused TEXT STATUS PATTERN [WWN]: plumb run must end with STATUS and a line like PATTERN, and leave the LUN as it was.
refused() {
  local status=0 before=$before
  plumb run --name vm --kernel "$(guest_elf)" --lun "${4:-$wwn}" </dev/null >"$logs/plumb.out" 2>&1 || status=$?
  cat "$logs/plumb.out"
  same "$1: exit status" "$status" "$2"
  check "$1: the reason" grep -qE -- "$3" "$logs/plumb.out"
  check "$1: the LUN is as it was" [ "$(sha256sum <"$work/data.lun")" = "$before" ]
}
as_it_is() { sync -f "$work" && before=$(sha256sum <"$work/data.lun"); }
as_it_is

refused "unknown" 1 "naa.6001405fffffffffffffffffffffffff is not on this host" naa.6001405fffffffffffffffffffffffff

mkfs.ext4 -q "$device" && mkdir "$work/mnt" && mount -o ro "$device" "$work/mnt" && as_it_is
refused "mounted" 11 "$wwn .*mounted on $work/mnt"
umount "$work/mnt"

mkswap -q "$device" && swapon "$device" && as_it_is
refused "swap" 11 "$wwn .*swap"
swapoff "$device"

dmsetup create --noudevsync lab-held --table "0 2048 linear $device 0"
as_it_is
refused "held by device-mapper" 11 "$wwn .*held by dm-"
dmsetup remove --noudevsync lab-held

# One partition of 8 MiB, in the MBR's own format: start and length little-endian at 0x1be.
dd if=/dev/zero of="$device" bs=1M count=2 status=none
printf '\0\0\0\0\203\0\0\0\0\010\0\0\0\100\0\0' | dd of="$device" bs=1 seek=446 conv=notrunc status=none
printf '\125\252' | dd of="$device" bs=1 seek=510 conv=notrunc status=none
blockdev --rereadpt "$device"
wait_for 10 test -b "${device}1" || fail "no partition"
mkfs.ext4 -q "${device}1" && mount -o ro "${device}1" "$work/mnt" && as_it_is
refused "its partition mounted" 11 "$wwn .*partition ${device#/dev/}1 .*mounted on $work/mnt"
umount "$work/mnt"

python3 -c 'import os, sys, time; os.open(sys.argv[1], os.O_RDWR | os.O_EXCL); print("held", flush=True); time.sleep(600)' "$device" >"$work/holder" &
holder=$!
expect_line "$work/holder" held 30
refused "open exclusively elsewhere" 11 "$wwn .*open in .*$holder"
kill "$holder"
wait "$holder" || true

lio_lun copy 16M "$wwn" >/dev/null
refused "duplicate" 1 "$wwn is ambiguous"
lio_lun_remove copy

status=0
plumb lun list >"$logs/list" || status=$?
cat "$logs/list"
same "lun list: exit status" "$status" 0
check "lun list names the LUN, free again" grep -qE "^$wwn +$device .*free" "$logs/list"
check "lun show" plumb lun show "$wwn"
