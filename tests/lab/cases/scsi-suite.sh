# shellcheck shell=bash
# limit: 1500
# by hand: takes a quarter of an hour
# A LUN on the guest's SCSI bus, and the SCSI conformance suite of libiscsi. In virtual mode it fails no test in the guest
# that the LUN beneath passes on the lab's host. In physical mode every test has the verdict of the host (passed, failed,
# skipped for a reason), but for those listed here, and in docs/rdm.md, with the commands that are denied.
denied="ExtendedCopy.DescrLimits ExtendedCopy.DescrType ExtendedCopy.ParamHdr ExtendedCopy.Simple ExtendedCopy.ValidSegDescr \
ExtendedCopy.ValidTgtDescr OrWrite.Protect ReceiveCopyResults.CopyStatus ReceiveCopyResults.OpParams Reserve6.Simple \
Verify10.VerifyProtect Verify12.VerifyProtect Verify16.VerifyProtect WriteVerify12.WriteProtect"
read -r device wwn < <(lio_lun data 64M)
mkdir -p /var/target/pr # where LIO keeps reservations over power loss, which the suite asks for
plumb rdm create "$work/data.rdm" --wwn "$wwn" --mode physical
plumb-pr-broker --socket /run/plumb-pr-broker.sock 2>"$logs/broker.log" &
expect_line "$logs/broker.log" "serves" 30

# verdicts FILE: "SUITE.TEST passed|failed|skipped" for each test of the suite's report.
verdicts() {
  tr -d '\r' <"$1" | awk '
    /^Suite: / {suite = $2}
    /^ *Test: / {test = suite "." $2; skipped = 0}
    /\[SKIPPED\]|SKIPPED/ {skipped = 1}
    test != "" && /passed$/ {print test, skipped ? "skipped" : "passed"; test = ""}
    test != "" && /FAILED$/ {print test, "failed"; test = ""}' | sort
}

# reasons FILE: what the suite says of each test that it skips, and the tests.
reasons() {
  tr -d '\r' <"$1" | awk '
    /^Suite: / {suite = $2}
    /^ *Test: / {test = suite "." $2; told = 0}
    /\[SKIPPED\]/ && !told {sub(/.*\[SKIPPED\] */, ""); tests[$0] = tests[$0] " " test; told = 1}
    END {for (reason in tests) print reason ":" tests[reason]}' | sort
}

suite="iscsi-test-cu -v -d -t SCSI"
for mode in virtual physical; do
  guest_programs $mode iscsi-test-cu
  initrd=$(scsi_guest_initrd $mode <<SCRIPT
while [ ! -b /dev/sda ]; do :; done # it appears in the background
$suite /dev/sda
SCRIPT
)
  disk=(--lun "$wwn,bus=scsi")
  [ $mode = virtual ] || disk=(--rdm "$work/data.rdm,bus=scsi")
  start_guest $mode --memory 512M --console virtio --kernel "$(guest_elf)" --initrd "$initrd" --cmdline "$quiet_cmdline" "${disk[@]}"
  guest_ends $mode 0 800
  verdicts "$logs/$mode.console" >"$work/$mode.verdicts"
done
$suite "$device" >"$logs/host.console" 2>&1 || true
verdicts "$logs/host.console" >"$work/host.verdicts"
for side in virtual physical host; do
  echo "$side: $(awk '{count[$2]++} END {for (verdict in count) print count[verdict], verdict}' "$work/$side.verdicts" | xargs)"
done

echo "skipped in virtual mode:"
reasons "$logs/virtual.console"

echo "host and physical mode:"
diff "$work/host.verdicts" "$work/physical.verdicts" || true
echo "host and virtual mode:"
diff "$work/host.verdicts" "$work/virtual.verdicts" || true
failures() { awk '$2 == "failed" {print $1}' "$work/$1.verdicts"; }
same "tests that fail in virtual mode only" "$(comm -23 <(failures virtual) <(failures host) | xargs)" ""
check "208 tests of virtual mode pass or are skipped for a reason" [ "$(grep -cv ' failed' "$work/virtual.verdicts")" -ge 208 ]
same "tests with another verdict in physical mode" \
  "$(join "$work/host.verdicts" "$work/physical.verdicts" | awk '$2 != $3 {print $1}' | xargs)" "$denied"
same "tests with a verdict" "$(wc -l <"$work/physical.verdicts")" "$(wc -l <"$work/host.verdicts")"
