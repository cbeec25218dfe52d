# shellcheck shell=bash
# limit: 240
# An image and a LUN on the guest's SCSI bus: the guest's own driver finds them, the LUN by its WWN, and what it writes is
# there, on the medium, and after a restart.
read -r device wwn < <(lio_lun data 64M)
plumb image create "$work/image.img" 64M
initrd=$(scsi_guest_initrd scsi <<'SCRIPT'
while [ ! -b /dev/sda ] || [ ! -b /dev/sdb ]; do :; done # they appear in the background
for disk in sda sdb; do
  of=/sys/block/$disk
  echo "SCSI $(cat $of/device/wwid) $(cat $of/size) $(cat $of/queue/write_cache) $(cat $of/queue/discard_max_bytes)"
  [ -n "$(head -c 1 /dev/$disk | tr -d "\0")" ] || yes "written by $disk" | dd of=/dev/$disk bs=64k count=64 iflag=fullblock 2>/dev/null
  sync
  echo "SUM $(cat $of/device/wwid) $(dd if=/dev/$disk bs=64k count=64 2>/dev/null | sha256sum)"
done
SCRIPT
)
for boot in first second; do
  start_guest $boot --memory 256M --console virtio --kernel "$(guest_elf)" --initrd "$initrd" --cmdline "$quiet_cmdline" \
    --disk "$work/image.img,id=image,bus=scsi" --lun "$wwn,id=lun,bus=scsi"
  guest_ends $boot 0 100
  grep -a '^SCSI' "$logs/$boot.console" | tr -d '\r'
  grep -a '^SUM' "$logs/$boot.console" | tr -d '\r' | sort >"$work/$boot.sums"
done
check "the LUN shows its WWN" grep -qaE "^SCSI $wwn 131072 write through [1-9]" "$logs/first.console"
check "the image is a disk, too" grep -qaE "^SCSI t10.PLUMB .* 131072 write through [1-9]" "$logs/first.console"
same "what a second boot finds" "$(cat "$work/second.sums")" "$(cat "$work/first.sums")"
for medium in "$device" "$work/image.img"; do
  check "it is on $medium" grep -q "$(head -c 4M "$medium" | sha256sum | cut -c1-64)" "$work/first.sums"
done
