# shellcheck shell=bash
# The lab itself, without plumb: LUNs have the WWNs asked for, and a stock kernel runs a guest on the lab's KVM under QEMU.
read -r device wwn < <(lio_lun data 64M)
same "a LUN of LIO has its size" "$(blockdev --getsize64 "$device")" $((64 << 20))
check "it has a WWN of its own: $wwn" [ "${wwn#naa.6001405}" != "$wwn" ]
read -r _ wwn < <(lio_lun named 32M naa.6001405aaaabbbbccccddddeeeeffff0)
same "another has the WWN asked for" "$wwn" naa.6001405aaaabbbbccccddddeeeeffff0
read -r _ wwn < <(scsi_debug_lun 16)
check "a LUN of scsi_debug has a WWN: $wwn" [ "${wwn#naa.3333333}" != "$wwn" ]

initrd=$(busybox_guest_initrd guest <<'END'
echo "disk $(cat /sys/block/vda/serial) $(cat /sys/block/vda/size) $(cat /sys/block/vda/queue/write_cache)"
dd if=/dev/urandom of=/dev/vda bs=1M count=8
dd if=/dev/vda bs=1M count=8 | sha256sum
END
)
timeout 90 qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -M q35 -accel kvm -cpu host -m 512 \
  -kernel "$(guest_elf)" -initrd "$initrd" -append "console=ttyS0 quiet panic=-1 mitigations=off" \
  -drive "if=none,id=lun,format=raw,file=$device,cache=directsync" -device virtio-blk-pci,drive=lun,serial=lun0 \
  -serial stdio </dev/null >"$logs/guest" 2>&1 || fail "QEMU: $(tail -n 1 "$logs/guest")"
expect_line "$logs/guest" "^disk lun0 131072 write through" 0
sum=$(dd if="$device" bs=1M count=8 iflag=direct status=none | sha256sum)
check "the host reads what the guest wrote: $sum" grep -q "$sum" "$logs/guest"
