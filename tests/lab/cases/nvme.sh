# shellcheck shell=bash
# limit: 400
# LUNs that are NVMe namespaces: one of QEMU's controller, which Linux knows by its serial number only, and one behind two
# NVMe/TCP ports of the kernel's target, under native multipath. A guest writes and verifies on both while paths go and
# come back, the controller is taken out, and another namespace takes the place of the second one.
uuid=6f4f24e6-0c5c-4e1e-8a2f-3d5a1b2c4d6e other_uuid=0d9b6c1e-55aa-4a3c-9a77-2f1f4b8c7d21
modprobe -a nvme nvme-tcp nvmet-tcp
ip link set lo up

# ---- the target: a subsystem with one namespace and two ports ------------------------------------------------------------
nvmet=/sys/kernel/config/nvmet
nqn=nqn.2026-01.org.example:lab
subsystem=$nvmet/subsystems/$nqn
# namespace_of FILE UUID: it becomes namespace 1.
namespace_of() {
  echo "$work/$1" >"$subsystem/namespaces/1/device_path"
  echo "$2" >"$subsystem/namespaces/1/device_uuid"
  echo 1 >"$subsystem/namespaces/1/enable"
}
port_up() { ln -s "$subsystem" "$nvmet/ports/$1/subsystems/$nqn"; }
port_down() { rm "$nvmet/ports/$1/subsystems/$nqn"; }
# connect PORT: makes a controller that tries for ever to get back to a port that goes.
connect() {
  echo "transport=tcp,traddr=127.0.0.1,trsvcid=442$1,nqn=$nqn,hostnqn=nqn.2026-01.org.example:host,nr_io_queues=1,reconnect_delay=1,ctrl_loss_tmo=-1,keep_alive_tmo=60" >/dev/nvme-fabrics
}
truncate -s 64M "$work/ours"
truncate -s 64M "$work/other"
printf 'precious' | dd of="$work/other" conv=notrunc status=none
before=$(sha256sum <"$work/other")
mkdir "$subsystem"
echo 1 >"$subsystem/attr_allow_any_host"
mkdir "$subsystem/namespaces/1"
namespace_of ours $uuid
for port in 1 2; do
  mkdir "$nvmet/ports/$port"
  echo tcp >"$nvmet/ports/$port/addr_trtype"
  echo ipv4 >"$nvmet/ports/$port/addr_adrfam"
  echo 127.0.0.1 >"$nvmet/ports/$port/addr_traddr"
  echo 442$port >"$nvmet/ports/$port/addr_trsvcid"
  port_up $port
  connect $port
done

listed() { plumb lun list >"$work/list" && grep -E "$1" "$work/list"; }
check "a namespace has its controllers as paths" wait_for 20 listed "^uuid.$uuid +/dev/nvme[0-9]+n1 +64 MiB .* 2 +free"
check "so has one without an identity of its own" wait_for 20 listed "^nvme\.1b36-.* 1 +free"
weak=$(sed -n 's/^\(nvme[^ ]*\) .*/\1/p' "$work/list")
strong=uuid.$uuid

small=(--memory 32M --kernel "$(command -v probe-guest)" --cmdline spin)
check_refused "a weak identity" 1 "LUN $weak .*may not be unique" plumb run --name no "${small[@]}" --lun "$weak"
check_refused "physical mode" 1 "$strong is an NVMe namespace" plumb rdm create "$work/physical.rdm" --wwn "$strong" --mode physical
start_verifier nvme --lun "$strong,id=ours" --lun "$weak,id=weak,allow-weak-identity=true"
another_round nvme ours weak

# ---- paths -------------------------------------------------------------------------------------------------------------
state_of() { plumb lun show "$1" | grep -o '"state":"[a-z-]*"' | cut -d'"' -f4 | xargs; }
states() { [ "$(state_of "$strong")" = "$1" ]; }
port_down 1
check "a path is gone" wait_for 30 states "connecting live"
another_round nvme ours
check "the VM runs" vm_runs
port_down 2
check "the VM pauses when both are gone, though the kernel gives no error" wait_for 60 vm_paused
check "it says so" wait_for 10 vm_says "^disk ours \($strong\): none of its 2 paths is up"
port_up 1
check "it goes on with the first" wait_for 60 vm_runs
port_up 2
another_round nvme ours weak

# ---- the controller is taken out, and another one comes ----------------------------------------------------------------
controller=$(readlink -f /sys/class/nvme/nvme0/device)
echo 1 >"$controller/remove"
check "the VM pauses without the controller" wait_for 60 vm_paused
check "it says so" wait_for 10 vm_says "^disk weak \($weak\): LUN $weak is not on this host"
echo 1 >/sys/bus/pci/rescan
check "it goes on when it is back" wait_for 60 vm_runs
another_round nvme weak

# ---- another namespace behind the same number ----------------------------------------------------------------------------
echo 0 >"$subsystem/namespaces/1/enable"
check "the VM pauses without its namespace" wait_for 60 vm_paused
namespace_of other $other_uuid
check "another is at its place" wait_for 20 listed "^uuid.$other_uuid "
check "the VM is still paused" vm_paused
check "it says why" wait_for 10 vm_says "^disk ours \($strong\): "
echo 0 >"$subsystem/namespaces/1/enable"
same "nothing was written to the other" "$(sha256sum <"$work/other")" "$before"
namespace_of ours $uuid
check "it goes on when its own is back" wait_for 60 vm_runs
another_round nvme ours weak
verifier_ends nvme ours weak
