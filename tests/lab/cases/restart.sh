# shellcheck shell=bash
# limit: 240
# A VM holds its image and its LUN as long as it runs, against another VM too, and not a moment longer.
read -r _ wwn < <(lio_lun data 64M)
truncate -s 64M "$work/root.img"
initrd=$(busybox_guest_initrd off </dev/null)
run=(--memory 256M --kernel "$(guest_elf)" --initrd "$initrd" --cmdline "$quiet_cmdline")

# refused TEXT PATTERN OPTION...: plumb run must end with 11 (locked) and a line like PATTERN.
refused() {
  local what=$1 pattern=$2
  shift 2
  check_refused "$what" 11 "$pattern" plumb run "${run[@]}" "$@"
}

for engine in io_uring libaio; do
  disks=(--disk "$work/root.img,id=root,engine=$engine" --lun "$wwn,id=data,engine=$engine")
  plumb run --name vm --detach "${run[@]}" "${disks[@]}" >/dev/null
  pid=$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' <(plumb ps --json) | head -n 1)
  refused "$engine: the image of another VM" "in use by VM vm .*$pid" --name other --disk "$work/root.img"
  refused "$engine: the LUN of another VM" "open in .*$pid" --name other --lun "$wwn"
  refused "$engine: the name of another VM" "as pid $pid" --name vm
  check "$engine: plumb kill" plumb kill vm

  for again in 1 2; do
    start_guest "vm" "${run[@]}" "${disks[@]}"
    guest_ends "vm" 0 60
    echo "ok: $engine: started at once after its end ($again)"
  done
done
