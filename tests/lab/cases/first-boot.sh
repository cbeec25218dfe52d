# shellcheck shell=bash
# limit: 240
# The main path: a guest with a stock Debian kernel, its root disk in an image and its data disk a LUN picked by its WWN,
# writes data; when it is gone, the host reads the same from the LUN.
mebibytes=32

read -r device wwn < <(lio_lun data 64M)
truncate -s 64M "$work/root.img"
initrd=$(busybox_guest_initrd db1 <<END
for disk in /sys/block/vd*; do
  [ "\$(cat \$disk/serial)" = data ] && data=/dev/\${disk##*/}
done
echo "GUEST_KERNEL \$(uname -r)"
echo "GUEST_DEVICE \$data \$(cat /sys/block/\${data#/dev/}/queue/write_cache)"
dd if=/dev/urandom of=/data bs=1M count=$mebibytes 2>/dev/null
# no sync, no flush: what a write-through disk has acknowledged is on the medium
dd if=/data of=\$data bs=1M oflag=direct 2>/dev/null && echo "GUEST_WROTE $mebibytes MiB"
echo "GUEST_SHA256 \$(dd if=\$data bs=1M count=$mebibytes iflag=direct 2>/dev/null | sha256sum | cut -d' ' -f1)"
END
)
started=$EPOCHREALTIME
start_guest db1 --memory 256M --kernel "$(guest_kernel)" --initrd "$initrd" --cmdline "$quiet_cmdline" \
  --disk "$work/root.img,id=root" --lun "$wwn,id=data"
guest_ends db1 0 180
ended=$EPOCHREALTIME

from_guest() { sed -n "s/^$1 \([^\r]*\).*/\1/p" "$logs/db1.console"; }
check "the guest wrote all of it" [ "$(from_guest GUEST_WROTE)" = "$mebibytes MiB" ]
same "the guest's data disk" "$(from_guest GUEST_DEVICE | cut -d' ' -f2-)" "write through"
sum=$(dd if="$device" bs=1M count=$mebibytes iflag=direct status=none | sha256sum | cut -d' ' -f1)
same "checksum of the LUN on the host, the guest gone" "$sum" "$(from_guest GUEST_SHA256)"
cat <<END
summary: guest kernel     $(from_guest GUEST_KERNEL)
summary: LUN              $wwn $device, in the guest $(from_guest GUEST_DEVICE)
summary: guest wrote      $(from_guest GUEST_WROTE)
summary: sha256, guest    $(from_guest GUEST_SHA256)
summary: sha256, host     $sum
summary: guest ran        $(awk "BEGIN {printf \"%.1f\", $ended - $started}") s
END
