# shellcheck shell=bash
# Runs in the lab: starts the guest that power-cut put into /lab/guest, on the LUN whose cache is volatile. What the
# guest prints leaves the lab as it comes. power-cut gives $wwn, $fua, $cache_mode, $planted, and $image_bytes (0: the
# guest has the LUN itself).
modprobe virtio_scsi
there() { device=$(grep -lsx "$wwn" /sys/block/sd*/device/wwid | cut -d/ -f4) && test -b "/dev/$device"; }
wait_for 20 there || fail "no LUN $wwn"
same "cache and FUA of the LUN" "$(xargs <<<"$(cat "/sys/block/$device"/queue/{write_cache,fua})")" "write back $fua"

if [ -n "$planted" ]; then
  export PLUMB_PLANTED_BUG=$planted
  mount --bind "$build/bin/plumb-vm-planted" "$build/bin/plumb-vm"
fi
cp -r /lab/guest "$work/guest.fs"
initrd=$(busybox_guest_initrd guest <"$work/guest.fs/commit.sh")
disk=(--lun "$wwn,cache=$cache_mode")
if [ "$image_bytes" -gt 0 ]; then
  mkdir "$work/images"
  mount -t ext4 "/dev/$device" "$work/images"
  [ -e "$work/images/disk.img" ] || plumb image create "$work/images/disk.img" "$image_bytes"
  disk=(--disk "$work/images/disk.img,cache=$cache_mode")
fi
exec plumb run --name guest --memory 256M --console virtio --kernel "$(guest_elf)" --initrd "$initrd" \
  --cmdline "$quiet_cmdline" "${disk[@]}"
