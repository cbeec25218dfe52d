# shellcheck shell=bash
# Runs in the lab: starts the guest that power-cut put into /lab/guest, on the LUN whose cache is volatile. What the
# guest prints leaves the lab as it comes. power-cut gives $wwn, $cache_mode and $planted.
modprobe virtio_scsi
there() { device=$(grep -lsx "$wwn" /sys/block/sd*/device/wwid | cut -d/ -f4) && test -b "/dev/$device"; }
wait_for 20 there || fail "no LUN $wwn"
same "cache and FUA of the LUN" "$(xargs <<<"$(cat "/sys/block/$device"/queue/{write_cache,fua})")" "write back 1"

if [ -n "$planted" ]; then
  export PLUMB_PLANTED_BUG=$planted
  mount --bind "$build/bin/plumb-vm-planted" "$build/bin/plumb-vm"
fi
cp -r /lab/guest "$work/guest.fs"
initrd=$(busybox_guest_initrd guest <"$work/guest.fs/commit.sh")
exec plumb run --name guest --memory 256M --console virtio --kernel "$(guest_elf)" --initrd "$initrd" \
  --cmdline "$quiet_cmdline" --lun "$wwn,cache=$cache_mode"
