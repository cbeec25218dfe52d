# shellcheck shell=dash
# /run.sh of a guest of the power-cut rig: PostgreSQL on the LUN, which lab/postgres-root made; four sessions commit.
exec >/dev/hvc0 2>&1
mount -t ext4 /dev/vda /root
mount -t devtmpfs dev /root/dev
mount -t proc proc /root/proc
mount -t tmpfs tmp /root/tmp
cp /verify.sql /root/tmp/
# What the cut has left; its process number may be somebody else's now.
rm -f /root/data/postmaster.pid

as_postgres() { chroot /root /bin/busybox su postgres -c "PATH=/bin:/usr/lib/postgresql/15/bin; $*"; }
sql() { as_postgres psql -h /tmp -qtA -P pager=off -v ON_ERROR_STOP=1 "$*" postgres postgres; }
as_postgres exec postgres -D /data &
until sql -c "''" >/dev/null 2>&1; do
  kill -0 $! || exit
  sleep 0.2
done

# Also what was not acknowledged is whole or absent.
as_postgres pg_amcheck -h /tmp -U postgres -d postgres --heapallindexed || echo "verified 0 acknowledged, 0 lost, 1 garbage"
sql -f /tmp/verify.sql
[ "$(cat /mode)" = write ] || exit

for session in 1 2 3 4; do
  insert="INSERT INTO commits SELECT $session, n, repeat(md5('$session:' || n), 1 + n % 40)
    FROM (SELECT coalesce(max(number), 0) + 1 AS n FROM commits WHERE session = $session) AS newest
    RETURNING 'ack ' || session || ':' || number;"
  yes "$insert" | sql &
done
wait
