# shellcheck shell=bash
# limit: 2400
# by hand: three guests, 50 snapshots of all and ten of each
# Three guests pass a token on, each writing down what it received and what it sent, before it is sent. In a snapshot of the
# group nothing is received that was not sent. In snapshots taken one after the other it is: the check can fail.
. "$lab/agent-vm.sh"
export PLUMB_STATE_DIR=$work/state
echo 1 >/proc/sys/net/ipv4/ip_forward

for me in 1 2 3; do
  tap_up "tap$me" "10.0.$me.1/24"
  cat >"$work/vm$me.workload" <<END
me=$me next=$((me % 3 + 1))
END
  cat >>"$work/vm$me.workload" <<'END'
ip address add 10.0.$me.2/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.$me.1
durable() { echo "$1" | dd of=/data/log oflag=append conv=notrunc,fsync 2>/dev/null; }
# Until the token has come round: a connection may end with nobody having read it.
keep_sending() {
  while [ "$(cat /run/sent)" = "$1" ]; do
    echo "$1" | nc -w 5 10.0.$next.2 7000 2>/dev/null
    sleep 1
  done
}
pass() {
  durable "sent $1"
  echo "$1" >/run/sent
  keep_sending "$1" &
}
last=0
echo "COMMIT 0"
[ "$me" != 1 ] || pass 1
while :; do
  n=$(nc -l -p 7000)
  [ "${n:-0}" -gt "$last" ] || continue
  last=$n
  durable "received $n"
  echo "COMMIT $n"
  pass $((n + 1))
done
END
done
for me in 1 2 3; do start_agent_vm "vm$me" --net "tap=tap$me"; done
guest_goes_on vm1 120

# last FILE WORD: the last number behind WORD in the log on the copy FILE.
last() { debugfs -R "cat /log" "$1" 2>/dev/null | sed -n "s/^$2 //p" | tail -n 1; }
# caused FILE1 FILE2 FILE3: whether all that was received was sent. Prints what each has last received and sent.
caused() {
  local files=("$@") me before received sent all=0
  for me in 0 1 2; do
    before=$(((me + 2) % 3))
    received=$(last "${files[me]}" received)
    sent=$(last "${files[before]}" sent)
    printf '%s<=%s ' "${received:=0}" "${sent:=0}"
    [ "$received" -le "$sent" ] || all=1
  done
  return $all
}
# copies FILE: the paths of the copies of the disks "data" in it, in the order of the VMs.
copies() { grep -oE '"id":"data","image":"[^"]*","size_bytes":[0-9]*,"snapshot_id":"[^"]*' "$1" | sed 's/.*"//'; }

moved=0
for round in $(seq 50); do
  before=$(last_commit vm1)
  check "snapshot $round of the group" plumb snapshot create --group ring vm1 vm2 vm3 --quiesce fs --require fs --json >"$logs/created"
  mapfile -t files < <(copies "$logs/created")
  same "copies of round $round" "${#files[@]}" 3
  seen=$(caused "${files[@]}") || fail "in the group's snapshot $round something was received that was not sent: $seen"
  echo "round $round: $seen"
  [ "$(last_commit vm1)" = "$before" ] || moved=$((moved + 1))
  check "round $round is deleted" plumb snapshot delete "$(grep -oE '"id":"ring-[^"]*' "$logs/created" | cut -d'"' -f4)"
done
check "the token moved during $moved of 50" [ "$moved" -gt 10 ]

broken=0
for round in $(seq 10); do
  files=()
  for me in 1 2 3; do
    check "snapshot $round of vm$me alone" plumb snapshot create "vm$me" --quiesce fs --json >"$logs/created"
    files+=("$(copies "$logs/created")")
  done
  caused "${files[@]}" || broken=$((broken + 1))
  echo
  plumb snapshot list --json | grep -oE '"id":"vm[^"]*' | cut -d'"' -f4 | xargs plumb snapshot delete
done
check "taken one by one, $broken of 10 have an effect without its cause" [ "$broken" -gt 0 ]
# The token needs all three.
for me in 1 2 3; do guest_goes_on "vm$me" 60; done
for me in 1 2 3; do check "plumb kill" plumb kill "vm$me"; done
