# shellcheck shell=bash
# limit: 240
# Disks of all kinds come to a running guest, are used, and leave, while another disk's I/O goes on; one is taken by force:
# only its I/O fails. Claims end with the disks.
read -r lun_device lun < <(lio_lun data 32M)
read -r _ mapped < <(lio_lun mapped 32M)
for name in keep blk scsi; do plumb image create "$work/$name.img" 16M; done
plumb rdm create "$work/mapped.rdm" --wwn "$mapped"

# The guest knows disks by their serial numbers, the LUN on the SCSI bus by its WWN.
mkdir -p "$work/hot.fs"
echo "$lun" >"$work/hot.fs/lun.wwn"
initrd=$(scsi_guest_initrd hot <<'SCRIPT'
read -r wwn </lun.wwn
disk() { # without a fork, which is dear here; sets $found
  found=
  for of in /sys/block/vd* /sys/block/sd*; do
    seen=
    [ ! -e $of/serial ] || read -r seen <$of/serial || true # without an end of line
    [ ! -e $of/device/wwid ] || read -r seen <$of/device/wwid
    case $seen in $1 | t10.*" $1") found=/dev/${of##*/} ;; esac
    [ "$1" != lun ] || [ "$seen" != "$wwn" ] || found=/dev/${of##*/}
  done
}
await() { while disk $1 && [ -z "$found" ]; do usleep 50000; done; }
gone() { while disk $1 && [ -n "$found" ]; do usleep 50000; done; echo "GONE $1"; }
disk keep
keep=$found
(while dd if=/dev/zero of=$keep bs=64k count=4 oflag=direct 2>/dev/null && echo >>/turns; do usleep 100000; done; echo "KEEP FAILED") &
for name in blk scsi lun; do
  await $name
  yes "written by $name" | dd of=$found bs=64k count=4 iflag=fullblock oflag=direct 2>/dev/null && echo "WROTE $name"
done
await mapped
dd if=$found of=/dev/null bs=64k count=4 2>/dev/null && echo "READ mapped"
dd if=/dev/zero of=$found bs=512 count=1 oflag=direct 2>/dev/null || echo "READONLY mapped"
for name in blk scsi lun mapped; do gone $name; done
await forced
(forced=$found
 while dd if=$forced of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null; do echo >>/used; done; echo "LOST forced") &
while [ ! -s /used ]; do usleep 50000; done
echo "USING forced"
gone forced
before=$(wc -l </turns)
while [ "$(wc -l </turns)" -lt $((before + 2)) ]; do usleep 100000; done
echo "KEEP goes on"
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
  same "what is on $name" "$(dd if="$medium" bs=64k count=4 iflag=direct 2>/dev/null | sha256sum)" \
    "$(yes "written by $name" | dd bs=64k count=4 iflag=fullblock 2>/dev/null | sha256sum)"
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

guest_ends hot 0 60
check "no I/O of the other disk failed" bash -c '! grep -qa "KEEP FAILED" "$0"' "$logs/hot.console"
