# shellcheck shell=bash
# limit: 7200
# by hand: a thousand swaps take half an hour
# A guest writes and verifies on a LUN that is taken away, replaced by others at its place, moved to other places and names,
# SWAPS times in the order of SEED. Not a byte of any other LUN changes.
swaps=1000 seed=1
RANDOM=$seed

must() { "$@" >/dev/null || fail "swap $i: $*; the VM is $(vm_status state): $(vm_status pause_reason)"; }

read -r _ wwn < <(lio_lun ours 64M)
declare -A wwn_of
for other in first second third; do
  read -r _ wwn_of[$other] < <(lio_lun $other 64M)
  head -c 1M /dev/urandom | dd of="$work/$other.lun" conv=notrunc status=none
done
sums() { sha256sum "$work"/{first,second,third}.lun; }
before=$(sums)

start_verifier swaps --lun "$wwn,id=ours"
wait_for 60 test -S /run/plumb/swaps/control.sock || fail "no guest"

# Where each of them is; places are target ports with a SCSI address each.
declare -A place=([ours]=$(lio_port ours) [first]=$(lio_port first))
for ((i = 1; i <= swaps; i++)); do
  other=second
  [ $((RANDOM % 2)) = 0 ] || other=third
  lio_take "${place[ours]}"
  must wait_for 60 vm_paused
  case $((RANDOM % 4)) in
    0) ;;  # it comes back at once
    1)     # another is there meanwhile
      lio_put "${place[ours]}" "$other" >/dev/null
      must wait_for 30 vm_says "${wwn_of[$other]} is at its place now"
      must vm_paused
      lio_take "${place[ours]}"
      ;;
    2) # it and another change places
      lio_take "${place[first]}"
      lio_put "${place[ours]}" first >/dev/null
      must wait_for 30 vm_says "${wwn_of[first]} is at its place now"
      read -r 'place[ours]' 'place[first]' <<<"${place[first]} ${place[ours]}"
      ;;
    3) # it stays away for a while
      must wait_for 30 vm_says "$wwn is not on this host"
      ;;
  esac
  lio_put "${place[ours]}" ours >/dev/null
  must wait_for 60 vm_runs
  [ $((i % 50)) != 0 ] || echo "$i swaps"
done
same "the other LUNs are as they were" "$(sums)" "$before"
verifier_ends swaps ours
