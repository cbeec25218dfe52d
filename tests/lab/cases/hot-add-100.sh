# shellcheck shell=bash
# limit: 1800
# by hand: ten minutes
# 100 disks, images and LUNs, on both buses, more than there are slots, come to one running guest in turns, are used, and
# leave, while it writes and verifies on two disks that stay. None of its I/O there fails.
rounds=5
each=5 # disks of each kind in a round: 4 kinds
for name in busy-blk busy-scsi; do plumb image create "$work/$name.img" 16M; done
declare -a luns
for ((i = 0; i < 2 * each; i++)); do read -r _ "luns[i]" < <(lio_lun "lun$i" 16M); done
for ((i = 0; i < 2 * each; i++)); do truncate -s 16M "$work/image$i.img"; done

initrd=$(scsi_guest_initrd many <<'SCRIPT'
mkdir /used
serial() { # of the disk $1, on either bus
  if [ -e /sys/block/$1/serial ]; then cat /sys/block/$1/serial; else tail -c +5 /sys/block/$1/device/vpd_pg80 | tr -d ' '; fi 2>/dev/null
}
verify() { # for ever, on the disk $1
  turns=0
  while dd if=/dev/urandom of=/tmp-$1 bs=64k count=4 2>/dev/null && dd if=/tmp-$1 of=/dev/$1 bs=64k oflag=direct 2>/dev/null &&
    dd if=/dev/$1 bs=64k count=4 iflag=direct 2>/dev/null | cmp -s - /tmp-$1; do
    turns=$((turns + 1))
    echo $turns >/turns-$1
  done
  echo "FAILED on $1 after $turns turns"
}
while [ ! -b /dev/sda ]; do usleep 50000; done
verify vda & verify sda &
echo "READY"
while [ ! -e /used/stop ]; do
  for of in /sys/block/vd* /sys/block/sd*; do
    name=${of##*/}
    id=$(serial $name)
    case $id in '' | busy-*) continue ;; esac
    [ ! -e /used/$id ] || continue
    echo "this is $id" >/text
    dd if=/text of=/dev/$name bs=4096 conv=sync oflag=direct 2>/dev/null || echo "FAILED to write $id"
    dd if=/dev/$name bs=4096 count=1 iflag=direct 2>/dev/null | grep -qa "this is $id" || echo "FAILED to read $id"
    touch /used/$id
    echo "USED $id"
  done
done
echo "TURNS $(cat /turns-vda) $(cat /turns-sda)"
SCRIPT
)
start_guest many --memory 256M --vcpus 2 --console virtio --kernel "$(guest_elf)" --initrd "$initrd" \
  --cmdline "$quiet_cmdline" --disk "$work/busy-blk.img,id=busy-blk" --disk "$work/busy-scsi.img,id=busy-scsi,bus=scsi"
expect_line "$logs/many.console" "^READY" 200

attach() { plumb disk attach many "$@" >>"$logs/attach" || fail "disk $1 cannot be attached"; }
number=0
for ((round = 0; round < rounds; round++)); do
  ids=()
  for ((i = 0; i < each; i++)); do
    attach "d$number" --image "$work/image$i.img"
    attach "d$((number + 1))" --image "$work/image$((each + i)).img" --bus scsi
    attach "d$((number + 2))" --lun "${luns[i]}"
    attach "d$((number + 3))" --lun "${luns[each + i]}" --bus scsi
    ids+=("d$number" "d$((number + 1))" "d$((number + 2))" "d$((number + 3))")
    number=$((number + 4))
  done
  for id in "${ids[@]}"; do expect_line "$logs/many.console" "^USED $id"$'\r?$' 200 >/dev/null; done
  pids=()
  for id in "${ids[@]}"; do
    plumb disk detach many "$id" --timeout 120 >>"$logs/detach" 2>&1 &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || fail "a disk cannot be detached: $(tail -n 1 "$logs/detach")"; done
  same "disks after round $round" "$(plumb disk list many --json | grep -o '"id":' | wc -l)" 2
done
same "disks that came" $number 100
attach stop --image "$work/image0.img"
expect_line "$logs/many.console" "^TURNS [1-9][0-9]* [1-9]" 200
guest_ends many 0 100
check "nothing failed in the guest" bash -c '! grep -a FAILED "$0"' "$logs/many.console"
same "attached" "$(wc -l <"$logs/attach")" $((number + 1))
