# shellcheck shell=bash
# limit: 300
# A LUN by its mapping file: a guest runs on it, one VM at a time unless it is shared; a LUN that is not the one mapped is
# refused; and no mapping file that is made, replaced or deleted touches a LUN.
mebibytes=8
cd "$work" || exit # so that the mapping's path in the definition is relative
read -r device wwn < <(lio_lun data 64M)
digits=${wwn#naa.6001405}

sum() { dd if="$device" bs=1M count=$mebibytes iflag=direct status=none | sha256sum | cut -d' ' -f1; }

check_refused "a LUN that is not here" 1 "is not on this host" plumb rdm create data.rdm --wwn naa.6001405fffffffffffffffffffffffff
check "nothing is made of it" [ ! -e data.rdm ]
check "a LUN is mapped" plumb rdm create data.rdm --wwn "$wwn"
cat data.rdm
check "the mapping holds no device name" bash -c '! grep -q "$0" data.rdm' "${device#/dev/}"
check_refused "an existing mapping" 1 "data.rdm exists already" plumb rdm create data.rdm --wwn "$wwn"
check "the LUN is as it was mapped" plumb rdm verify data.rdm
check "where it is now" grep -qE "^device +$device$" <(plumb rdm show data.rdm)

initrd=$(busybox_guest_initrd db1 <<END
disk=/dev/\$(basename \$(dirname \$(grep -l '^data$' /sys/block/vd*/serial)))
dd if=/dev/urandom of=/data bs=1M count=$mebibytes 2>/dev/null
dd if=/data of=\$disk bs=1M oflag=direct 2>/dev/null
echo "GUEST_WROTE \$(sha256sum </data)"
while true; do usleep 100000; done
END
)
cat >db1.toml <<END
memory = "256M"
kernel = "$(guest_elf)"
cmdline = "$quiet_cmdline"
[[disk]]
id = "data"
rdm = "data.rdm"
END
start_guest db1 db1.toml --initrd "$initrd"
written=$(expect_line "$logs/db1.console" "^GUEST_WROTE [0-9a-f]{64}" 120 | cut -d' ' -f2)

small=(--memory 32M --kernel "$(command -v probe-guest)" --cmdline spin)
check_refused "a second VM" 11 "mapping .*data.rdm is in use by VM db1 \(pid $guest_pid\)" plumb run --name db2 "${small[@]}" --rdm data.rdm
check_refused "replaced in use" 11 "mapping data.rdm is in use by VM db1 \(pid $guest_pid\)" plumb rdm create data.rdm --wwn "$wwn" --replace
check "the LUN is mapped again elsewhere" plumb rdm create shared.rdm --wwn "$wwn" --shared
check_refused "shared with its owner" 11 "LUN $wwn .*open in VM db1 \(pid $guest_pid\)" plumb run --name db2 "${small[@]}" --rdm shared.rdm
plumb kill db1
guest_ends db1 0 20
same "checksum of the LUN, the guest gone" "$(sum)" "$written"

start_guest one "${small[@]}" --rdm shared.rdm
first=$guest_pid
expect_line "$logs/one.console" spinning 60
start_guest two "${small[@]}" --rdm shared.rdm
expect_line "$logs/two.console" spinning 60
check_refused "for one VM while shared" 11 "LUN $wwn .*in use by VM (one|two) \(pid ($first|$guest_pid)\)" plumb run --name db2 "${small[@]}" --rdm data.rdm
second=$guest_pid
start_guest three "${small[@]}"
expect_line "$logs/three.console" spinning 60
check_refused "for one VM while shared, to one that runs" 11 "LUN $wwn .*in use by VM (one|two)" plumb disk attach three late --rdm data.rdm
check "a third VM takes it while it runs" plumb disk attach three late --rdm shared.rdm
check_refused "twice in one VM" 2 "LUN $wwn already, as disk 'late'" plumb disk attach three again --rdm shared.rdm
for vm in one two three; do plumb kill $vm; done
guest_ends three 0 20
guest_pid=$second
guest_ends two 0 20
guest_pid=$first
guest_ends one 0 20

check "another mapping in its place" plumb rdm create data.rdm --wwn "$wwn" --replace
rm shared.rdm
same "checksum of the LUN, a mapping replaced and one deleted" "$(sum)" "$written"

# replaced_by SIZE SERIAL: the LUN gives way to another one with its identity.
gone() { ! plumb lun show "$wwn" >/dev/null 2>&1; }
replaced_by() {
  lio_lun_remove data
  wait_for 10 gone || fail "LUN $wwn does not go"
  check_refused "no LUN" 1 "data.rdm.* LUN $wwn is not on this host" plumb rdm verify data.rdm
  same "the WWN of the other LUN" "$(lio_lun data "$1" "$2" | cut -d' ' -f2)" "$wwn"
}
replaced_by 32M "$digits"
check_refused "a smaller LUN, verified" 1 "LUN $wwn has shrunk from 67108864 to 33554432 bytes" plumb rdm verify data.rdm
check_refused "a smaller LUN, run" 1 "LUN $wwn has shrunk from 67108864 to 33554432 bytes" plumb run --name db2 "${small[@]}" --rdm data.rdm
# The kernel takes the WWN from the hex digits only.
replaced_by 64M "z$digits"
check_refused "another LUN, verified" 1 "LUN $wwn has the serial number z$digits, and the one that was mapped had $digits" plumb rdm verify data.rdm
check_refused "another LUN, run" 1 "LUN $wwn has the serial number z$digits" plumb run --name db2 "${small[@]}" --rdm data.rdm
replaced_by 128M "$digits"
check "a LUN that has grown is as it was mapped" plumb rdm verify data.rdm
