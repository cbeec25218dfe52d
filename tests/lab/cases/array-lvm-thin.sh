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
# A VM whose disk is one, a snapshot of it, and back: the array restores what the revert has claimed.
export PLUMB_STATE_DIR=$work/state PLUMB_CONFIG=$work/plumb.toml
echo earlier | dd of=/dev/vg0/vol1 conv=sync bs=4k oflag=direct status=none
start_guest on-lvm --kernel "$(guest_elf)" --initrd "$(busybox_guest_initrd on-lvm <<'SCRIPT'
exec >/dev/hvc0 2>&1
echo "DISK $(cat /sys/block/vda/size)"
while :; do sleep 60; done
SCRIPT
)" --cmdline "$quiet_cmdline" --console virtio --lun "dm.$uuid"
expect_line "$logs/on-lvm.console" "^DISK 8192" 120
plumb snapshot create on-lvm --quiesce crash --json >"$logs/created"
[[ $(<"$logs/created") =~ \"id\":\"(on-lvm-[^\"]*)\" ]] && id=${BASH_REMATCH[1]}
check_refused "a revert under a VM that runs" 11 "VM 'on-lvm' runs" plumb snapshot revert "$id"
check "plumb kill" plumb kill on-lvm
echo later | dd of=/dev/vg0/vol1 conv=sync bs=4k oflag=direct status=none
check "plumb snapshot revert" plumb snapshot revert "$id"
content() { dd if=/dev/vg0/vol1 bs=4k count=1 iflag=direct status=none | head -n 1; }
same "the volume has" "$(content)" earlier
kept=$(plumb snapshot list --json | grep -oE '"id":"on-lvm-[^"]*' | cut -d'"' -f4 | tail -n 1)
# LVM merges no snapshot from before its last merge: it is copied back.
check "the revert is reverted" plumb snapshot revert "$kept"
same "the volume has" "$(content)" later
plumb snapshot list --json | grep -oE '"id":"on-lvm-[^"]*' | cut -d'"' -f4 | xargs plumb snapshot delete

same "volumes left" "$(lvs --noheadings -o lv_name vg0 2>"$logs/lvs" | xargs)" "pool vol1 vol2 vol3"
