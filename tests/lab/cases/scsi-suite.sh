# shellcheck shell=bash
# limit: 900
# by hand: takes five minutes
# A LUN on the guest's SCSI bus: the SCSI conformance suite of libiscsi fails no test in the guest that the LUN beneath
# passes on the lab's host.
read -r device wwn < <(lio_lun data 64M)
# failures FILE: SUITE.TEST of the suite's report, sorted.
failures() { tr -d '\r' <"$1" | sed -nE 's/^Suite (.*), Test (.*) had failures:.*$/\1.\2/p' | sort; }

guest_programs scsi iscsi-test-cu
initrd=$(scsi_guest_initrd scsi <<'SCRIPT'
while [ ! -b /dev/sda ]; do :; done # it appears in the background
iscsi-test-cu -n -d -t SCSI /dev/sda
SCRIPT
)
start_guest scsi --memory 512M --console virtio --kernel "$(guest_elf)" --initrd "$initrd" \
  --cmdline "$quiet_cmdline" --lun "$wwn,bus=scsi"
guest_ends scsi 0 800
iscsi-test-cu -n -d -t SCSI "$device" >"$logs/host.report" 2>&1 || true
for report in scsi.console host.report; do
  grep -a '^ *tests ' "$logs/$report" | tr -d '\r'
  failures "$logs/$report" >"$work/${report%.*}.failures"
  sed "s/^/${report%.*}: /" "$work/${report%.*}.failures"
done
same "tests that fail in the guest only" "$(comm -23 "$work/scsi.failures" "$work/host.failures" | xargs)" ""
passed=$(awk '$1 == "tests" {print $4}' "$logs/scsi.console" | tr -d '\r')
check "208 tests pass or are skipped for a reason" [ "$passed" -ge 208 ]
