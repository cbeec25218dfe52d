# shellcheck shell=bash
# limit: 240
# Who a guest is told to be: stock kernels show the definition's UUID, their driver for generation IDs finds the device, and the
# bytes where its ACPI object points are the definition's. Over a reboot and in a later life all of it stays; given anew, it changes.

# identity_guest NAME: prints the initrd of a guest that prints what it sees and, with a disk that is empty, boots twice.
identity_guest() {
  busybox_guest_initrd "$@" <<'END'
hex() { hexdump -v -e '1/1 "%02x"'; }
echo "SEEN uuid $(cat /sys/class/dmi/id/product_uuid)"
echo "SEEN machine $(cat /sys/class/dmi/id/sys_vendor), $(cat /sys/class/dmi/id/product_name), $(cat /sys/class/dmi/id/chassis_type)"
# An ACPI driver up to 6.9, then one of the platform bus.
for device in /sys/bus/acpi/drivers/vmgenid/PLMB* /sys/bus/platform/drivers/vmgenid/PLMB*; do
  [ ! -e "$device" ] || echo "SEEN driver of ${device##*/}"
done
# AML: Name (ADDR, Package (2) { DWord, Zero })
address=$(hex </sys/firmware/acpi/tables/DSDT | sed -n 's/.*084144445212..020c\(..\)\(..\)\(..\)\(..\)00.*/0x\4\3\2\1/p')
echo "SEEN generation $(dd if=/dev/mem bs=8 skip=$((address / 8)) count=2 2>/dev/null | hex) at $address"
if [ -b /dev/vda ] && [ "$(head -c 5 /dev/vda)" != first ]; then
  printf first | dd of=/dev/vda conv=sync bs=512
  reboot -f
fi
END
}

# seen NAME WHAT [BOOT]: what the guest printed of it, in its first boot or the one that is given.
seen() { sed -n "s/^SEEN $2 \([^\r]*\).*/\1/p" "$logs/$1.console" | sed -n "${3:-1}p"; }

# guid UUID: its bytes as a GUID, in hex.
guid() {
  local d=${1//-/}
  echo "${d:6:2}${d:4:2}${d:2:2}${d:0:2}${d:10:2}${d:8:2}${d:14:2}${d:12:2}${d:16}"
}

# identity_is NAME UUID GENERATION [BOOT]
identity_is() {
  same "$1: product_uuid" "$(seen "$1" uuid "${4:-1}")" "$2"
  same "$1: generation ID" "$(seen "$1" generation "${4:-1}")" "$(guid "$3") at 0x000ef000"
}

# What docs/vm-definition.md says of the name vm.
uuid=24407d65-5963-522f-8937-83f996ae2ba1
generation=d2321fc0-a747-57e7-b4e8-aab7225cecda

truncate -s 1M "$work/marker.img"
start_guest vm --memory 256M --kernel "$(guest_elf 6.1)" --initrd "$(identity_guest first 6.1)" --cmdline "$quiet_cmdline" \
  --disk "$work/marker.img"
guest_ends vm 0 120
identity_is vm $uuid $generation
identity_is vm $uuid $generation 2
check "Linux 6.1 has a driver for the device" [ -n "$(seen vm "driver of")" ]
same "the machine" "$(seen vm machine)" "plumb, plumb VM, 1"
mv "$logs/vm.console" "$logs/first-life.console"

start_guest vm --memory 256M --kernel "$(guest_kernel 6.12)" --initrd "$(identity_guest later 6.12)" --cmdline "$quiet_cmdline"
guest_ends vm 0 120
identity_is vm $uuid $generation
check "Linux 6.12 has a driver for the device" [ -n "$(seen vm "driver of")" ]
mv "$logs/vm.console" "$logs/second-life.console"

other=0f8fad5b-d9cb-469f-a165-70867728950e
anew=7c9e6679-7425-40de-944b-e07fc1f90ae7
cat >"$work/copy.toml" <<END
name = "vm"
uuid = "$other"
generation-id = "$anew"
memory = "256M"
kernel = "$(guest_elf 6.1)"
initrd = "$(identity_guest copy 6.1)"
cmdline = "$quiet_cmdline"
END
start_guest vm "$work/copy.toml"
guest_ends vm 0 120
identity_is vm $other $anew
