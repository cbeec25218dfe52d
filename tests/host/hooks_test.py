#!/usr/bin/env python3
"""docs/hooks on this host: the dispatcher with hooks that misbehave, under the real qemu-ga, and with real databases.

Nothing here freezes a file system.
"""
import base64
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from plumb_process import DEADLINE_S, main

HOOKS = pathlib.Path(__file__).resolve().parents[2] / "docs/hooks"
POSTGRES = pathlib.Path("/usr/lib/postgresql/15/bin")

os.environ["PATH"] += ":/usr/sbin"  # where servers are, and which not every user has

# Leaves "NAME PHASE" in the trace, one line for each call.
TRACE = 'printf "%s %s\\n" "${0##*/}" "$1" >>"$TRACE"\n'


def missing(*programs):
    """Which of the programs are not here, as a reason to skip; or None."""
    absent = [program for program in programs if not shutil.which(program)]
    return f"SKIPPED: {', '.join(absent)} not installed" if absent else None


class HookTest(unittest.TestCase):
    """A folder with the dispatcher and the hooks of the test."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="plumb-hooks-", dir="/var/tmp"))
        self.folder.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.folder)
        self.dispatcher = self.folder / "fsfreeze-hook"
        shutil.copy(HOOKS / "fsfreeze-hook", self.dispatcher)
        self.hooks = self.folder / "fsfreeze-hook.d"
        self.hooks.mkdir()
        self.run_folder = self.folder / "run"
        self.trace = self.folder / "trace"
        self.environment = dict(os.environ, PLUMB_HOOK_RUN_DIR=str(self.run_folder), TRACE=str(self.trace),
                                FOLDER=str(self.folder))

    def hook(self, name, body=""):
        path = os.path.join(os.fsencode(self.hooks), os.fsencode(name))
        with open(path, "w", encoding="ascii") as file:
            file.write("#!/bin/sh\n" + TRACE + body)
        os.chmod(path, 0o755)

    def call(self, phase, command=None):
        """Runs the dispatcher, or a hook alone, as qemu-ga does; its exit status."""
        done = subprocess.run([command or self.dispatcher, phase], env=self.environment,
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=DEADLINE_S, check=False)
        return done.returncode

    def called(self):
        text = self.trace.read_bytes() if self.trace.exists() else b""
        self.trace.unlink(missing_ok=True)
        return text.decode(errors="surrogateescape").splitlines()

    def report(self):
        return json.loads((self.run_folder / "hooks.json").read_text(encoding="ascii"))

    def statuses(self):
        return [(hook["name"], hook["status"]) for hook in self.report()["hooks"]]

    def log(self):
        return (self.run_folder / "hooks.log").read_text(errors="replace")


class DispatcherTest(HookTest):
    def test_freeze_in_order_thaw_in_reverse(self):
        for name in ("20-b", "10-a", "30-c"):
            self.hook(name)
        self.assertEqual(self.call("freeze"), 0)
        self.assertEqual(self.called(), ["10-a freeze", "20-b freeze", "30-c freeze"])
        self.assertEqual(self.report(), {
            "version": 1, "count": 1, "phase": "freeze",
            "hooks": [{"name": name, "status": "ok"} for name in ("10-a", "20-b", "30-c")]})
        self.assertEqual(self.call("thaw"), 0)
        self.assertEqual(self.called(), ["30-c thaw", "20-b thaw", "10-a thaw"])
        self.assertEqual((self.report()["phase"], self.report()["count"]), ("thaw", 1))
        self.assertEqual([name for name, _ in self.statuses()], ["30-c", "20-b", "10-a"])

    def test_failed_freeze_takes_back_what_was_done(self):
        self.hook("10-a")
        self.hook("20-b", '[ "$1" = thaw ] || exit 3\n')
        self.hook("30-c")
        self.assertEqual(self.call("freeze"), 1)
        self.assertEqual(self.called(), ["10-a freeze", "20-b freeze", "20-b thaw", "10-a thaw"])
        self.assertEqual(self.report()["phase"], "freeze")
        self.assertEqual(self.statuses(), [("10-a", "ok"), ("20-b", "failed")])

    def test_hanging_hook_is_ended_with_its_children(self):
        self.environment["PLUMB_HOOK_TIMEOUT_S"] = "1"
        self.hook("10-a")
        # The pipe is open as long as one of its processes lives.
        os.mkfifo(self.folder / "alive")
        self.hook("20-b", '[ "$1" = thaw ] && exit\nexec 3<>"$FOLDER/alive"\nsleep 1000 &\nwait\n')
        alive = os.open(self.folder / "alive", os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, alive)
        self.assertEqual(self.call("freeze"), 1)
        self.assertEqual(self.called(), ["10-a freeze", "20-b freeze", "20-b thaw", "10-a thaw"])
        self.assertEqual(self.statuses(), [("10-a", "ok"), ("20-b", "timeout")])
        ended = select.poll()
        ended.register(alive, select.POLLHUP)
        self.assertNotEqual(ended.poll(DEADLINE_S * 1000), [], "a child of the hook still runs")

    def test_hook_that_ignores_the_signal_is_killed(self):
        self.environment["PLUMB_HOOK_TIMEOUT_S"] = "1"
        self.hook("a", '[ "$1" = thaw ] && exit\ntrap "" TERM\nwhile :; do sleep 1; done\n')
        self.assertEqual(self.call("freeze"), 1)
        self.assertEqual(self.statuses(), [("a", "timeout")])

    def test_thaw_goes_on_after_a_failure(self):
        self.hook("10-a")
        self.hook("20-b", '[ "$1" = freeze ]\n')
        self.hook("30-c")
        self.assertEqual(self.call("freeze"), 0)
        self.called()
        self.assertEqual(self.call("thaw"), 1)
        self.assertEqual(self.called(), ["30-c thaw", "20-b thaw", "10-a thaw"])
        self.assertEqual(self.statuses(), [("30-c", "ok"), ("20-b", "failed"), ("10-a", "ok")])

    def test_odd_names(self):
        names = ["-n", "$(touch owned)", "'\"\\;&", "a b", "line\nbreak", "*", b"\xff\xc3\xa4"]
        for name in names:
            self.hook(name)
        self.assertEqual(self.call("freeze"), 0)
        self.assertEqual(self.called(), ["$(touch owned) freeze", "'\"\\;& freeze", "* freeze",
                                         "-n freeze", "a b freeze", "line", "break freeze",
                                         "\udcffä freeze"])
        self.assertEqual([name for name, _ in self.statuses()],
                         ["$(touch owned)", "'??;&", "*", "-n", "a b", "line?break", "???"])
        self.assertEqual(self.call("thaw"), 0)
        self.assertEqual(len(self.called()), len(names) + 1)

    def test_what_is_no_hook_is_left_out(self):
        for name in ("a~", "a.bak", "a.dpkg-old", "a.dpkg-dist", "a.orig", "a.sample", ".hidden"):
            self.hook(name)
        self.hook("data")
        (self.hooks / "data").chmod(0o644)
        (self.hooks / "folder").mkdir()
        (self.hooks / "gone").symlink_to("nowhere")
        for phase in ("freeze", "thaw"):
            self.assertEqual(self.call(phase), 0)
            self.assertEqual(self.report()["hooks"], [])
        self.assertEqual(self.called(), [])

    def test_hook_that_cannot_be_run_fails(self):
        (self.hooks / "a").write_text("#!/no/such/interpreter\n")
        (self.hooks / "a").chmod(0o755)
        self.assertEqual(self.call("freeze"), 1)
        self.assertEqual(self.statuses(), [("a", "failed")])

    def test_count_rises_with_each_freeze(self):
        self.assertEqual(self.call("thaw"), 0)  # of a freeze before a restart
        self.assertEqual(self.report()["count"], 0)
        for count in (1, 2, 3):
            self.hook("a", "exit 1\n" if count == 2 else "")
            self.call("freeze")
            self.assertEqual(self.report()["count"], count)
            self.call("thaw")
            self.assertEqual(self.report()["count"], count)
        (self.run_folder / "hooks.json").write_text("not a report")
        self.assertEqual(self.call("freeze"), 0)
        self.assertEqual(self.report()["count"], 1)
        self.assertEqual([path.name for path in sorted(self.run_folder.iterdir())],
                         ["hooks.json", "hooks.log"])

    def test_output_of_hooks_is_in_the_log(self):
        self.hook("a", "echo to output; echo to errors >&2\n")
        self.call("freeze")
        self.assertIn("to output\nto errors\n", self.log())
        self.assertIn("a freeze: ok\n", self.log())

    def test_without_a_place_for_report_and_log_hooks_run(self):
        self.environment["PLUMB_HOOK_RUN_DIR"] = "/dev/null/none"
        self.hook("a")
        self.assertEqual((self.call("freeze"), self.call("thaw")), (0, 0))
        self.assertEqual(self.called(), ["a freeze", "a thaw"])

    def test_wrong_argument(self):
        self.hook("a")
        self.assertEqual(self.call("melt"), 2)
        self.assertEqual(self.called(), [])
        self.assertFalse(self.run_folder.exists())

    def test_told_to_end_it_takes_back_what_was_done(self):
        os.mkfifo(self.folder / "go")
        os.mkfifo(self.folder / "here")
        self.hook("10-a")
        self.hook("20-b", '[ "$1" = thaw ] && exit\necho >"$FOLDER/here"\nread -r _ <"$FOLDER/go"\n')
        self.hook("30-c")
        with subprocess.Popen([self.dispatcher, "freeze"], env=self.environment) as process:
            (self.folder / "here").read_text()
            process.send_signal(signal.SIGTERM)
            (self.folder / "go").write_text("\n")
            self.assertEqual(process.wait(timeout=DEADLINE_S), 1)
        self.assertEqual(self.called(), ["10-a freeze", "20-b freeze", "20-b thaw", "10-a thaw"])


def as_nobody():
    """In front of a command: root becomes nobody, who can freeze nothing; others stay who they are."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def give_to_nobody(path):
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)


def wait_for_socket(path, process):
    """Until someone listens there; an AssertionError when the process has ended instead."""
    while process.poll() is None:
        with socket.socket(socket.AF_UNIX) as end:
            try:
                end.connect(str(path))
                return
            except OSError:
                os.sched_yield()
    raise AssertionError(f"{process.args} ended with {process.returncode}")


@unittest.skipIf(missing("qemu-ga"), str(missing("qemu-ga")))
class GuestAgentTest(HookTest):
    """The real qemu-ga, as a user who can freeze nothing, asked to freeze what is not there."""

    def setUp(self):
        super().setUp()
        give_to_nobody(self.folder)
        path = self.folder / "socket"
        agent = subprocess.Popen(
            [*as_nobody(), "qemu-ga", "-m", "unix-listen", "-p", path, "-t", self.folder,
             "-f", self.folder / "pid", f"-F{self.dispatcher}", "-l", self.folder / "agent.log"],
            env=self.environment)
        self.addCleanup(agent.wait)
        self.addCleanup(agent.kill)  # told to end between two connections, it may not hear it
        wait_for_socket(path, agent)
        self.peer = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.peer.close)
        self.peer.settimeout(DEADLINE_S)
        self.peer.connect(str(path))
        self.answers = self.peer.makefile("r", encoding="utf-8")
        self.addCleanup(self.answers.close)

    def ask(self, command, **arguments):
        request = {"execute": command, "arguments": arguments}
        self.peer.sendall(json.dumps(request).encode() + b"\n")
        return json.loads(self.answers.readline())

    def test_freeze_and_thaw_run_the_hooks_and_the_report_can_be_read(self):
        self.hook("a")
        self.assertEqual(self.ask("guest-fsfreeze-freeze-list", mountpoints=["/none"]),
                         {"return": 0})
        self.assertIn("return", self.ask("guest-fsfreeze-thaw"))
        self.assertEqual(self.called(), ["a freeze", "a thaw"])
        handle = self.ask("guest-file-open", path=str(self.run_folder / "hooks.json"))["return"]
        read = self.ask("guest-file-read", handle=handle, count=65536)["return"]
        self.ask("guest-file-close", handle=handle)
        self.assertEqual(json.loads(base64.b64decode(read["buf-b64"])), {
            "version": 1, "count": 1, "phase": "thaw", "hooks": [{"name": "a", "status": "ok"}]})

    def test_freeze_fails_with_a_hook_and_asks_for_no_thaw(self):
        self.hook("a", '[ "$1" = thaw ]\n')
        answer = self.ask("guest-fsfreeze-freeze-list", mountpoints=["/none"])
        self.assertIn("hook has failed with status 1", answer["error"]["desc"])
        self.assertEqual(self.ask("guest-fsfreeze-status"), {"return": "thawed"})
        self.assertEqual(self.called(), ["a freeze", "a thaw"])


@unittest.skipIf(missing(POSTGRES / "postgres"), str(missing(POSTGRES / "postgres")))
class PostgresqlTest(HookTest):
    PORTS = (54321, 54322)

    def setUp(self):
        super().setUp()
        shutil.copy(HOOKS / "fsfreeze-hook.d/postgresql", self.hooks)
        self.sockets = self.folder / "sockets"
        self.sockets.mkdir()
        give_to_nobody(self.folder)
        give_to_nobody(self.sockets)
        self.environment["PLUMB_POSTGRESQL_SOCKETS"] = str(self.sockets)
        self.done([POSTGRES / "initdb", "-D", self.data(self.PORTS[0]), "--auth=peer", "--no-sync",
                   "--locale=C", "--encoding=UTF8"])
        self.done(["cp", "-r", self.data(self.PORTS[0]), self.data(self.PORTS[1])])
        self.servers = {port: self.start(port) for port in self.PORTS}

    def done(self, command):
        done = subprocess.run([*as_nobody(), *map(str, command)], cwd="/", capture_output=True,
                              text=True, timeout=DEADLINE_S, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout.strip()

    def data(self, port):
        return self.folder / f"data-{port}"

    def start(self, port):
        server = subprocess.Popen(
            [*as_nobody(), POSTGRES / "postgres", "-D", self.data(port), "-k", self.sockets,
             "-p", str(port), "-h", "", "-c", "shared_buffers=1MB"],
            cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.send_signal, signal.SIGQUIT)
        self.addCleanup(server.send_signal, signal.SIGCONT)
        wait_for_socket(self.sockets / f".s.PGSQL.{port}", server)
        # It listens before it serves.
        while subprocess.run([POSTGRES / "pg_isready", "-q", "-h", self.sockets, "-p", str(port)],
                             check=False).returncode != 0:
            self.assertIsNone(server.poll())
        return server

    def ask(self, port, query):
        return self.done([POSTGRES / "psql", "-XAtq", "-h", self.sockets, "-p", str(port),
                          "-d", "postgres", "-c", query])

    def has_checkpoint_of(self, port, written):
        """Whether there was a checkpoint of what was written."""
        return self.ask(port, f"SELECT redo_lsn >= '{written}' FROM pg_control_checkpoint()") == "t"

    def write(self, port):
        self.ask(port, "CREATE TABLE IF NOT EXISTS t (i int); INSERT INTO t VALUES (1)")
        return self.ask(port, "SELECT pg_current_wal_insert_lsn()")

    def test_every_cluster_has_a_checkpoint(self):
        written = {port: self.write(port) for port in self.PORTS}
        for port in self.PORTS:
            self.assertFalse(self.has_checkpoint_of(port, written[port]))
        self.assertEqual(self.call("freeze"), 0, self.log())
        for port in self.PORTS:
            self.assertTrue(self.has_checkpoint_of(port, written[port]))
        self.assertEqual(self.call("thaw"), 0, self.log())
        self.assertEqual(self.statuses(), [("postgresql", "ok")])

    def test_cluster_that_does_not_let_the_hook_in_fails_the_freeze(self):
        (self.data(self.PORTS[1]) / "pg_hba.conf").write_text("local all all reject\n")
        self.servers[self.PORTS[1]].send_signal(signal.SIGHUP)
        # Until the server has read it: each new connection may be under the old rules.
        while subprocess.run([*as_nobody(), POSTGRES / "psql", "-Xqw", "-h", self.sockets,
                              "-p", str(self.PORTS[1]), "-d", "postgres", "-c", "SELECT 1"],
                             cwd="/", capture_output=True, timeout=DEADLINE_S,
                             check=False).returncode == 0:
            os.sched_yield()
        self.assertEqual(self.call("freeze"), 1)
        self.assertEqual(self.statuses(), [("postgresql", "failed")])

    def test_cluster_that_hangs_fails_the_freeze(self):
        self.environment["PLUMB_HOOK_TIMEOUT_S"] = "1"
        self.servers[self.PORTS[0]].send_signal(signal.SIGSTOP)
        self.assertEqual(self.call("freeze"), 1)
        self.assertEqual(self.statuses(), [("postgresql", "timeout")])

    def test_cluster_that_is_down_is_left_out(self):
        for port in self.PORTS:
            self.servers[port].kill()  # leaves its socket
            self.servers[port].wait()
        self.assertTrue((self.sockets / f".s.PGSQL.{self.PORTS[0]}").is_socket())
        self.assertEqual(self.call("freeze"), 0, self.log())


@unittest.skipIf(missing("mariadbd", "mariadb", "mariadb-install-db"),
                 str(missing("mariadbd", "mariadb", "mariadb-install-db")))
class MariadbTest(HookTest):
    def setUp(self):
        super().setUp()
        shutil.copy(HOOKS / "fsfreeze-hook.d/mariadb", self.hooks)
        self.sockets = self.folder / "sockets"
        self.sockets.mkdir()
        self.data = self.folder / "data"
        self.data.mkdir()
        give_to_nobody(self.sockets)
        give_to_nobody(self.data)
        self.environment["PLUMB_MARIADB_SOCKETS"] = str(self.sockets)
        self.environment["PLUMB_MARIADB_DEFAULTS"] = str(self.folder / "client.cnf")
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True)
        subprocess.run([*as_nobody(), "mariadb-install-db", "--no-defaults",
                        f"--datadir={self.data}", "--auth-root-authentication-method=socket",
                        f"--auth-root-socket-user={user.stdout.strip()}", "--skip-test-db"],
                       stdout=subprocess.DEVNULL, check=True, timeout=DEADLINE_S)
        self.server = self.start()
        self.ask("CREATE DATABASE d; CREATE TABLE d.t (i int) ENGINE=MyISAM")

    def start(self):
        path = self.sockets / "a.sock"
        server = subprocess.Popen(
            [*as_nobody(), "mariadbd", "--no-defaults", f"--datadir={self.data}",
             f"--socket={path}", "--skip-networking", f"--pid-file={self.data}/pid",
             "--innodb-buffer-pool-size=16M"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        wait_for_socket(path, server)
        return server

    def client(self, query):
        return ["mariadb", "--no-defaults", "--batch", "--skip-column-names",
                f"--socket={self.sockets}/a.sock", f"--execute={query}"]

    def ask(self, query):
        done = subprocess.run(self.client(query), capture_output=True, text=True,
                              timeout=DEADLINE_S, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.split()

    def sessions(self, what, where):
        return self.ask(f"SELECT {what} FROM information_schema.processlist WHERE {where}")

    def wait_for_state(self, state, client):
        """Until a session is in that state; a failure when `client` ends without."""
        while not self.sessions("id", f"state = '{state}'"):
            self.assertIsNone(client.poll(), f"it never was in the state {state}")

    def test_writes_wait_from_freeze_to_thaw(self):
        self.assertEqual(self.call("freeze"), 0, self.log())
        with subprocess.Popen(self.client("INSERT INTO d.t VALUES (1)")) as insert:
            self.wait_for_state("Waiting for backup lock", insert)
            self.assertEqual(self.ask("SELECT COUNT(*) FROM d.t"), ["0"])
            self.assertEqual(self.call("thaw"), 0, self.log())
            self.assertEqual(insert.wait(timeout=DEADLINE_S), 0)
        self.assertEqual(self.ask("SELECT COUNT(*) FROM d.t"), ["1"])
        self.assertEqual(self.call("thaw"), 0, self.log())  # once more does no harm
        self.assertFalse((self.run_folder / "mariadb-hook").exists())

    def test_without_a_thaw_the_lock_ends_by_itself(self):
        self.environment["PLUMB_MARIADB_HOLD_S"] = "1"
        self.assertEqual(self.call("freeze"), 0, self.log())
        self.ask("INSERT INTO d.t VALUES (1)")  # waits for it
        self.assertEqual(self.call("thaw"), 1)
        self.assertEqual(self.statuses(), [("mariadb", "failed")])

    def test_lock_that_was_lost_fails_the_thaw(self):
        self.assertEqual(self.call("freeze"), 0, self.log())
        [session] = self.sessions("id", "command = 'Sleep'")
        self.ask(f"KILL CONNECTION {session}")
        self.assertEqual(self.call("thaw"), 1)
        self.assertEqual(self.statuses(), [("mariadb", "failed")])

    def test_lock_that_is_not_to_be_had_in_time_fails_the_freeze(self):
        self.environment["PLUMB_HOOK_TIMEOUT_S"] = "1"
        held = "BACKUP STAGE START; BACKUP STAGE BLOCK_COMMIT; SELECT SLEEP(1000)"
        with subprocess.Popen(self.client(held), stdout=subprocess.DEVNULL) as other:
            self.wait_for_state("User sleep", other)
            self.assertEqual(self.call("freeze"), 1)
            # The server notices within a second that the hook's client has gone.
            deadline = time.monotonic() + DEADLINE_S
            while self.sessions("id", "state = 'Waiting for backup lock'"):
                self.assertLess(time.monotonic(), deadline, "the hook's session still waits")
            other.kill()

    def test_server_that_does_not_let_the_hook_in_fails_the_freeze(self):
        (self.folder / "client.cnf").write_text("[client]\nuser=nobody-there\npassword=wrong\n")
        self.assertEqual(self.call("freeze"), 1)
        self.assertIn("Access denied for user 'nobody-there'", self.log())

    def test_credentials_come_from_a_file(self):
        self.ask("CREATE USER hook@localhost IDENTIFIED BY 'a secret'; "
                 "GRANT RELOAD ON *.* TO hook@localhost")
        (self.folder / "client.cnf").write_text("[client]\nuser=hook\npassword='a secret'\n")
        self.assertEqual(self.call("freeze"), 0, self.log())
        self.assertEqual(self.sessions("user", "command = 'Sleep'"), ["hook"])
        for process in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                self.assertNotIn(b"a secret", process.read_bytes())
            except OSError:
                pass  # it has ended
        self.assertEqual(self.call("thaw"), 0, self.log())

    def test_server_that_is_down_is_left_out(self):
        self.server.kill()  # leaves its socket
        self.server.wait()
        self.assertTrue((self.sockets / "a.sock").is_socket())
        self.assertEqual(self.call("freeze"), 0, self.log())


if __name__ == "__main__":
    main()
