# shellcheck shell=bash
# limit: 3600
# asset: debian-postgres
# by hand: a Debian guest under systemd, and 24 times PostgreSQL on what was copied
# A Debian guest whose PostgreSQL is under load, its root an image on XFS, its data an LUN over dm-thin. Each snapshot is clean
# file systems, and PostgreSQL starts on it with every commit that was acknowledged before; with our hook the grade is
# application; without an agent it is crash, and the exit status says so.
modprobe dm_thin_pool
export DM_DISABLE_UDEV=1 # there is none
export PLUMB_STATE_DIR=$work/state PLUMB_CONFIG=$work/plumb.toml
cluster=var/lib/postgresql
mkdir "$work/root" "$work/data"

# ---- the guest -------------------------------------------------------------------------------------------------------

cp --sparse=always "$cache/debian-postgres/root.img" "$work/root.img"
truncate -s 8M "$work/metadata.bin"
truncate -s 2G "$work/pool.bin"
metadata=$(losetup --find --show --direct-io=on "$work/metadata.bin")
pool=$(losetup --find --show --direct-io=on "$work/pool.bin")
dmsetup create pool0 --table "0 4194304 thin-pool $metadata $pool 128 0 2 skip_block_zeroing error_if_no_space"
dmsetup message pool0 0 "create_thin 1"
dmsetup create vol1 --table "0 524288 thin /dev/mapper/pool0 1"
read -r device wwn < <(lio_block_lun data /dev/mapper/vol1)
cat >"$PLUMB_CONFIG" <<END
[[array]]
name = "thin"
provider = "dm-thin"
pool = "/dev/mapper/pool0"
state = "$work/state/thin.json"
luns = { "$wwn" = "vol1" }
END

mount -o loop "$work/root.img" "$work/root"
mkfs.ext4 -q -L pgdata "$device"
mount "$device" "$work/data"
cp -a "$work/root/$cluster/." "$work/data/"
umount "$work/data"
rm -rf "${work:?}/root/$cluster"
mkdir "$work/root/$cluster"
# shellcheck disable=SC2154
install -m 755 "$lab/../../docs/hooks/fsfreeze-hook" "$work/root/etc/qemu/fsfreeze-hook"
mkdir -p "$work/root/etc/qemu/fsfreeze-hook.d" "$work/root/etc/systemd/system/qemu-guest-agent.service.d"
install -m 755 "$lab/../../docs/hooks/fsfreeze-hook.d/postgresql" "$work/root/etc/qemu/fsfreeze-hook.d/10-postgresql"
cat >"$work/root/etc/systemd/system/qemu-guest-agent.service.d/hook.conf" <<'END'
[Service]
ExecStart=
ExecStart=-/usr/sbin/qemu-ga -F/etc/qemu/fsfreeze-hook
Environment=PLUMB_HOOK_TIMEOUT_S=120
END
echo "LABEL=pgdata /$cluster ext4 defaults 0 2" >>"$work/root/etc/fstab"
cat >>"$work/root/etc/systemd/system/load.service" <<'END'
[Unit]
After=postgresql.service qemu-guest-agent.service
Requires=postgresql.service
RequiresMountsFor=/var/lib/postgresql
[Service]
ExecStart=/usr/local/bin/load
[Install]
WantedBy=multi-user.target
END
ln -s /etc/systemd/system/load.service "$work/root/etc/systemd/system/multi-user.target.wants/"
# Each commit is told of on the console once PostgreSQL has acknowledged it. Growing the disk "signal" stops the agent.
cat >"$work/root/usr/local/bin/load" <<'END'
#!/bin/bash
exec >/dev/hvc0 2>&1
until su postgres -c "psql -c 'CREATE TABLE IF NOT EXISTS commits (n bigint PRIMARY KEY, filling text)'"; do sleep 1; done
seq 1000000 | sed "s/.*/INSERT INTO commits VALUES (&, repeat('x', 500));\n\\\\echo COMMIT &/" | su postgres -c 'psql -q' &
for disk in /sys/block/vd*; do [ "$(cat "$disk/serial")" != signal ] || size=$disk/size; done
while [ "$(cat "$size")" = 2048 ]; do sleep 1; done
systemctl stop qemu-guest-agent && echo AGENT stopped
wait
END
chmod 755 "$work/root/usr/local/bin/load"
umount "$work/root"

plumb image create "$work/signal.img" 1M
start_guest db1 --memory 768M --vcpus 2 --kernel "$cache/debian-postgres/vmlinuz" --initrd "$cache/debian-postgres/initrd.img" \
  --cmdline "$quiet_cmdline root=LABEL=debian udev.children_max=1" --console virtio --disk "$work/root.img,id=root" \
  --lun "$wwn,id=data" --disk "$work/signal.img,id=signal"
expect_line "$logs/db1.console" "^COMMIT 20[^0-9]" 900

# ---- snapshots -------------------------------------------------------------------------------------------------------

last_commit() { grep -aoE "^COMMIT [0-9]+" "$logs/db1.console" | tail -n 1 | cut -d' ' -f2; }

# verify BEFORE: the snapshot $logs/created is clean, and PostgreSQL on it has all commits up to BEFORE.
verify() {
  local id root data seen
  id=$(grep -oE '"id":"db1-[^"]*' "$logs/created" | cut -d'"' -f4)
  root=$(plumb snapshot map "$id/root")
  data=$(plumb snapshot map "$id/data")
  if [ "$clean" = yes ]; then
    for copy in "$root" "$data"; do
      check "$copy needs no recovery" eval "! dumpe2fs -h '$copy' 2>/dev/null | grep -q needs_recovery"
      check "$copy is a clean file system" e2fsck -fn "$copy" >"$logs/e2fsck" 2>&1
    done
  fi
  # What is to be written to is a copy.
  cp --reflink=always "$root" "$work/copy.img"
  mount -o loop "$work/copy.img" "$work/root"
  if [ "$clean" = yes ]; then
    mount -o ro,noload "$data" "$work/data"
    cp -a "$work/data/." "$work/root/$cluster/"
    umount "$work/data"
  else
    dd if="$data" of="$work/data.img" bs=4M conv=sparse status=none
    mount -o loop "$work/data.img" "$work/data"
    cp -a "$work/data/." "$work/root/$cluster/"
    umount "$work/data"
    rm "$work/data.img"
  fi
  rm -f "$work/root/$cluster/15/main/postmaster.pid"
  mount -t proc proc "$work/root/proc"
  mount -t tmpfs run "$work/root/run"
  mount -t tmpfs shm "$work/root/dev"
  mknod -m 666 "$work/root/dev/null" c 1 3
  mknod -m 666 "$work/root/dev/urandom" c 1 9
  mkdir -m 1777 "$work/root/dev/shm" "$work/root/run/postgresql"
  seen=$(chroot "$work/root" su postgres -c '
    postgres=/usr/lib/postgresql/15/bin cluster=/var/lib/postgresql/15/main
    $postgres/pg_ctl -D $cluster -o "-c config_file=/etc/postgresql/15/main/postgresql.conf" -w -t 300 start >&2 &&
      psql -At -c "SELECT count(*), max(n) FROM commits" && $postgres/pg_ctl -D $cluster -m fast -w stop >&2') || fail "PostgreSQL does not start on the copy"
  umount "$work/root/dev" "$work/root/run" "$work/root/proc" "$work/root"
  check "commit $1, acknowledged before, is there, and none is missing: $seen (number, last)" \
    [ "${seen#*|}" -ge "$1" -a "${seen%|*}" = "${seen#*|}" ]
  plumb snapshot unmap "$id/data"
  plumb snapshot unmap "$id/root"
}

# The machine is emulated, and so is the guest in it.
slow=(--freeze-timeout 120 --frozen-limit 60)
clean=yes
for round in 1 2; do
  before=$(last_commit)
  check "with the hook, $round" plumb snapshot create db1 --quiesce application --require application "${slow[@]}" --json >"$logs/created"
  check "its grade is application" grep -q '"grade":"application"' "$logs/created"
  verify "$before"
done

for round in $(seq 20); do
  before=$(last_commit)
  check "snapshot $round" plumb snapshot create db1 --quiesce fs --require fs "${slow[@]}" --json >"$logs/created"
  grep -oE '"(grade|frozen_ms|freeze_ms|held_us)":[^,]*' "$logs/created" | xargs
  verify "$before"
done
same "snapshots" "$(plumb snapshot list --json | grep -oE '"id":"db1-' | wc -l)" 22

check "the agent is stopped" plumb disk resize db1 signal 2M
expect_line "$logs/db1.console" "^AGENT stopped" 60
clean=no
before=$(last_commit)
status=0
plumb snapshot create db1 --quiesce fs --agent-timeout 5 --json >"$logs/created" || status=$?
same "without an agent, fs asked for: exit status" "$status" 3
check "its grade is crash" grep -q '"grade":"crash"' "$logs/created"
verify "$before"
check_refused "without an agent, fs required" 15 "no guest agent answers" \
  plumb snapshot create db1 --quiesce fs --require fs --agent-timeout 5
for id in $(plumb snapshot list --json | grep -oE '"id":"db1-[^"]*' | cut -d'"' -f4); do
  check "$id is deleted" plumb snapshot delete "$id"
done
same "thin devices left" "$(dmsetup ls --target thin | cut -f1 | xargs)" "vol1"
check "plumb kill" plumb kill db1
lio_lun_remove data
dmsetup remove vol1 pool0
losetup -d "$metadata" "$pool"
