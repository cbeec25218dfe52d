# shellcheck shell=bash
# limit: 600
# An image and a LUN on the guest's SCSI bus: the guest's own driver finds them, with the LUN's WWN, and the SCSI
# conformance suite of libiscsi fails no test in the guest that the LUN beneath passes.
read -r device wwn < <(lio_lun data 64M)
truncate -s 64M "$work/image.img"
run_suite() { iscsi-test-cu -n -d -t SCSI "$1"; }

# TEST VERDICT lines, from the suite's report.
verdicts() { sed -nE 's/^ *Test: ([^ ]+) \.\.\.(.*)$/\1 \2/p' "$1"; }

mkdir -p "$work/scsi.fs/bin"
suite=$(command -v iscsi-test-cu)
cp "$suite" "$work/scsi.fs/bin/"
ldd "$suite" | grep -o '/[^ ]*' | while read -r library; do
  mkdir -p "$work/scsi.fs$(dirname "$library")"
  cp -L "$library" "$work/scsi.fs$library"
done
(
  mkdir -p "$work/scsi.fs/more"
  modprobe -S "$(ls "$cache/kernel-6.1/lib/modules")" --show-depends virtio_scsi
  for module in sd_mod sg; do modprobe --show-depends "$module"; done
) | awk '$1 == "insmod" && !seen[$2]++ {print $2}' | while read -r path; do
  cp "$path" "$work/scsi.fs/more/"
  basename "$path" >>"$work/scsi.fs/more/order"
done
initrd=$(busybox_guest_initrd scsi <<'SCRIPT'
exec >/dev/hvc0 2>&1
while read -r module; do insmod "/more/$module" 2>/dev/null; done </more/order
# The disks appear in the background.
while [ ! -b /dev/sda ] || [ ! -b /dev/sdb ]; do :; done
for disk in sda sdb; do
  echo "SCSI $disk $(cat /sys/block/$disk/device/wwid) $(cat /sys/block/$disk/device/vendor) $(cat /sys/block/$disk/size)"
done
for disk in sda sdb; do
  iscsi-test-cu -n -d -t SCSI /dev/$disk 2>&1 | sed "s/^/$disk: /"
done
SCRIPT
)
start_guest scsi --memory 512M --console virtio --kernel "$(guest_elf)" --initrd "$initrd" \
  --cmdline "$quiet_cmdline" --disk "$work/image.img,id=image,bus=scsi" --lun "$wwn,id=lun,bus=scsi"
guest_ends scsi 0 400
grep -a '^SCSI' "$logs/scsi.console"
check "the LUN shows its WWN" grep -qa "^SCSI sdb $wwn PLUMB" "$logs/scsi.console"
for disk in sda sdb; do
  sed -n "s/^$disk: //p" "$logs/scsi.console" | tr -d '\r' >"$logs/$disk.report"
done
run_suite "$device" >"$logs/host.report" 2>&1 || true
tail -n 12 "$logs/host.report" "$logs/sda.report" "$logs/sdb.report"
