# shellcheck shell=bash
# limit: 3000
# by hand: it takes a quarter of an hour; disk-trouble takes each turn of it once
# A guest writes and verifies all the time, on a LUN with two paths and on one with a single path, while paths fail and come
# back: flaps times one of the two, losses times both. Then another LUN takes the place of the single one. The guest sees no
# error at any time.
flaps=200 losses=20

failed_paths() { dmsetup status lab-paths | grep -qE "(A|F) 0 2.*$1 F "; }

down() { lio_state "$1" offline; }
up() {
  lio_state "$1" running
  dmsetup message lab-paths 0 reinstate_path "$(device_number "$1")"
}

flap_one_path() {
  local i path
  for ((i = 0; i < $1; i++)); do
    path=$first
    [ $((i % 2)) = 0 ] || path=$second
    down "$path"
    wait_for 60 failed_paths "$(device_number "$path")" || fail "the map does not miss $path: $(dmsetup status lab-paths)"
    up "$path"
  done
  same "after $1 failures of one path the VM is" "$(vm_status state)" running
}

lose_both_paths() {
  local i
  for ((i = 0; i < $1; i++)); do
    down "$first"
    down "$second"
    wait_for 60 vm_paused || fail "loss $i: the VM is not paused"
    wait_for 10 vm_says "^disk double \($wwn\): none of its 2 paths is up" || fail "loss $i: it says: $(vm_status pause_reason)"
    up "$second"
    [ $((i % 2)) = 0 ] || up "$first"
    wait_for 60 vm_runs || fail "loss $i: the VM does not go on: $(vm_status pause_reason)"
    [ $((i % 2)) != 0 ] || up "$first"
  done
  echo "ok: $1 times without a path, paused and back"
}

read -r first wwn < <(lio_lun double 64M)
second=$(lio_path double second)
multipath_map lab-paths "$wwn" "$first" "$second" >/dev/null
trap 'dmsetup remove --noudevsync --force lab-paths' EXIT
read -r device single < <(lio_lun single 64M)
port=$(lio_port single)
read -r _ other < <(lio_lun other 64M)
printf 'precious' | dd of="$work/other.lun" conv=notrunc status=none
before=$(sha256sum <"$work/other.lun")
start_verifier paths --lun "$wwn,id=double" --lun "$single,id=single"
another_round paths double single
flap_one_path $flaps
another_round paths double single
lose_both_paths $losses
another_round paths double single

lio_take "$port"
check "the VM pauses without the single LUN" wait_for 60 vm_paused
check "it says so" wait_for 10 vm_says "^disk single \($single\): LUN $single is not on this host"
device=$(lio_put "$port" other)
check "another LUN at its place is named" wait_for 10 vm_says "^disk single \($single\): $other is at its place now, as $device"
check "and the VM is still paused" vm_paused
check "plumb resume" plumb resume paths
check "changes nothing" wait_for 10 vm_says "$other is at its place now"
lio_take "$port"
same "nothing was written to the other LUN" "$(sha256sum <"$work/other.lun")" "$before"
device=$(lio_put "$port" single)
check "it goes on when its LUN is back" wait_for 60 vm_runs
another_round paths double single
check "events" grep -E "disk single .* is there again, as $device" "$logs/paths.errors"

verifier_ends paths double single
