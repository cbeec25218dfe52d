# shellcheck shell=bash
# limit: 3600
# by hand: needs a cluster beside the lab, and the programs of Ceph, emulated, take their time
# The provider rbd over a Ceph cluster (tests/lab/ceph-node) and the kernel's own rbd: the suite of arrays, with an image that
# is known by the WWN of the LUN it is exported as; then a pool that is full.
[ -n "${PLUMB_LAB_CEPH:-}" ] || skip "there is no cluster: tests/lab/ceph-node tests/lab/run array-rbd"
# shellcheck source=/dev/null
. "$PLUMB_LAB_CEPH/env"
modprobe virtio_net
modprobe rbd
clean() {
  ceph osd pool set-quota rbd max_bytes 0 || true # an image of a full pool is not closed
  lio_lun_remove exported || true
  for device in /dev/rbd[0-9]*; do rbd device unmap -o noudev "$device" || true; done
}
trap clean EXIT
fails() { ! "$@"; }
ln -sf "$(command -v rbd)" "$(command -v ceph)" /usr/bin/
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2

for name in vol1 vol2 vol3; do
  rbd create --size 8M "$name"
  rbd device map -o noudev "$name"
done
read -r device wwn < <(lio_block_lun exported /dev/rbd0)

cat >"$work/plumb.toml" <<END
[[array]]
name = "ceph"
provider = "rbd"
pool = "rbd"
conf = "$PLUMB_LAB_CEPH/ceph.conf"
id = "admin"
keyring = "$PLUMB_LAB_CEPH/keyring"
take-timeout = 120
luns = { "$wwn" = "vol1" }
END
check "the suite of arrays" array-conformance --sees-use "$work/plumb.toml" ceph "$wwn=$device" /dev/rbd1 /dev/rbd2
same "images left" "$(rbd ls | xargs)" "vol1 vol2 vol3"
same "images in the trash" "$(rbd trash ls | wc -l)" 0
same "devices left" "$(echo /dev/rbd[0-9]*)" "/dev/rbd0 /dev/rbd1 /dev/rbd2"

dd if=/dev/zero of=/dev/rbd1 bs=1M count=8 oflag=direct status=none
ceph osd pool set-quota rbd max_bytes 1
full() { ceph health detail | grep -q "pool 'rbd' is full"; }
check "the pool is full" wait_for 300 full
check "a full pool is not well" fails array-conformance --health "$work/plumb.toml" ceph >"$logs/full"
check "and says why" grep -q "array ceph (Ceph pool rbd): it takes no writes: POOL_FULL: 1 pool(s) full" "$logs/full"
