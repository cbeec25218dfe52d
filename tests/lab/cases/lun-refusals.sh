# shellcheck shell=bash
# A LUN that somebody uses, that is ambiguous or that is not there is refused with its reason, and not touched.
modprobe -a dm_mod
read -r device wwn < <(lio_lun data 16M)

# refused TEXT STATUS PATTERN [WWN]: plumb run must end with STATUS and a line like PATTERN, and leave the LUN as it was.
refused() {
  local before=$before
  check_refused "$1" "$2" "$3" plumb run --name vm --kernel "$(guest_elf)" --lun "${4:-$wwn}"
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

# As LVM does with a physical volume whose volume group is active.
dmsetup create --noudevsync lab-held --uuid LVM-labvolume --table "0 2048 linear $device 0"
as_it_is
refused "held by LVM" 11 "$wwn .*held by dm-[0-9]+ \(LVM-labvolume\)"
dmsetup remove --noudevsync lab-held

# A member of a linear array without metadata, until standard input ends (linux/raid/md_u.h).
modprobe -a md_mod linear
mkfifo "$work/end"
python3 - "$device" <<'PYTHON' >"$work/md" &
import fcntl, os, stat, struct, sys
member = os.stat(sys.argv[1]).st_rdev
if not os.path.exists("/dev/md0"):
    os.mknod("/dev/md0", stat.S_IFBLK | 0o600, os.makedev(9, 0))
md = os.open("/dev/md0", os.O_RDWR)
fcntl.ioctl(md, 0x40480923, struct.pack("18i", 0, 90, 0, 0, -1, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 65536))
fcntl.ioctl(md, 0x40140921, struct.pack("5i", 0, os.major(member), os.minor(member), 0, 6))
print("held", flush=True)
open(os.path.dirname(os.readlink("/proc/self/fd/1")) + "/end").read()
fcntl.ioctl(md, 0x932)  # STOP_ARRAY
PYTHON
md=$!
expect_line "$work/md" held 30
as_it_is
refused "held by md" 11 "$wwn .*held by md0"
echo end >"$work/end"
wait "$md"

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

# Of a LUN with two paths the WWN is the multipath map, and neither path.
modprobe -a dm_multipath dm_round_robin
second=$(lio_path data second)
refused "two paths and no map" 1 "$wwn is ambiguous"
map=$(multipath_map lab-refusals "$wwn" "$device" "$second")
check_refused "a path instead of its map" 1 "image $device is a device, not a file; name a LUN by its WWN" \
  plumb run --name vm --kernel "$(guest_elf)" --disk "$device"
check "its WWN is the map" grep -E "^$wwn +$map .* 2 +free" <(plumb lun list)
dmsetup remove --noudevsync lab-refusals
