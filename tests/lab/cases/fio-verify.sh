# shellcheck shell=bash
# limit: 600
# fio in the guest writes blocks of 512 B to 1 MiB and reads them back with their checksums, on an image and on a LUN,
# with each engine; then the same with discards among the writes.
read -r _ first < <(lio_lun first 64M)
read -r _ second < <(lio_lun second 64M)
truncate -s 64M "$work/third.img" "$work/fourth.img"

initrd=$(busybox_guest_initrd fio 6.1 fio <<'END'
mkdir -p /dev/shm /etc
mount -t tmpfs shm /dev/shm
# --eta=never: every character on the serial port costs the guest an exit
common="--ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 --eta=never --output=/fio.out
  --bssplit=512/15:4k/40:8k/10:64k/20:256k/10:1m/5"
for mode in randwrite randtrimwrite; do
  size=12M jobs=
  [ $mode = randwrite ] || size=4M
  for disk in /dev/vd[a-d]; do
    jobs="$jobs --name=$(cat /sys/block/${disk##*/}/serial) --filename=$disk --rw=$mode --size=$size"
  done
  if fio $common $jobs; then echo "FIO $mode passed"; else echo "FIO $mode failed"; cat /fio.out; fi
  for disk in /sys/block/vd*; do
    # reads and sectors read, writes and sectors written, discards and sectors discarded
    echo "FIO $mode $(cat $disk/serial) $(awk '{print $1, $3, $5, $7, $12, $14}' $disk/stat)"
  done
done
END
)
start_guest fio --memory 768M --vcpus 2 --kernel "$(guest_elf)" --initrd "$initrd" --cmdline "$quiet_cmdline" \
  --lun "$first,id=lun-uring,engine=io_uring" --lun "$second,id=lun-aio,engine=libaio" \
  --disk "$work/third.img,id=image-uring,engine=io_uring" --disk "$work/fourth.img,id=image-aio,engine=libaio"
guest_ends fio 0 500
grep '^FIO' "$logs/fio.console"
check "writes verified" grep -q "^FIO randwrite passed" "$logs/fio.console"
check "writes and discards verified" grep -q "^FIO randtrimwrite passed" "$logs/fio.console"
