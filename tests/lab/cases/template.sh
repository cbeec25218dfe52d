# shellcheck shell=bash
# limit: 600
# by hand: four guests; the host tier has the same with the probe guest
# A template's round trip with real guests: snapshot, template, export, import, three VMs deployed of it that run at once. Each
# is a machine of its own to its kernel, has all commits of the first, and goes its own way.
. "$lab/agent-vm.sh"
export PLUMB_STATE_DIR=$work/state
# A deployed VM's disks have other serial numbers than those that the guest looks for.
cat >"$work/db1.workload" <<'END'
for disk in /dev/vd?; do mountpoint -q /data || mount -t ext4 "$disk" /data; done
n=$(tail -n 1 /data/log 2>/dev/null)
for disk in /sys/block/vd*; do serials="$serials,$(cat "$disk/serial")"; done
echo "MACHINE $(cat /sys/class/dmi/id/product_uuid) $(cat /sys/class/net/eth0/address) $serials"
commit
END
tap_up tap0 10.0.9.1/24
start_agent_vm db1 --net tap=tap0
guest_goes_on db1 60
before=$(last_commit db1)
plumb snapshot create db1 --quiesce fs --json >"$logs/created"
[[ $(<"$logs/created") =~ \"id\":\"(db1-[^\"]*)\" ]] && id=${BASH_REMATCH[1]}
check_refused "a snapshot cannot be started" 2 "" plumb run "$work/state/snapshots/$id.json"

check "template create" plumb template create first --from "$id"
check "the snapshot is not needed any more" plumb snapshot delete "$id"
mkdir "$work/imported"
plumb template export first - | plumb template import - second --folder "$work/imported"
check "nor is the first template" plumb template delete first

machine_of() { grep -a -m 1 "^MACHINE" "$logs/$1.console" | tr -d '\r'; }
for name in web1 web2 web3; do
  tap_up "tap-$name" "10.0.8.${name#web}/32"
  check "deploy $name" plumb template deploy second "$name" --file "$work/$name.toml" --tap "tap-$name"
  plumb run "$work/$name.toml" </dev/null >"$logs/$name.console" 2>"$logs/$name.errors" &
done
for name in web1 web2 web3; do
  expect_line "$logs/$name.console" "^MACHINE" 120
  expect_line "$logs/$name.console" "^COMMIT" 120
  first=$(grep -aoE -m 1 "^COMMIT [0-9]+" "$logs/$name.console" | cut -d' ' -f2)
  check "$name goes on behind the first's commit $before: $first" [ "$first" -gt "$before" ]
  guest_goes_on "$name" 60
done
guest_goes_on db1 60
same "VMs" "$(plumb ps --json | grep -oE '"name":"[^"]*"' | wc -l)" 4
same "generation ids" "$(plumb ps --json | grep -oE '"generation_id":"[^"]*"' | sort -u | wc -l)" 4
for word in 2 3 4; do
  same "word $word of what the machines say: different ones" \
    "$(for name in db1 web1 web2 web3; do machine_of $name | cut -d' ' -f$word; done | sort -u | wc -l)" 4
done

image=$(sed -n 's/^image = "\(.*\)"/\1/p' "$work/web1.toml" | head -n 1)
check_refused "a second VM from web1's disk" 11 "web1" \
  plumb run --name thief --kernel "$(guest_elf)" --disk "$image"
check_refused "web1 a second time" 11 "web1" plumb run "$work/web1.toml"
for name in db1 web1 web2 web3; do check "plumb kill" plumb kill "$name"; done
check "template delete" plumb template delete second
