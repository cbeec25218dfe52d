# shellcheck shell=bash
# limit: 300
# The provider xcopy over EXTENDED COPY of a real target: the suite of arrays, with three LUNs and five spares, of which one
# is larger; then a spare that holds something of somebody else's.
port=$(lio_port array)
clean() {
  local i
  for i in {0..8}; do
    rm "$port/lun/lun_$i/port" || true
    rmdir "$port/lun/lun_$i" "$backstores/lun$i" || true
  done
  rmdir "$port" "${port%/*}" || true
}
trap clean EXIT

# at_port NUMBER SIZE: makes the LUN of that number at the port: a target copies between LUNs that one initiator sees. Sets
# device and wwn.
at_port() {
  local core=$backstores/lun$1 address
  truncate -s "$2" "$work/lun$1"
  mkdir -p "$core" "$port/lun/lun_$1"
  echo "fd_dev_name=$work/lun$1,fd_dev_size=$(stat -c %s "$work/lun$1")" >"$core/control"
  echo 1 >"$core/enable"
  echo "a00$1" >"$core/wwn/vpd_unit_serial"
  [ "$1" != 0 ] || echo "naa.5001405000000001" >"$port/nexus"
  ln -s "$core" "$port/lun/lun_$1/port"
  address=$(<"$port/address")
  read -r device wwn < <(_scsi_disk "$address:$1")
}

disks=() luns="" spares=""
for i in 0 1 2; do
  at_port $i 4M
  disks+=("$wwn=$device")
  luns+="\"$wwn\", "
done
for i in 3 4 5 6 7; do
  at_port $i $((i == 7 ? 6 : 4))M
  spares+="\"$wwn\", "
done
cat >"$work/plumb.toml" <<END
[[array]]
name = "mirror"
provider = "xcopy"
luns = [$luns]
spares = [$spares]
state = "$work/state/mirror.json"
END
check "the array is well" array-conformance --health "$work/plumb.toml" mirror
check "the suite of arrays" array-conformance "$work/plumb.toml" mirror "${disks[@]}"

at_port 8 4M
printf 'somebody has this' | dd of="$device" conv=fsync status=none
sed -i "s/^spares = .*/spares = [\"$wwn\"]/; s/mirror.json/other.json/" "$work/plumb.toml"
fails() { ! "$@"; }
check "a spare that is not blank is refused" fails array-conformance "$work/plumb.toml" mirror "${disks[@]}" >"$logs/refused"
check "and it is said which" grep -q "the spare $wwn holds something" "$logs/refused"
same "and it is as it was" "$(head -c 17 "$device")" "somebody has this"
