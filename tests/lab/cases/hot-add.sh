# shellcheck shell=bash
# limit: 240
# Disks of all kinds come to a running guest, are used, and leave, while another disk's I/O goes on; one is taken by force:
# only its I/O fails. Claims end with the disks; a reboot keeps what is attached.
read -r lun_device lun < <(lio_lun data 32M)
read -r _ mapped < <(lio_lun mapped 32M)
for name in keep blk scsi; do plumb image create "$work/$name.img" 16M; done
plumb rdm create "$work/mapped.rdm" --wwn "$mapped"

# The guest knows disks by their serial numbers, on either bus.
initrd=$(scsi_guest_initrd hot <<'SCRIPT'
disk() {
  for of in /sys/block/vd*; do [ "$(cat "$of/serial" 2>/dev/null)" != "$1" ] || echo "/dev/${of##*/}"; done
  for of in /sys/block/sd*; do
    [ ! -e "$of/device/vpd_pg80" ] || ! tail -c +5 "$of/device/vpd_pg80" | tr -d ' ' | grep -qx "$1" || echo "/dev/${of##*/}"
  done
}
await() { while [ -z "$(disk "$1")" ]; do usleep 100000; done; }
gone() { while [ -n "$(disk "$1")" ]; do usleep 100000; done; echo "GONE $1"; }
if [ -n "$(disk after)" ]; then echo "REBOOTED with $(disk after | wc -l) and $(disk blk | wc -l)"; poweroff -f; fi
keep=$(disk keep)
(while dd if=/dev/urandom of=$keep bs=64k count=16 oflag=direct 2>/dev/null && echo >>/turns; do :; done; echo "KEEP FAILED") &
for name in blk scsi lun; do
  await $name
  yes "written by $name" | dd of=$(disk $name) bs=64k count=16 iflag=fullblock oflag=direct 2>/dev/null && echo "WROTE $name"
done
await mapped
dd if=$(disk mapped) of=/dev/null bs=64k count=16 2>/dev/null && echo "READ mapped"
dd if=/dev/zero of=$(disk mapped) bs=512 count=1 oflag=direct 2>/dev/null || echo "READONLY mapped"
for name in blk scsi lun mapped; do gone $name; done
await forced
(forced=$(disk forced)
 while dd if=$forced of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null; do echo >>/used; done; echo "LOST forced") &
while [ ! -s /used ]; do :; done
echo "USING forced"
gone forced
before=$(wc -l </turns)
while [ "$(wc -l </turns)" -lt $((before + 2)) ]; do usleep 100000; done
echo "KEEP goes on"
await after
reboot -f
SCRIPT
)
start_guest hot --memory 256M --vcpus 2 --console virtio --kernel "$(guest_elf)" --initrd "$initrd" --cmdline "$quiet_cmdline" \
  --disk "$work/keep.img,id=keep"
attach() { check "$1 is attached" plumb disk attach hot "$@"; }
wait_for 100 test -S /run/plumb/hot/disks.sock || fail "the VM takes no disks"

attach blk --image "$work/blk.img"
attach scsi --image "$work/scsi.img" --bus scsi
attach lun --lun "$lun" --bus scsi --serial lun
expect_line "$logs/hot.console" "WROTE lun" 100
attach mapped --rdm "$work/mapped.rdm" --read-only
expect_line "$logs/hot.console" "READONLY mapped" 60
check "it can be read" grep -qa "READ mapped" "$logs/hot.console"
for name in blk scsi lun; do
  medium=$work/$name.img
  [ $name != lun ] || medium=$lun_device
  same "what is on $name" "$(dd if="$medium" bs=64k count=16 iflag=direct 2>/dev/null | sha256sum)" \
    "$(yes "written by $name" | dd bs=64k count=16 iflag=fullblock 2>/dev/null | sha256sum)"
done
check "lun list names the VM" grep -qE "$lun .*VM hot" <(plumb lun list)

for name in blk scsi lun mapped; do
  check "$name is detached" plumb disk detach hot $name
  expect_line "$logs/hot.console" "GONE $name" 60
done
check "the LUN is free" grep -qE "$lun .* free" <(plumb lun list)

attach forced --lun "$lun"
expect_line "$logs/hot.console" "USING forced" 60
status=0
plumb disk detach hot forced --timeout 0 --force || status=$?
same "exit status of a disk taken by force" $status 3
check "its claim is free at once" grep -qE "$lun .* free" <(plumb lun list)
expect_line "$logs/hot.console" "LOST forced" 60
expect_line "$logs/hot.console" "KEEP goes on" 60

attach after --rdm "$work/mapped.rdm" --bus scsi
expect_line "$logs/hot.console" "REBOOTED with 1 and 0" 100
guest_ends hot 0 60
check "no I/O of the other disk failed" bash -c '! grep -qa "KEEP FAILED" "$0"' "$logs/hot.console"
plumb lun list
check "all claims have ended" bash -c '! plumb lun list | grep "VM hot"'
