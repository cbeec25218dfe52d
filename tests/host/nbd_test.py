#!/usr/bin/env python3
"""Snapshots' disks served by `plumb nbd serve`, to nbdcopy, nbdinfo and qemu-img."""
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import unittest

from plumb_process import DEADLINE_S, PROBE, SANITIZED, main
from snapshot_test import MIB, SnapshotTest


def clients_missing():
    """Why there is nobody to serve to, or None."""
    for program in ("nbdcopy", "nbdinfo", "qemu-img"):
        if shutil.which(program) is None:
            return f"SKIPPED: {program} is not installed"
    return None


@unittest.skipIf(clients_missing(), str(clients_missing()))
class NbdTest(SnapshotTest):
    def setUp(self):
        super().setUp()
        self.socket = self.folder / "nbd.sock"
        self.uri = f"nbd+unix:///?socket={self.socket}"
        self.servers = []

    def tearDown(self):
        for server in self.servers:
            server.terminate()
            server.wait(timeout=DEADLINE_S)
        super().tearDown()

    def snapshot(self):
        """A snapshot of the VM "a": the name of its disk."""
        done = self.create("--quiesce", "crash", "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)["id"] + "/data"

    def start_vm_that_keeps(self):
        """A VM that writes without end to an image that nothing but the VM can copy."""
        image = self.image("a.img", 4 * MIB)
        process = self.start("run", "--name", "a", "--memory", "32M", "--kernel", PROBE, "--cmdline",
                             "write count=100000000 qd=4", "--disk", f"{image},id=data")
        self.wait_for_line(process, "BEGIN")
        return process

    def serve(self, disk):
        server = self.start("nbd", "serve", disk, "--socket", self.socket)
        self.servers.append(server)
        self.wait_for_line(server, f"{disk} is served at nbd+unix:///{disk}?socket={self.socket}")
        return server

    def client(self, *command):
        return subprocess.run([*map(str, command)], capture_output=True, timeout=DEADLINE_S, check=False)

    def content(self):
        """All that is served, as nbdcopy gets it, by several connections."""
        done = self.client("nbdcopy", self.uri, "-")
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        return done.stdout

    def end(self, server, number=signal.SIGTERM):
        server.send_signal(number)
        self.assertEqual(server.wait(timeout=DEADLINE_S), 0)
        self.assertEqual(server.stderr.read(), "")
        self.assertFalse(self.socket.exists())

    def test_a_copy_in_an_array_is_served(self):
        self.start_vm()
        disk = self.snapshot()
        (copy,) = self.copies()
        # Without our lock, which QEMU takes for a writer's.
        plain = self.folder / "plain.img"
        plain.write_bytes(copy.read_bytes())
        server = self.serve(disk)
        self.assertEqual(stat.S_IMODE(self.socket.stat().st_mode), 0o600)
        self.assertEqual(self.content(), copy.read_bytes())
        self.assert_writes_go_on()
        compared = self.client("qemu-img", "compare", "-f", "raw", "-F", "raw", self.uri, plain)
        self.assertEqual(compared.returncode, 0, compared.stdout + compared.stderr)
        (export,) = json.loads(self.client("nbdinfo", "--list", "--json", self.uri).stdout)["exports"]
        self.assertEqual((export["export-name"], export["export-size"], export["is_read_only"], export["can_multi_conn"]),
                         (disk, 4 * MIB, True, True))
        self.end(server)

    def test_what_a_vm_keeps_is_served_while_it_writes(self):
        process = self.start_vm_that_keeps()
        disk = self.snapshot()
        self.assertIn("copy-before-write", self.plumb("snapshot", "show", disk.split("/")[0]).stdout)
        server = self.serve(disk)
        first = self.content()
        self.assert_writes_go_on()
        self.assertEqual(self.content(), first)
        # From here on another overlay has what is overwritten.
        second = self.snapshot()
        self.assert_writes_go_on()
        self.assertEqual(self.content(), first)
        self.end(server, signal.SIGINT)

        self.assertEqual(self.plumb("kill", "a").returncode, 0)
        process.wait(timeout=DEADLINE_S)
        server = self.serve(disk)
        self.assertEqual(self.content(), first)
        self.end(server, signal.SIGHUP)
        self.assertEqual(self.plumb("snapshot", "delete", second.split("/")[0]).returncode, 0)

    def test_nothing_is_written_by_it(self):
        self.start_vm()
        disk = self.snapshot()
        (copy,) = self.copies()
        before = copy.read_bytes()
        self.serve(disk)
        written = self.client("qemu-io", "-f", "raw", "-c", "write -P 1 0 4096", self.uri)
        self.assertNotEqual(written.returncode, 0)
        self.assertEqual(self.content(), before)

    def test_other_names_are_refused(self):
        self.start_vm()
        self.serve(self.snapshot())
        done = self.client("nbdinfo", f"nbd+unix:///other?socket={self.socket}")
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(len(self.content()), 4 * MIB)

    def test_all_disks_of_a_groups_snapshot_are_served(self):
        self.start_vm("a")
        self.start_vm("b")
        done = self.plumb("snapshot", "create", "--group", "shop", "a", "b", "--quiesce", "crash", "--json")
        made = json.loads(done.stdout)
        copies = {f"{made['id']}/{member['vm']}/data": member["disks"][0]["snapshot_id"] for member in made["members"]}
        server = self.start("nbd", "serve", made["id"], "--socket", self.socket)
        self.servers.append(server)
        for name in copies:
            self.wait_for_line(server, f"{name} is served at nbd+unix:///{name}?socket={self.socket}")
        listed = json.loads(self.client("nbdinfo", "--list", "--json", self.uri).stdout)["exports"]
        self.assertEqual({one["export-name"] for one in listed}, set(copies))
        for name, copy in copies.items():
            self.uri = f"nbd+unix:///{name}?socket={self.socket}"
            self.assertEqual(self.content(), pathlib.Path(copy).read_bytes())
        self.end(server)

    def test_what_cannot_be_served_is_refused_in_a_sentence(self):
        self.assert_refused(self.plumb("nbd", "serve", "none/data", "--socket", self.socket), 10, "none")
        self.assert_refused(self.plumb("nbd", "serve", "data", "--socket", self.socket), 10, "no snapshot 'data'")
        self.assert_refused(self.plumb("nbd", "serve", "a/b"), 2, "either --socket or --listen")
        self.start_vm()
        disk = self.snapshot()
        nowhere = self.folder / "nowhere/nbd.sock"
        self.assert_refused(self.plumb("nbd", "serve", disk, "--socket", nowhere), 1, str(nowhere))
        self.assert_refused(self.plumb("nbd", "serve", disk.replace("/data", "/root"), "--socket", self.socket), 10,
                            "/root")
        self.assertFalse(self.socket.exists())

    @unittest.skipIf(SANITIZED, "SKIPPED: sanitizers need system calls of their own")
    def test_it_may_do_no_more_than_it_needs(self):
        self.start_vm()
        server = self.serve(self.snapshot())
        status = dict(line.split(":\t", 1) for line in
                      pathlib.Path(f"/proc/{server.pid}/status").read_text().splitlines() if ":\t" in line)
        self.assertEqual((status["CapEff"], status["CapPrm"], status["NoNewPrivs"], status["Seccomp"]),
                         ("0" * 16, "0" * 16, "1", "2"))
        self.assertEqual(len(os.listdir(f"/proc/{server.pid}/task")), 2)


if __name__ == "__main__":
    main()
