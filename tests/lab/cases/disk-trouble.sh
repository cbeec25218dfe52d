# shellcheck shell=bash
# limit: 400
# Disks that grow, become others, fill up and vanish under a running guest: the guest learns of growth; the VM pauses with
# the disk and the cause, and goes on when it can; it can be ended when it cannot.
read -r gone_device gone < <(lio_lun gone 64M)
multipath_map lab-queue "$gone" "$gone_device" >/dev/null
dmsetup message lab-queue 0 queue_if_no_path
trap 'dmsetup message lab-queue 0 fail_if_no_path; dmsetup remove --noudevsync --force lab-queue' EXIT
read -r growing_device growing < <(scsi_debug_lun 64 virtual_gb=1)
truncate -s 64M "$work/small.fs"
mkfs.ext4 -q "$work/small.fs"
mkdir "$work/small"
mount -o loop "$work/small.fs" "$work/small"
read -r moved_device moved < <(lio_lun moved 16M)
read -r _ other < <(lio_lun other 16M)
plumb image create --sparse "$work/small/full.img" 40M
# All but a little.
dd if=/dev/zero of="$work/small/filler" bs=1M 2>/dev/null || true
plumb image create "$work/image.img" 8M

initrd=$(busybox_guest_initrd trouble 6.1 fio <<'END'
mkdir -p /dev/shm /etc
mount -t tmpfs shm /dev/shm
for disk in /sys/block/vd*; do eval "$(cat $disk/serial)=\${disk##*/}"; done
echo "READY"
while [ "$(cat /sys/block/$image/size)" = 16384 ]; do usleep 100000; done
echo "GREW image $(cat /sys/block/$image/size)"
while [ "$(cat /sys/block/$lun/size)" = 2097152 ]; do usleep 100000; done
echo "GREW lun $(cat /sys/block/$lun/size)"
fio --name=full --filename=/dev/$full --rw=write --bs=64k --direct=1 --size=30M --verify=crc32c --verify_fatal=1 \
  --ioengine=libaio --iodepth=8 --eta=never --output=/fio.out && echo "WROTE full"
while [ "$(cat /sys/block/$image/size)" != 65536 ]; do usleep 100000; done
echo "by its WWN" | dd of=/dev/$moved bs=512 conv=sync oflag=direct && echo "WROTE moved"
echo "NOW gone"
dd if=/dev/zero of=/dev/$gone bs=4k count=100000 conv=fsync
END
)
start_guest trouble --memory 768M --kernel "$(guest_elf)" --initrd "$initrd" --cmdline "$quiet_cmdline" \
  --disk "$work/image.img,id=image" --lun "$growing,id=lun" --disk "$work/small/full.img,id=full,on-error=pause" \
  --lun "$moved,id=moved" \
  --lun "$gone,id=gone"

expect_line "$logs/trouble.console" "READY" 100
check "an image grows" plumb disk resize trouble image 16M
expect_line "$logs/trouble.console" "GREW image 32768" 60
echo 2 >/sys/bus/pseudo/drivers/scsi_debug/virtual_gb
echo 1 >"/sys/block/${growing_device#/dev/}/device/rescan"
expect_line "$logs/trouble.console" "GREW lun 4194304" 60

# Another identity behind the same device, while the kernel still has the old one: only the LUN itself tells.
identity() {
  echo "$1" >/sys/bus/pseudo/drivers/scsi_debug/vpd_use_hostno
  echo change >"/sys/block/${growing_device#/dev/}/uevent"
}
identity 0
check "the VM pauses when its LUN has become another" wait_for 60 vm_paused
check "it says which" wait_for 10 vm_says "^disk lun \($growing\): what answers at $growing_device is naa\.3"
identity 1
check "it goes on when its LUN is back" wait_for 60 vm_runs

check "the VM pauses when its disk is full" wait_for 60 vm_paused
check "it says which disk and why" grep -E '^disk full \(image .*full.img\): write of [0-9]+ bytes at [0-9]+ failed: No space left on device; the VM is paused' <(vm_status pause_reason)
rm "$work/small/filler"
check "it goes on when there is room" plumb resume trouble
expect_line "$logs/trouble.console" "WROTE full" 100

# Away, another in its place, and back as another device.
port=$(lio_port moved)
lio_take "$port"
check "the VM pauses without its LUN" wait_for 60 vm_paused
check "it says which" wait_for 10 vm_says "^disk moved \($moved\): LUN $moved is not on this host"
device=$(lio_put "$port" other)
check "it does not take another" wait_for 10 vm_says "^disk moved \($moved\): $other is at its place now, as $device"
check "plumb resume" plumb resume trouble
check "does not change that" wait_for 10 vm_says "$other is at its place now"
# Its name is taken by then.
lio_path other second >/dev/null
lio_take "$port"
device=$(lio_put "$port" moved)
[ "$device" != "$moved_device" ] || fail "the device is the same"
check "it goes on when its LUN is back" wait_for 60 vm_runs
check "the guest goes on" plumb disk resize trouble image 32M
expect_line "$logs/trouble.console" "WROTE moved" 60
check "on its LUN" grep -q "by its WWN" "$work/moved.lun"
same "and never on the other" "$(tr -d '\0' <"$work/other.lun" | wc -c)" 0

expect_line "$logs/trouble.console" "NOW gone" 10
lio_state "$gone_device" offline
check "the VM pauses when its LUN has no path" wait_for 60 vm_paused
check "it says which LUN" wait_for 10 vm_says "^disk gone \($gone\): none of its 1 paths is up"
# Its map queues: the kernel has requests that do not come back.
plumb stop --timeout 1 trouble 2>"$logs/stop.errors" || status=$?
same "a VM that cannot power off is killed" "$status" 3
check "and stop says why" grep -E "is paused and cannot power off until it goes on: disk gone " "$logs/stop.errors"
guest_ends trouble 0 20
check "it left its requests" grep -E "the VM ends all the same: disk gone cannot be held" "$logs/trouble.errors"
umount "$work/small"
