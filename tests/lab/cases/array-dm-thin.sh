# shellcheck shell=bash
# limit: 300
# The provider dm-thin over the kernel's own thin pool: the suite of arrays, with a volume that is known by the WWN of the LUN
# it is exported as; that the volumes go on when the process that holds them is killed; then a pool that is full.
modprobe dm_thin_pool
export DM_DISABLE_UDEV=1 # there is none, and dmsetup would leave it the nodes
clean() {
  lio_lun_remove exported || true
  dmsetup remove filler vol1 vol2 vol3 pool0 || true
  losetup -d "$data" "$metadata" || true
}
trap clean EXIT
fails() { ! "$@"; }

truncate -s 8M "$work/metadata"
truncate -s 256M "$work/data"
metadata=$(losetup --find --show --direct-io=on "$work/metadata")
data=$(losetup --find --show --direct-io=on "$work/data")
dmsetup create pool0 --table "0 524288 thin-pool $metadata $data 128 0 2 skip_block_zeroing error_if_no_space"
for id in 1 2 3; do
  dmsetup message pool0 0 "create_thin $id"
  dmsetup create vol$id --table "0 8192 thin /dev/mapper/pool0 $id"
done
read -r device wwn < <(lio_block_lun exported /dev/mapper/vol1)

cat >"$work/plumb.toml" <<END
[[array]]
name = "thin"
provider = "dm-thin"
pool = "/dev/mapper/pool0"
state = "$work/state/thin.json"
luns = { "$wwn" = "vol1" }
END
check "the suite of arrays" env -u DM_DISABLE_UDEV array-conformance --sees-use "$work/plumb.toml" thin "$wwn=$device" /dev/mapper/vol2 /dev/mapper/vol3
same "thin devices left" "$(dmsetup ls --target thin | sort | cut -f1 | xargs)" "vol1 vol2 vol3"

status=0
env -u DM_DISABLE_UDEV array-conformance --die "$work/plumb.toml" thin "$wwn=$device" /dev/mapper/vol2 /dev/mapper/vol3 || status=$?
same "the process ended" "$status" 137
all_go_on() { [ "$(dmsetup info -c --noheadings -o suspended vol1 vol2 vol3 | sort -u)" = Active ]; }
check "the volumes go on" wait_for 10 all_go_on
check "they can be written" dd if=/dev/zero of="$device" bs=4k count=1 oflag=direct status=none

dmsetup message pool0 0 "create_thin 9"
dmsetup create filler --table "0 1048576 thin /dev/mapper/pool0 9"
check "a volume larger than the pool fills it" fails dd if=/dev/zero of=/dev/mapper/filler bs=4M oflag=direct status=none
check "a full pool is not well" fails env -u DM_DISABLE_UDEV array-conformance --health "$work/plumb.toml" thin >"$logs/full"
check "and says why" grep -q "array thin (pool pool0): it is full (4096 blocks): enlarge" "$logs/full"
