# shellcheck shell=bash
# limit: 600
# A Debian 12 root under systemd: login on plumb's console, network both ways, its data LUN, the guest agent, ordered stop.
read -r _ wwn < <(lio_lun data 64M)
debian_root "$work/root.img"
tap_up tap0 192.0.2.1/24
plumb run --name debian --detach --memory 512M --kernel "$cache/debian/vmlinuz" --initrd "$cache/debian/initrd.img" \
  --cmdline "$quiet_cmdline root=LABEL=debian udev.children_max=1" --disk "$work/root.img,id=root" --lun "$wwn,id=data" --net tap=tap0

# The case types through a pipe that stays open, and reads what the console shows from a file.
mkfifo "$work/keys"
exec 3<>"$work/keys"
plumb console debian <"$work/keys" >"$logs/console" 2>&1 &
# says PATTERN SECONDS: the console shows PATTERN, after what it showed so far.
shown=0
says() {
  wait_for "$2" _says "$1" || fail "the console does not say '$1' within $2 s; its end: $(tail -c 300 "$logs/console")"
  shown=$(wc -c <"$logs/console")
  echo "ok: the console says '$1' after $SECONDS s"
}
_says() { tail -c "+$((shown + 1))" "$logs/console" | grep -qaE -- "$1"; }
types() { printf '%s\n' "$1" >&3; }

says "debian login: " 300
types root
says "Password: " 60
types plumb
says "root@debian:.*# " 90
types "echo state \$(systemctl is-system-running --wait); systemctl --failed --no-legend --no-pager"
says "state running" 120
types "ping -c 2 -w 30 192.0.2.1 && echo ping-\$?"
says "ping-0" 60
check "the host pings the guest" busybox ping -c 2 -w 30 192.0.2.2

# The disk with the serial "data" is the LUN.
types "dd if=/dev/urandom of=\$(readlink -f /dev/disk/by-id/virtio-data) bs=1M count=8 oflag=direct; echo wrote-\$?"
says "wrote-0" 90

cat >"$work/agent.py" <<'END'
import json, socket, sys
agent = socket.socket(socket.AF_UNIX)
agent.settimeout(60)
agent.connect("/run/plumb/debian/agent.sock")
for command in sys.argv[1:]:
    agent.sendall(json.dumps({"execute": command}).encode() + b"\n")
    print(command, agent.makefile().readline().strip())
END
check "the guest agent answers" python3 "$work/agent.py" guest-ping guest-get-osinfo | tee "$logs/agent"
check "its answer is empty, as it should be" grep -qxF 'guest-ping {"return": {}}' "$logs/agent"

plumb ps
check "plumb stop" plumb stop debian
says "reboot: Power down" 5
check "plumb ps shows no VM" [ "$(plumb ps --json)" = "[]" ]
check "the root was unmounted in order" grep -q "clean" <(dumpe2fs -h "$work/root.img" 2>/dev/null | grep "^Filesystem state")
check "its file system is intact" e2fsck -fn "$work/root.img"
