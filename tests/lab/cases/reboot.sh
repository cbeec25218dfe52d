# shellcheck shell=bash
# limit: 180
# A guest reboots in the process that has given up its way to files: over the same disks, tap and huge pages, with the
# kernel it was started with, though that file is gone. A disk that was attached meanwhile is there again, and moves nothing.
read -r _ wwn < <(lio_lun data 64M)
truncate -s 32M "$work/root.img"
tap_up tap0 192.0.2.1/24
pages=$((256 / 2))
echo $pages >/proc/sys/vm/nr_hugepages
same "huge pages for the guest" "$(</proc/sys/vm/nr_hugepages)" $pages

initrd=$(busybox_guest_initrd vm <<'END'
ip address add 192.0.2.2/24 dev eth0
ip link set eth0 up
echo "BOOT of $(cat /dev/vdb | head -c 5): $(ping -c 1 -w 20 192.0.2.1 | grep -c 'bytes from')"
if [ "$(head -c 5 /dev/vdb)" != first ]; then
  printf first | dd of=/dev/vdb conv=sync bs=512
  while [ ! -b /dev/vdc ]; do usleep 100000; done
  reboot -f
fi
echo "LATER $(cat /sys/block/vdc/serial)"
END
)
cp "$(guest_elf)" "$work/kernel"
start_guest vm --memory 256M --vcpus 2 --huge-pages --kernel "$work/kernel" --initrd "$initrd" --cmdline "$quiet_cmdline" \
  --disk "$work/root.img,id=root" --lun "$wwn,id=data" --net tap=tap0
expect_line "$logs/vm.console" "^BOOT of .*: 1" 90
truncate -s 8M "$work/later.img"
check "a disk is attached" plumb disk attach vm later --image "$work/later.img"
rm "$work/kernel" "$initrd" "$work/later.img"
guest_ends vm 0 120
check "the second boot saw what the first wrote, and the network" grep -q "^BOOT of first: 1" "$logs/vm.console"
check "and the disk that was attached" grep -q "^LATER later" "$logs/vm.console"
same "boots" "$(grep -c '^BOOT' "$logs/vm.console")" 2
