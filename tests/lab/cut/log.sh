# shellcheck shell=bash
# Runs in the lab: a guest on the LUN whose cache is volatile verifies what the ledger says, then commits until the cut.
# power-cut gives $mode (write or verify) and $planted, and reads what this prints.
modprobe virtio_scsi
wwn=naa.5000c500c0ffee01
volatile_lun() { device=$(grep -lsx "$wwn" /sys/block/sd*/device/wwid | cut -d/ -f4) && test -b "/dev/$device"; }
wait_for 20 volatile_lun || fail "no LUN $wwn"
same "cache and FUA of the LUN" "$(cat "/sys/block/$device"/queue/{write_cache,fua} | xargs)" "write back 1"
if [ -n "$planted" ]; then
  export PLUMB_PLANTED_BUG=$planted
  mount --bind "$build/bin/plumb-vm-planted" "$build/bin/plumb-vm"
fi

mkdir -p "$work/guest.fs"
cp "$build/bin/cut-log" /lab/ledger "$work/guest.fs/"
initrd=$(busybox_guest_initrd guest <<END
exec >/dev/hvc0 2>&1
/cut-log $mode /dev/vda /ledger
END
)
exec plumb run --name guest --memory 256M --console virtio --kernel "$(guest_elf)" --initrd "$initrd" \
  --cmdline "$quiet_cmdline" --lun "$wwn,cache=$cache_mode"
