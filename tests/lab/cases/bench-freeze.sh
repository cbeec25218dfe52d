# shellcheck shell=bash
# limit: 3600
# by hand: figures, for scripts/bench.sh freeze
# What a snapshot costs a guest that is frozen, and another that is not, with the data disk an image on XFS, then an LUN over
# dm-thin; then what writes cost with more and more snapshots kept. A line FIGURE and JSON each.
. "$lab/agent-vm.sh"
rounds=40 pause_ms=20
limits=(--held-limit 120 --frozen-limit 120) # the machine is emulated
export PLUMB_STATE_DIR=$work/state PLUMB_CONFIG=$work/plumb.toml
modprobe dm_thin_pool
export DM_DISABLE_UDEV=1 # there is none
truncate -s 8M "$work/metadata.bin"
truncate -s 512M "$work/pool.bin"
metadata=$(losetup --find --show --direct-io=on "$work/metadata.bin")
pool=$(losetup --find --show --direct-io=on "$work/pool.bin")
dmsetup create pool0 --table "0 1048576 thin-pool $metadata $pool 128 0 2 skip_block_zeroing error_if_no_space"
dmsetup message pool0 0 "create_thin 1"
dmsetup create vol1 --table "0 131072 thin /dev/mapper/pool0 1"
read -r device wwn < <(lio_block_lun data /dev/mapper/vol1)
cat >"$PLUMB_CONFIG" <<END
[[array]]
name = "thin"
provider = "dm-thin"
pool = "/dev/mapper/pool0"
state = "$work/state/thin.json"
luns = { "$wwn" = "vol1" }
END

last() { write-pace last "$work/$1-trace.img"; }
_written_up_to() { [ "$(last "$1")" -ge "$2" ]; }
# writes_up_to NAME NUMBER: waits until the guest has made so many.
writes_up_to() { wait_for 300 _written_up_to "$1" "$2" || fail "the guest $1 does not write"; }
# took NAME FIRST LAST: microseconds of each of these writes, as a JSON array.
took() { write-pace since "$work/$1-trace.img" "$2" | awk -v last="$3" '$1 <= last {printf "%s%s", n++ ? "," : "[", $2} END {print n ? "]" : "[]"}'; }

# start_pace NAME FILE OPTION...: a guest with an agent that writes to FILE: a path, of which "data" is the disk's device.
start_pace() {
  local name=$1 file=$2
  shift 2
  rm -f "$work/$name-trace.img"
  plumb image create "$work/$name-trace.img" 4M
  mkdir -p "$work/$name.fs/bin"
  cp "$(command -v write-pace)" "$work/$name.fs/bin/" # static
  cat >"$work/$name.workload" <<END
file=$file pause_ms=$pause_ms
END
  cat >>"$work/$name.workload" <<'END'
for disk in /sys/block/vd*; do [ "$(cat "$disk/serial")" != trace ] || trace=/dev/${disk##*/}; done
for disk in /sys/block/vd*; do [ "$(cat "$disk/serial")" != "$file" ] || file=/dev/${disk##*/}; done
echo "COMMIT 0"
write-pace run "$file" "$trace" "$pause_ms"
END
  start_agent_vm "$name" "$@" --disk "$work/$name-trace.img,id=trace"
  writes_up_to "$name" 20
}

# window FILE COMMAND...: runs it, its output to FILE, and prints what the second guest's writes took meanwhile.
window() {
  local first out=$1
  shift
  first=$(($(last other) + 1))
  "$@" >"$out"
  writes_up_to other $((first + 20))
  took other "$first" "$(last other)"
}

# freezes ARRAY NAME: that many snapshots of the guest.
freezes() {
  local round first seen during usual
  for round in $(seq "$rounds"); do
    first=$(($(last "$2") + 1))
    during=$(window "$logs/created" plumb snapshot create "$2" --quiesce fs --require fs --json --note "$round" "${limits[@]}")
    writes_up_to "$2" $((first + 20))
    seen=$(took "$2" "$first" "$(last "$2")" | tr -d '[]' | tr , '\n' | sort -n | tail -n 1)
    usual=$(window /dev/null plumb snapshot create "$2" --quiesce fs --dry-run --json)
    echo "FIGURE {\"array\":\"$1\",\"seen_us\":$seen,\"other_us\":$during,\"other_usual_us\":$usual,\"snapshot\":$(tr -d '\n' <"$logs/created")}"
    plumb snapshot delete "$(grep -oE '"id":"'"$2"'-[^"]*' "$logs/created" | cut -d'"' -f4)"
  done
}

# kept ARRAY NAME: what the guest's writes take with so many snapshots kept, of each count after a new one.
kept() {
  local count=0 wanted first
  for wanted in 0 1 10 30; do
    while [ $count -lt $wanted ]; do
      plumb snapshot create "$2" --quiesce crash "${limits[@]}" >/dev/null
      count=$((count + 1))
    done
    first=$(($(last "$2") + 1))
    writes_up_to "$2" $((first + 400))
    echo "FIGURE {\"array\":\"$1\",\"kept\":$wanted,\"took_us\":$(took "$2" "$first" $((first + 399)))}"
  done
  plumb snapshot list --json | grep -oE '"id":"'"$2"'-[^"]*' | cut -d'"' -f4 | xargs plumb snapshot delete
}

plumb image create "$work/other.img" 8M
start_pace other data --disk "$work/other.img,id=data"
start_pace image /data/paced
freezes reflink image
kept reflink image
check "plumb kill" plumb kill image
mkfs.ext4 -q -L data "$device"
start_pace thin /data/paced --lun "$wwn,id=data"
freezes dm-thin thin
kept dm-thin thin
check "plumb kill" plumb kill thin
check "plumb kill" plumb kill other
lio_lun_remove data
dmsetup remove vol1 pool0
losetup -d "$metadata" "$pool"
