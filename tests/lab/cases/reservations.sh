# shellcheck shell=bash
# limit: 240
# Persistent reservations through plumb-pr-broker, for a process that has no capability, on a real target: what the
# broker answers is compared with what a second nexus sees and may do. Then the same over dm-multipath.
modprobe -a dm_multipath dm_round_robin
read -r device wwn < <(lio_lun data 16M)
other=$(lio_path data second) # another host's view of the LUN
socket=$work/pr.sock
nobody=65534
chgrp $nobody "$device" && chmod 660 "$device"

plumb-pr-broker --socket "$socket" --group nogroup 2>"$logs/broker.log" &
expect_line "$logs/broker.log" "serves $socket" 30

# vm WORD...: pr-client as a user without capabilities; its answer, whether or not it is an error.
vm() {
  setpriv --reuid $nobody --regid $nobody --clear-groups --inh-caps=-all --bounding-set=-all \
    pr-client "$socket" "$disk" "$@" || true
}
disk=$device
register=0 reserve=1 release=2 clear=3 preempt=4 ignore=6 move=7
read_keys=0 capabilities=2 full_status=3

# keys: those that the target has, as another host reads them. Its unit attentions are taken first.
keys() {
  sg_turs "$other" >/dev/null 2>&1 || true
  sg_persist --in --read-keys "$other" | grep -oE '^ +0x[0-9a-f]+' | tr -d ' \n' || true
}
reserved() { sg_persist --in --read-reservation "$other" | grep -c "scope: .*type: $1" || true; }
writes() { dd if=/dev/zero of="$1" bs=4k count=1 oflag=direct status=none 2>"$logs/dd"; }
cannot_write() { ! writes "$1" && grep -q "Invalid exchange" "$logs/dd"; } # EBADE, of RESERVATION CONFLICT

same "what the kernel says to such a process" "$(vm direct)" "Operation not permitted"
# 1: PTPL_C alone, of what the broker and LIO can; 8000 there: the type mask is valid
check "REPORT CAPABILITIES, without ATP_C and SIP_C" grep -qE '^good 00 08 01 [89a-f]' <<<"$(vm in $capabilities)"

same "no keys" "$(vm in $read_keys)" "good 00 00 00 00 00 00 00 00"
# LIO's answer here is a CHECK CONDITION, where the standard has a conflict.
same "RESERVE, not registered" "$(vm out $reserve 5 a1 0)" "check 0b/00/00"
same "REGISTER" "$(vm out $register 0 0 a1)" good
same "the key at the other nexus" "$(keys)" 0xa1
same "REGISTER with another key" "$(vm out $register 0 99 a2)" conflict
same "RESERVE type 5" "$(vm out $reserve 5 a1 0)" good
same "the reservation at the other nexus" "$(reserved "Write Exclusive, registrants only")" 1
check "the other nexus cannot write" cannot_write "$other"
check "this one can" writes "$device"

status=0
sg_persist --out --register --param-sark=0xb2 "$other" >"$logs/sg" || status=$?
same "the other nexus registers" "$status" 0
check "now it can write" writes "$other"
status=0
sg_persist --out --reserve --param-rk=0xb2 --prout-type=5 "$other" >"$logs/sg" 2>&1 || status=$?
same "its RESERVE: sg_persist's exit status for a conflict" "$status" 24
same "both keys through the broker" "$(vm in $read_keys | cut -d' ' -f6-)" \
  "00 00 00 10 00 00 00 00 00 00 00 a1 00 00 00 00 00 00 00 b2"

sg_persist --out --preempt --param-rk=0xb2 --param-sark=0xa1 --prout-type=5 "$other" >"$logs/sg"
same "preempted: the unit attention comes first" "$(vm out $reserve 5 a1 0)" "check 06/2a/05"
same "then the conflict" "$(vm out $reserve 5 a1 0)" conflict
check "the preempted nexus cannot write" cannot_write "$device"
same "REGISTER AND IGNORE EXISTING KEY" "$(vm out $ignore 0 0 a3)" good
same "PREEMPT back, the keys swapped" "$(vm out $preempt 5 b2 a3)" conflict
same "PREEMPT back" "$(vm out $preempt 5 a3 b2)" good
same "who is left" "$(keys)" 0xa3
check "the other nexus cannot write again" cannot_write "$other"
# LIO again has an answer of its own: the standard's is 05/26/04.
same "RELEASE of another type" "$(vm out $release 1 a3 0)" conflict
same "RELEASE" "$(vm out $release 5 a3 0)" good
check "all can write" writes "$other"
same "CLEAR" "$(vm out $clear 0 a3 0)" good
same "no keys again" "$(keys)" ""

same "REGISTER AND MOVE" "$(vm out $move 0 a3 a4)" "check 05/24/00"
same "ALL_TG_PT" "$(vm out $register 0 0 a1 4)" "check 05/26/00"
check "a descriptor for reading" grep -q "is not open for writing" <<<"$(vm out-read-only $register 0 0 a1)"

# One partition of 8 MiB, in the MBR's own format.
printf '\0\0\0\0\203\0\0\0\0\010\0\0\0\100\0\0' | dd of="$device" bs=1 seek=446 conv=notrunc status=none
printf '\125\252' | dd of="$device" bs=1 seek=510 conv=notrunc status=none
blockdev --rereadpt "$device"
wait_for 10 test -b "${device}1" || fail "no partition"
chgrp $nobody "${device}1" && chmod 660 "${device}1"
disk=${device}1
check "a partition" grep -q "is a partition; reservations are of whole LUNs" <<<"$(vm out $register 0 0 a1)"
dd if=/dev/zero of="$device" bs=512 count=1 status=none
blockdev --rereadpt "$device"

# ---- dm-multipath: without multipathd, which would change nothing here ---------------------------------------------
disk=$(multipath_map lab-pr "$wwn" "$device" "$other")
trap 'dmsetup remove --noudevsync --force lab-pr' EXIT
chgrp $nobody "$disk" && chmod 660 "$disk"

same "multipath: one REGISTER" "$(vm out $register 0 0 c3)" good
same "multipath: a key for each path" "$(keys)" 0xc30xc3
# READ FULL STATUS: the additional length, and a descriptor with the key at 8 and the next after 24 and its own length.
full=$(vm in $full_status)
same "multipath: READ FULL STATUS has it twice" "$(grep -o '00 00 00 00 00 00 00 c3' <<<"$full" | wc -l)" 2
same "multipath: RESERVE type 5" "$(vm out $reserve 5 c3 0)" good
check "multipath: writes pass" writes "$disk"
dmsetup message lab-pr 0 fail_path "$(device_number "$device")"
check "multipath: and by the other path alone" writes "$disk"
dmsetup message lab-pr 0 reinstate_path "$(device_number "$device")"
same "multipath: RELEASE" "$(vm out $release 5 c3 0)" good
same "multipath: no reservation is left" "$(reserved "")" 0
same "multipath: REGISTER with no key" "$(vm out $register 0 c3 0)" good
same "multipath: no keys are left" "$(keys)" ""

cat "$logs/broker.log"
check "the broker's log has LUN, action and keys" \
  grep -qE "pid [0-9]+ uid $nobody: PREEMPT type 5 key 0xa3 service action key 0xb2 on $wwn: good" "$logs/broker.log"
