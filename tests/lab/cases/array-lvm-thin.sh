# shellcheck shell=bash
# limit: 900
# by hand: emulated, the programs of LVM take minutes
# The provider lvm-thin over the real LVM: the suite of arrays.
modprobe dm_thin_pool
export DM_DISABLE_UDEV=1 # there is none, and LVM would leave it the nodes
clean() {
  vgremove -y -f vg0 >"$logs/vgremove" 2>&1 || true
  losetup -d "$disk" || true
}
trap clean EXIT

# Less than LVM does by itself: emulated, each of its programs takes a third of a second as it is.
export LVM_SYSTEM_DIR=$work/lvm
mkdir "$LVM_SYSTEM_DIR"
cat >"$LVM_SYSTEM_DIR/lvm.conf" <<END
devices { filter = [ "a|^/dev/loop|", "r|.*|" ] obtain_device_list_from_udev = 0 use_devicesfile = 0 }
activation { monitoring = 0 reserved_memory = 0 reserved_stack = 0 }
backup { backup = 0 archive = 0 }
END
truncate -s 256M "$work/disk"
disk=$(losetup --find --show --direct-io=on "$work/disk")
vgcreate -q vg0 "$disk"
lvcreate -q -y -L 200M -T vg0/pool
for name in vol1 vol2 vol3; do lvcreate -q -y -V 4M -T vg0/pool -n $name; done

cat >"$work/plumb.toml" <<END
[[array]]
name = "lvm"
provider = "lvm-thin"
pool = "vg0/pool"
END
check "the suite of arrays" array-conformance --sees-use "$work/plumb.toml" lvm /dev/vg0/vol1 /dev/vg0/vol2 /dev/vg0/vol3

read -r uuid < <(dmsetup info -c --noheadings -o uuid vg0-vol1)
check "a volume is a LUN to VMs" plumb lun show "dm.$uuid"
check "not so what LVM has inside" eval "! plumb lun list | grep -E 'tpool|tdata|tmeta'"
start_guest on-lvm --kernel "$(guest_elf)" --initrd "$(busybox_guest_initrd on-lvm <<'SCRIPT'
echo "DISK $(cat /sys/block/vda/size)"
SCRIPT
)" --cmdline "$quiet_cmdline" --lun "dm.$uuid"
expect_line "$logs/on-lvm.console" "^DISK 8192" 120
guest_ends on-lvm 0 60

same "volumes left" "$(lvs --noheadings -o lv_name vg0 2>"$logs/lvs" | xargs)" "pool vol1 vol2 vol3"
