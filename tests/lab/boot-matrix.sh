# shellcheck shell=bash
# The body of the boot-* cases, ". boot-matrix.sh SERIES <<<MACHINES": the stock kernel sees its disks as they are and powers off or
# reboots, with so many vCPUs and MiB. The two cases together have every value with every other.
series=$1

read -r _ wwn < <(lio_lun data 96M)
truncate -s 32M "$work/root.img"

# $cpus, $megabytes, $end
boot_once() {
  local name=$series-$cpus-$megabytes status=0 started=$EPOCHREALTIME initrd console=$logs/$series-$cpus-$megabytes.console
  [ "$end" = poweroff ] || status=4
  initrd=$(busybox_guest_initrd "$name" "$series" <<END
echo "seen kernel \$(uname -r | cut -d. -f1,2) cpus \$(nproc)"
awk '/MemTotal/ {print "seen memory " int(\$2 / 1024)}' /proc/meminfo
for disk in /sys/block/vd*; do
  echo "seen disk \$(cat \$disk/serial) \$(cat \$disk/size) \$(cat \$disk/queue/write_cache)"
done
$end -f
END
)
  start_guest "$name" --vcpus "$cpus" --memory "${megabytes}M" --kernel "$(guest_kernel "$series")" --initrd "$initrd" \
    --cmdline "$quiet_cmdline" --on-reboot exit --disk "$work/root.img,id=root,serial=ROOT-1" --lun "$wwn,id=data,serial=LUN-7"
  guest_ends "$name" "$status" 180
  echo "   $end of $name after $(awk "BEGIN {printf \"%.1f\", $EPOCHREALTIME - $started}") s"
  check "$name: kernel and vCPUs" grep -q "^seen kernel $series cpus $cpus" "$console"
  check "$name: the image with its serial, size and cache" grep -q "^seen disk ROOT-1 65536 write through" "$console"
  check "$name: the LUN with its serial, size and cache" grep -q "^seen disk LUN-7 196608 write through" "$console"
  # The kernel keeps a part for itself.
  seen=$(sed -n 's/^seen memory \([0-9]*\).*/\1/p' "$console")
  check "$name: $seen MiB of memory" [ $((seen * 10)) -gt $((megabytes * 6)) ]
}

while read -r cpus megabytes end; do boot_once; done
