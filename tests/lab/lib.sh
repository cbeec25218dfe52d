# shellcheck shell=bash
# Sourced before each case. A case runs as root in the lab machine under "set -euo pipefail" with
#   $work   its folder on the scratch disk (XFS: O_DIRECT and reflinks work), emptied afterwards
#   $logs   its folder for logs, kept when it fails
#   $cache  the prepared assets, read-only
# plumb's executables are in PATH.
target=/sys/kernel/config/target
backstores=$target/core/fileio_0
block_backstores=$target/core/iblock_0

# ---- verdicts ------------------------------------------------------------------------------------------------------

# fail TEXT: ends the case as failed.
fail() { echo "FAILED: $*"; exit 1; }

# skip TEXT: ends the case as skipped, for a reason.
skip() { echo "$*"; exit 77; }

# check TEXT COMMAND...: fails with TEXT unless COMMAND succeeds.
check() {
  local what=$1
  shift
  "$@" || fail "$what ($*)"
  echo "ok: $what"
}

# same TEXT SEEN WANTED: fails unless the two are equal.
same() { [ "$2" = "$3" ] || fail "$1: seen '$2', wanted '$3'"; echo "ok: $1: $2"; }

# check_refused TEXT STATUS PATTERN COMMAND...: COMMAND must end with STATUS and say a line like the extended PATTERN.
check_refused() {
  local text=$1 want=$2 pattern=$3 status=0
  shift 3
  "$@" </dev/null >"$logs/refused" 2>&1 || status=$?
  cat "$logs/refused"
  same "$text: exit status" "$status" "$want"
  check "$text: the reason" grep -qE -- "$pattern" "$logs/refused"
}

# ---- waiting -------------------------------------------------------------------------------------------------------

# wait_for SECONDS COMMAND...: succeeds when COMMAND does, fails at the deadline.
wait_for() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt "$deadline" ] || return 1
    read -rt 0.05 <> <(:) || true # a pause without a fork, which is dear here
  done
}

# expect_line FILE PATTERN SECONDS: waits for a line that matches the extended PATTERN, prints it.
expect_line() {
  wait_for "$3" grep -qsaE -- "$2" "$1" || fail "no line '$2' in $(basename "$1") within $3 s; its end: $(tail -n 5 "$1" 2>&1)"
  grep -aE -m 1 -- "$2" "$1" | tr -d '\r'
}

# ---- the only VM of a case ------------------------------------------------------------------------------------------

# vm_status KEY: a text of what `plumb ps` tells of it; nothing when it has none.
vm_status() {
  local vms
  vms=$(plumb ps --json)
  [[ ! $vms =~ .*\"$1\":\"([^\"]*)\" ]] || echo "${BASH_REMATCH[1]}"
}
vm_paused() { [ "$(vm_status state)" = paused ]; }
vm_runs() { [ "$(vm_status state)" = running ]; }

# vm_says PATTERN: why it is paused, if that matches the extended PATTERN.
vm_says() { vm_status pause_reason | grep -E "$1"; }

# ---- LUNs ----------------------------------------------------------------------------------------------------------

# lio_lun NAME SIZE [ID]: makes a LUN through LIO, prints "DEVICE WWN". ID is a naa.6001405… or a serial whose hex digits
# go into one; without it the LUN gets an ID of its own.
lio_lun() {
  local name=$1 size=$2
  truncate -s "$size" "$work/$name.lun"
  _lio_lun "$name" "$backstores/$name" "fd_dev_name=$work/$name.lun,fd_dev_size=$(stat -c %s "$work/$name.lun")" "${@:3}"
}

# lio_block_lun NAME DEVICE [ID]: the same over a block device, with no cache in between.
lio_block_lun() {
  modprobe target_core_iblock
  _lio_lun "$1" "$block_backstores/$1" "udev_path=$2" "${@:3}"
}

# _lio_lun NAME CORE CONTROL [ID]
_lio_lun() {
  local name=$1 core=$2 id=${4:-$(printf %s "$1" | sha256sum | cut -c1-25)} tpg address
  tpg=$(lio_port "$name")
  mkdir -p "$core"
  echo "$3" >"$core/control"
  echo 1 >"$core/enable"
  # The kernel builds the WWN from these hex digits after the company's 001405.
  echo "${id#naa.6001405}" >"$core/wwn/vpd_unit_serial"
  # A block device has it as it is.
  [ "$core" != "$backstores/$name" ] || echo 1 >"$core/attrib/emulate_tpu"
  mkdir -p "$tpg/lun/lun_0"
  echo "naa.5001405000000001" >"$tpg/nexus"
  ln -s "$core" "$tpg/lun/lun_0/port"
  address=$(<"$tpg/address")
  _scsi_disk "$address:0"
}

# lio_path NAME PATH: another way to the LUN, by a target port of its own, as a second path or a second host has it.
# Prints its DEVICE.
lio_path() {
  local tpg address
  tpg=$target/loopback/naa.5001405$(printf %s "$1.$2" | sha256sum | cut -c1-9)/tpgt_1
  mkdir -p "$tpg/lun/lun_0"
  echo "naa.5001405000000001" >"$tpg/nexus"
  ln -s "$backstores/$1" "$tpg/lun/lun_0/port"
  address=$(<"$tpg/address")
  _scsi_disk "$address:0" | cut -d' ' -f1
}

# lio_lun_remove NAME: takes the LUN and all its paths away from under whoever has it.
lio_lun_remove() {
  local lun tpg core=$backstores/$1
  [ -d "$core" ] || core=$block_backstores/$1
  for lun in "$target"/loopback/*/tpgt_1/lun/lun_0; do
    [ "$lun/port" -ef "$core" ] || continue
    tpg=${lun%/lun/lun_0}
    rm "$lun/port"
    rmdir "$lun" "$tpg" "${tpg%/*}"
  done
  rmdir "$core"
  rm -f "$work/$1.lun"
}

# lio_port NAME: the folder of the LUN's first target port.
lio_port() { echo "$target/loopback/naa.5001405$(printf %s "$1" | sha256sum | cut -c1-9)/tpgt_1"; }

# lio_take PORT: nothing is at that port any more.
lio_take() { rm "$1/lun/lun_0/port"; }

# lio_put PORT NAME: the LUN NAME is there, whoever was there before. Prints its DEVICE.
lio_put() {
  local address
  ln -s "$backstores/$2" "$1/lun/lun_0/port"
  address=$(<"$1/address")
  _scsi_disk "$address:0" | cut -d' ' -f1
}

# lio_state DEVICE STATE: offline or running, as the loss of a path and its return look like.
lio_state() { echo "$2" >"/sys/block/${1#/dev/}/device/state"; }

# multipath_map NAME WWN DEVICE...: joins paths as multipathd does, and nobody watches them. Prints the map's DEVICE.
multipath_map() {
  local name=$1 wwn=$2 paths="" path
  shift 2
  for path in "$@"; do paths+=" $(device_number "$path") 1"; done
  dmsetup create --noudevsync "$name" --uuid "mpath-3${wwn#naa.}" --table \
    "0 $(blockdev --getsz "$1") multipath 0 0 1 1 round-robin 0 $# 1$paths"
  path=/dev/dm-$(dmsetup info -c --noheadings -o minor "$name")
  wait_for 10 test -b "$path" || fail "no $path"
  echo "$path"
}
device_number() { tr -d '\n' <"/sys/block/${1#/dev/}/dev"; }

# scsi_debug_lun SIZE_MIB [PARAMETER...]: makes a LUN of scsi_debug, prints "DEVICE WWN". One at a time.
scsi_debug_lun() {
  local size=$1 host
  shift
  modprobe scsi_debug dev_size_mb="$size" "$@"
  host=$(echo /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*)
  _scsi_disk "${host##*/host}:0:0:0"
}

_scsi_disk() {
  local device=/sys/class/scsi_device/$1/device
  wait_for 10 test -d "$device/block" || fail "SCSI disk $1 did not appear"
  # The name is there before its partition scan has ended and the node can be opened.
  set -- "$device"/block/*
  wait_for 10 test -b "/dev/${1##*/}" || fail "/dev/${1##*/} did not appear"
  echo "/dev/${1##*/} $(<"$device/wwid")"
}

# ---- guests --------------------------------------------------------------------------------------------------------

# guest_kernel [6.1|6.12]: prints the stock bzImage.
guest_kernel() { echo "$cache/kernel-${1:-6.1}/vmlinuz"; }

# guest_elf [6.1|6.12]: prints the same kernel as ELF: starts by its PVH note, seconds sooner.
guest_elf() { echo "$cache/kernel-${1:-6.1}/vmlinux"; }

# busybox_guest_initrd NAME [6.1|6.12] [fio] <SCRIPT: prints an initrd that loads drivers, runs SCRIPT, powers off.
# What the case has put into $work/NAME.fs is in its root.
busybox_guest_initrd() {
  local name=$1 series=${2:-6.1} fio=${3:-} initrd=$work/$1.initrd
  mkdir -p "$work/$name.fs"
  cat >"$work/$name.fs/run.sh"
  {
    cat "$cache/boot-$series/guest.cpio"
    [ -z "$fio" ] || cat "$cache/fio/fio.cpio"
    (cd "$work/$name.fs" && find . -mindepth 1 | cpio --quiet -o -H newc)
  } >"$initrd"
  echo "$initrd"
}

# scsi_guest_initrd NAME <SCRIPT: the same with the SCSI drivers of the stock kernel 6.1, and hvc0 for what SCRIPT prints.
scsi_guest_initrd() {
  local more=$work/$1.fs/more module path
  mkdir -p "$more"
  for module in virtio_scsi sd_mod sg; do
    modprobe -d "$cache/kernel-6.1" -S "$(ls "$cache/kernel-6.1/lib/modules")" --show-depends "$module"
  done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' | while read -r path; do
    cp "$path" "$more/"
    basename "$path" >>"$more/order"
  done
  {
    # shellcheck disable=SC2016
    echo 'exec >/dev/hvc0 2>&1; while read -r module; do insmod "/more/$module"; done </more/order'
    cat
  } | busybox_guest_initrd "$1"
}

# guest_programs NAME PROGRAM...: puts programs of the lab, with their libraries, into the initrd NAME of a guest.
guest_programs() {
  local root=$work/$1.fs program library
  shift
  mkdir -p "$root/bin"
  for program in "$@"; do
    cp "$(command -v "$program")" "$root/bin/"
    ldd "$root/bin/$program" | grep -o '/[^ ]*' | while read -r library; do
      mkdir -p "$root$(dirname "$library")"
      cp -L "$library" "$root$library"
    done
  done
}

# debian_root DEST: puts a fresh copy of the Debian root image at DEST (raw, ext4, root password "plumb").
debian_root() { cp --reflink=always /scratch/debian.img "$1"; }

# start_guest NAME OPTION...: plumb run NAME in the foreground, as a background job; console in $logs/NAME.console.
start_guest() {
  local name=$1
  shift
  plumb run --name "$name" "$@" </dev/null >"$logs/$name.console" 2>"$logs/$name.errors" &
  guest_pid=$!
}

# guest_ends NAME STATUS SECONDS: waits for the guest to end and wants plumb's exit status to be STATUS.
guest_ends() {
  local status=0
  wait_for "$3" _gone "$guest_pid" || fail "guest $1 still runs after $3 s; its console ends: $(tail -n 3 "$logs/$1.console")"
  wait "$guest_pid" || status=$?
  [ "$status" = "$2" ] || cat "$logs/$1.errors"
  same "plumb's exit status for guest $1" "$status" "$2"
}

# start_verifier NAME OPTION...: starts a guest that writes and verifies, round after round, on each disk of the options, and
# prints ROUND and the disk's id after each.
start_verifier() {
  local name=$1 initrd
  shift
  plumb image create "$work/stop.img" 1M
  initrd=$(busybox_guest_initrd "$name" 6.1 fio <<'END'
exec >/dev/hvc0 2>&1
mkdir -p /dev/shm /etc
mount -t tmpfs shm /dev/shm
stopped() { [ "$(cat $stop/size)" != 2048 ]; }
verify() {
  round=0
  until stopped; do
    fio --name=$1 --filename=/dev/$2 --rw=randwrite --bsrange=4k-64k --size=2M --direct=1 --ioengine=libaio --iodepth=8 \
      --verify=crc32c --verify_fatal=1 --eta=never --output=/$1.out || { echo "FIO $1 failed"; cat /$1.out; return; }
    round=$((round + 1))
    echo "ROUND $1 $round"
  done
  echo "ENDED $1"
}
for disk in /sys/block/vd*; do [ "$(cat $disk/serial)" != stop ] || stop=$disk; done
for disk in /sys/block/vd*; do [ $disk = $stop ] || verify "$(cat $disk/serial)" ${disk##*/} & done
wait
echo "ERRORS $(dmesg | grep -c 'I/O error')"
END
)
  start_guest "$name" --memory 768M --kernel "$(guest_elf 6.1)" --initrd "$initrd" --cmdline "$quiet_cmdline" --console virtio \
    --disk "$work/stop.img,id=stop" "$@"
}

# another_round NAME ID...: waits until a round that has begun since now has ended on each of the disks.
another_round() {
  local name=$1 id before
  shift
  for id in "$@"; do
    before=$(_rounds "$name" "$id")
    check "the guest goes on with $id" wait_for 200 _more_rounds "$name" "$id" $((before + 1))
  done
}
_rounds() { grep -ca "^ROUND $2 " "$logs/$1.console" || true; }
_more_rounds() { [ "$(_rounds "$1" "$2")" -gt "$3" ]; }

# verifier_ends NAME ID...: stops the guest, which must have seen no error and found all that it wrote.
verifier_ends() {
  local name=$1 id
  shift
  check "the guest is told to stop" plumb disk resize "$name" stop 2M
  guest_ends "$name" 0 200
  for id in "$@"; do check "all of $id verified" grep -a "^ENDED $id" "$logs/$name.console"; done
  check "the guest saw no error" grep -a "^ERRORS 0" "$logs/$name.console"
}

_gone() { ! kill -0 "$1" 2>/dev/null; }

# quiet_cmdline: what makes a kernel boot sooner under nested emulation and changes nothing that cases look at.
# shellcheck disable=SC2034
quiet_cmdline="console=ttyS0 quiet pci=lastbus=0 panic=-1 mitigations=off init_on_alloc=0"

# tap_up NAME ADDRESS/PREFIX: makes a tap interface with the host's ADDRESS on it.
tap_up() {
  ip tuntap add dev "$1" mode tap
  ip address add "$2" dev "$1"
  ip link set "$1" up
}

# ---- after a case (called by the lab) --------------------------------------------------------------------------------

lab_clean() {
  local log mount lun tap
  for log in /run/plumb/*/log; do
    [ ! -f "$log" ] || cp "$log" "$logs/$(basename "$(dirname "$log")").log"
  done
  rm -rf /run/plumb
  swapoff -a
  awk -v under="$work/" 'index($2, under) == 1 {print $2}' /proc/mounts | tac | while read -r mount; do umount -l "$mount"; done
  for lun in "$backstores"/*/ "$block_backstores"/*/; do
    [ ! -d "${lun}wwn" ] || lio_lun_remove "$(basename "$lun")"
  done
  [ ! -d /sys/module/scsi_debug ] || modprobe -r scsi_debug
  for tap in /sys/class/net/*/tun_flags; do
    [ ! -e "$tap" ] || ip link delete "$(basename "$(dirname "$tap")")"
  done
  rm -rf "$work"
}
