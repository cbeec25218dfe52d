# shellcheck shell=bash
# limit: 300
# What a guest's writes become on a raw LUN in writethrough mode, seen in the kernel's block trace: with a volatile cache each
# is one FUA write and nothing else, with a write-through cache one plain write and nothing else.
trace=/sys/kernel/tracing
mountpoint -q $trace || mount -t tracefs tracefs $trace
writes=200

initrd=$(busybox_guest_initrd trace 6.1 fio <<END
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
fio --name=writes --filename=/dev/vda --rw=randwrite --bs=4k --direct=1 --ioengine=libaio --iodepth=8 --number_ios=$writes \
  --size=32M --eta=never --output=/fio.out && echo WROTE
END
)

# traced WANTED WHAT: runs the guest on $lun and compares what its device $device was asked to write.
traced() {
  local seen major_minor
  major_minor=$(<"/sys/block/${device#/dev/}/dev")
  echo 0 >$trace/tracing_on
  echo 4096 >$trace/buffer_size_kb
  echo >$trace/trace
  echo 1 >$trace/events/block/block_rq_issue/enable
  echo 1 >$trace/tracing_on
  start_guest trace --memory 256M --kernel "$(guest_elf)" --initrd "$initrd" --cmdline "$quiet_cmdline" --lun "$lun"
  guest_ends trace 0 120
  echo 0 >$trace/tracing_on
  check "the guest wrote" grep -q WROTE "$logs/trace.console"
  cp $trace/trace "$logs/trace.${1%=*}"
  # "… block_rq_issue: 8,0 WFS 4096 () 1234 + 8 [io-disk0]": what is not a read, by kind.
  seen=$(sed -n "s/.*block_rq_issue: ${major_minor/:/,} \([^ ]*\) .*/\1/p" $trace/trace | grep -v '^R' | sort | uniq -c | awk '{print $2 "=" $1}' | xargs)
  same "$2" "$seen" "$1"
}

read -r device lun < <(scsi_debug_lun 64)
queue=/sys/block/${device#/dev/}/queue
same "the LUN's cache and FUA" "$(cat "$queue/write_cache" "$queue/fua" | xargs)" "write back 1"
traced "WFS=$writes" "$writes writes to a volatile cache"
echo "write through" >"$queue/write_cache"
traced "WS=$writes" "$writes writes to a write-through cache"
