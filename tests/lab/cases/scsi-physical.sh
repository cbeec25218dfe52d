# shellcheck shell=bash
# limit: 240
# LUNs in physical mode: they answer a guest as they answer the host, but for what is changed on purpose; what may harm
# them is refused, and changes nothing; reservations reach them through the broker, and conflicts the guest.
read -r device wwn < <(lio_lun data 32M)
read -r fixed fixed_wwn < <(lio_lun fixed 16M)
read -r _ held_wwn < <(lio_lun held 16M)
for lun in "$device" "$fixed"; do dd if=<(yes "of the host") of="$lun" bs=1M count=16 iflag=fullblock oflag=direct status=none; done
sum() { head -c 8M "$1" | sha256sum; }
before="$(sum "$device") $(sum "$fixed")"
plumb rdm create "$work/data.rdm" --wwn "$wwn" --mode physical
plumb rdm create "$work/fixed.rdm" --wwn "$fixed_wwn" --mode physical
plumb-pr-broker --socket /run/plumb-pr-broker.sock 2>"$logs/broker.log" &
expect_line "$logs/broker.log" "serves" 30

guest_programs physical sg_raw sg_persist
# What is asked on both sides. sg_raw's exit status: 0 good, 5 illegal request, 7 data protect, 9 no such operation.
cat >"$work/physical.fs/questions" <<'SCRIPT'
ask() { name=$1; shift; echo "$name $(sg_raw -b -r 252 $disk "$@" 2>/dev/null | od -An -v -tx1 | tr -d '\n')"; }
disk=$1
ask inquiry 12 00 00 00 fc 00
for page in 80 83 b0 b2; do ask page-$page 12 01 $page 00 fc 00; done
ask capacity-16 9e 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00
ask mode 5a 00 3f 00 00 00 00 00 fc 00
SCRIPT
# The same questions to the LUN itself, before another port changes what it says. INQUIRY, byte 5: TPGS and 3PC go; block
# limits, bytes 8 to 15: longer transfers than the kernel passes on go.
bash "$work/physical.fs/questions" "$device" >"$work/host.answers"
initrd=$(scsi_guest_initrd physical <<SCRIPT
find() { while :; do for at in /sys/block/sd*; do [ "\$(cat \$at/device/wwid 2>/dev/null)" = \$1 ] && echo /dev/\${at##*/} && return; done; done; }
data=\$(find $wwn) fixed=\$(find $fixed_wwn) held=\$(find $held_wwn)
sh /questions \$data | sed 's/^/ASKED /'
raw() { name=\$1; shift; status=0; sg_raw "\$@" >/dev/null 2>&1 || status=\$?; echo "RAW \$name \$status"; }
head -c 1024 /dev/zero >/zeroes
printf '\\0\\26\\0\\20\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\200\\0\\0\\0\\0' >/unmap
for disk in \$data \$fixed; do
  raw format -R \$disk 04 00 00 00 00 00
  raw copy -R -s 24 -i /zeroes \$disk 83 00 00 00 00 00 00 00 00 00 00 00 00 18 00 00
  raw write-buffer -R -s 24 -i /zeroes \$disk 3b 02 00 00 00 00 00 00 18 00
  raw mode-select -R -s 24 -i /zeroes \$disk 15 10 00 00 18 00
done
raw fixed-unmap -R -s 24 -i /unmap \$fixed 42 00 00 00 00 00 00 00 18 00
raw fixed-write-same -R -s 512 -i /zeroes \$fixed 41 00 00 00 00 00 00 00 08 00
echo "FIXED \$(cat /sys/block/\${fixed#/dev/}/ro)"
# At 12 MiB, where nothing is compared.
printf '\\0\\26\\0\\20\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\140\\0\\0\\0\\0\\200\\0\\0\\0\\0' >/unmap
raw unmap -s 24 -i /unmap \$data 42 00 00 00 00 00 00 00 18 00
raw compare-and-write -s 1024 -i /zeroes \$data 89 00 00 00 00 00 00 00 60 00 00 00 00 01 00 00
raw compare-other -s 1024 -i /zeroes \$data 89 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00
while dd if=/dev/zero of=\$held bs=4k count=1 oflag=direct 2>/conflict; do :; done # until another host reserves it
echo "CONFLICT \$(grep dd: /conflict)"
sg_persist --in --read-keys \$held | grep 0x | sed 's/^ */HELD /'
sg_persist --out --register --param-sark=0xa1 \$data >/dev/null && echo REGISTERED
sg_persist --out --reserve --param-rk=0xa1 --prout-type=5 \$data >/dev/null && echo RESERVED
dd if=/zeroes of=\$data bs=512 count=2 seek=24576 oflag=direct 2>/dev/null && echo WROTE
SCRIPT
)
guest=(--memory 256M --console virtio --kernel "$(guest_elf)" --initrd "$initrd" --cmdline "$quiet_cmdline")
plumb run --name physical "${guest[@]}" --rdm "$work/data.rdm" </dev/null 2>"$logs/refused" || true
check "physical mode is for the SCSI bus" grep -q "has the mode physical: .*needs bus=scsi" "$logs/refused"
start_guest physical "${guest[@]}" --rdm "$work/data.rdm,id=data,bus=scsi" \
  --rdm "$work/fixed.rdm,id=fixed,bus=scsi,read-only" --lun "$held_wwn,id=held,bus=scsi"
# Another host's view of the LUNs, after the claims, which would refuse two ways without a multipath map.
expect_line "$logs/physical.console" "^ASKED mode" 100
# The capabilities in force of each thread of the VM's process that has any.
privileged() {
  local task
  for task in /proc/"$guest_pid"/task/*; do
    sed -n "s/^CapEff:\t0*\([1-9a-f][0-9a-f]*\)$/$(<"$task/comm") \1/p" "$task/status"
  done | sort | uniq -c | xargs
}
same "CAP_SYS_RAWIO, and who has it" "$(privileged)" "4 lun-data 20000 4 lun-fixed 20000"
read -r _ late_wwn < <(lio_lun late 16M)
plumb rdm create "$work/late.rdm" --wwn "$late_wwn" --mode physical
check_refused "attached to a running VM" 3 "does not find SYNCHRONIZE CACHE\(16\).* LUN $late_wwn.* start the VM as root" \
  plumb disk attach physical late --rdm "$work/late.rdm" --bus scsi
other=$(lio_path data second)
holder=$(lio_path held second)
sg_persist --out --register --param-sark=0xb2 "$holder" >"$logs/sg"
sg_persist --out --reserve --param-rk=0xb2 --prout-type=5 "$holder" >"$logs/sg"
guest_ends physical 0 100
tr -d '\r' <"$logs/physical.console" >"$work/console"
grep -E '^(RAW|FIXED|CONFLICT|HELD)' "$work/console"

sed -n 's/^ASKED //p' "$work/console" >"$work/guest.answers"
queue=/sys/block/${device#/dev/}/queue
pages=$(($(<"$queue/max_segments") * 8)) kernel=$(($(<"$queue/max_hw_sectors_kb") * 2))
limit=$(printf %08x $((pages < kernel ? pages : kernel)) | sed 's/../& /g; s/ $//')
sed -i "s/^\(inquiry .* 5b\) b8 /\1 80 /
  s/^\(page-b0 .* 00 01\) 00 00 40 00 00 00 40 00 /\1 $limit $limit /" "$work/host.answers"
diff "$work/host.answers" "$work/guest.answers" || fail "the LUN answers the guest otherwise than the host"
echo "ok: $(wc -l <"$work/guest.answers") answers of the LUN are the same"

# seen NAME: the statuses of all commands of that name, of both disks if it went to both.
seen() { sed -n "s/^RAW $1 //p" "$work/console" | xargs; }
for name in format copy write-buffer mode-select; do same "$name: no such operation" "$(seen $name)" "9 9"; done
for name in fixed-unmap fixed-write-same; do same "$name: data protect" "$(seen $name)" 7; done
check "the read-only LUN is write-protected" grep -qx 'FIXED 1' "$work/console"
same "checksums of the LUNs" "$(sum "$device") $(sum "$fixed")" "$before"
same "UNMAP, and COMPARE AND WRITE that finds what it should" "$(seen unmap) $(seen compare-and-write)" "0 0"
same "COMPARE AND WRITE that does not: miscompare" "$(seen compare-other)" 14
check "what was unmapped is gone" cmp -n 65536 -i 12582912:0 "$device" /dev/zero

check "a reservation conflict is EBADE in the guest" grep -q '^CONFLICT .*Invalid exchange' "$work/console"
check "a LUN in virtual mode tells its keys, too" grep -q '^HELD 0xb2' "$work/console"
same "registers, reserves, writes" "$(grep -E '^(REGISTERED|RESERVED|WROTE)$' "$work/console" | xargs)" "REGISTERED RESERVED WROTE"
sg_turs "$other" >/dev/null 2>&1 || true # takes its unit attentions
same "the guest's key, as another host sees it" "$(sg_persist --in --read-keys "$other" | grep -oE '^ +0x[0-9a-f]+' | tr -d ' ')" 0xa1
check "whose writes conflict" bash -c '! dd if=/dev/zero of="$0" bs=4k count=1 oflag=direct 2>"$1" && grep -q "Invalid exchange" "$1"' "$other" "$logs/dd"
