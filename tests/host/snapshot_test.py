#!/usr/bin/env python3
"""Snapshots of VMs whose images are on a file system with reflinks. The probe guest has no agent, so all are of grade
crash here: what freezing adds is the lab's (snapshot-fs and its kin)."""
import json
import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess
import tomllib
import unittest

from plumb_process import DEADLINE_S, PROBE, PlumbTest, kvm_missing, main

MIB = 1 << 20
PHASES = ("planned", "prepared", "frozen", "held", "copied", "released", "thawed", "whole",
          "recorded")
# Steps after which the copies stay, whoever dies.
LATE = ("recorded",)


def reflinks_missing():
    """Why no file system with reflinks can be made here, or None."""
    if os.geteuid() != 0:
        return "SKIPPED: only root mounts file systems"
    if shutil.which("mkfs.xfs") is None:
        return "SKIPPED: mkfs.xfs is not installed"
    return None


@unittest.skipIf(kvm_missing() or reflinks_missing(), str(kvm_missing() or reflinks_missing()))
class SnapshotTest(PlumbTest):
    def setUp(self):
        super().setUp()
        self.environment["PLUMB_CONFIG"] = str(self.folder / "plumb.toml")
        disk = self.folder / "xfs.img"
        with open(disk, "wb") as file:
            file.truncate(512 * MIB)
        self.images = self.folder / "images"
        self.images.mkdir()
        subprocess.run(["mkfs.xfs", "-q", disk], check=True, timeout=DEADLINE_S)
        subprocess.run(["mount", "-o", "loop", disk, self.images], check=True, timeout=DEADLINE_S)

    def tearDown(self):
        for vm in self.vms():
            self.plumb("kill", vm["name"])
        for process in self.started:
            process.wait(timeout=DEADLINE_S)
        # The kernel closes the files of a ring some time after its process has been killed.
        while subprocess.run(["umount", self.images], stderr=subprocess.DEVNULL, timeout=DEADLINE_S,
                             check=False).returncode != 0:
            pass
        super().tearDown()

    def start_vm(self, name="a"):
        """A VM that writes to its disk without end."""
        image = self.image(f"images/{name}.img", 4 * MIB)
        process = self.start("run", "--name", name, "--memory", "32M", "--kernel", PROBE, "--cmdline",
                             "write count=100000000 qd=4", "--disk", f"{image},id=data")
        self.wait_for_line(process, "BEGIN")
        return process

    def create(self, *arguments, vm="a"):
        return self.plumb("snapshot", "create", vm, *arguments)

    def snapshots(self):
        done = self.plumb("snapshot", "list", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def copies(self):
        return sorted(self.images.glob(".plumb-snapshots/*"))

    def writes(self, name="a"):
        disks = json.loads(self.plumb("disk", "list", name, "--json").stdout)
        return disks[0]["statistics"]["write"]["requests"]

    def assert_writes_go_on(self, name="a"):
        before = self.writes(name)
        while self.writes(name) == before:
            pass

    def assert_nothing_left(self):
        self.assertEqual(self.plumb("snapshot", "recover").returncode, 0)
        self.assertEqual((self.snapshots(), self.copies()), ([], []))
        self.assertEqual(list((self.folder / "state/snapshots/journals").iterdir()), [])

    def hook(self, phase, script):
        hooks = self.folder / "hooks"
        shutil.rmtree(hooks, ignore_errors=True)
        hooks.mkdir()
        program = hooks / phase
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return "--hooks", hooks


class CreateTest(SnapshotTest):
    def test_a_writing_vm_is_copied_and_goes_on(self):
        self.start_vm()
        done = self.create("--quiesce", "crash", "--note", "one", "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        made = json.loads(done.stdout)
        member = made["members"][0]
        self.assertEqual((member["vm"], member["grade"], member["reason"]), ("a", "crash", ""))
        self.assertGreater(member["held_us"], 0)
        copy = pathlib.Path(member["disks"][0]["snapshot_id"])
        self.assertEqual(copy.stat().st_size, 4 * MIB)
        self.assert_writes_go_on()
        content = copy.read_bytes()
        self.assert_writes_go_on()
        self.assertEqual(copy.read_bytes(), content)

        self.assertEqual(self.create("--quiesce", "crash").returncode, 0)
        first, second = self.snapshots()
        self.assertEqual((first["id"], first["note"]), (made["id"], "one"))
        self.assertEqual(second["members"][0]["parent"], first["id"])
        self.assertIn(first["id"], self.plumb("snapshot", "list", "a").stdout)
        self.assertIn("grade     crash", self.plumb("snapshot", "show", first["id"]).stdout)
        self.assertEqual(self.plumb("snapshot", "delete", first["id"]).returncode, 0)
        self.assertEqual([one["id"] for one in self.snapshots()], [second["id"]])
        self.assertEqual(len(self.copies()), 1)
        self.assert_refused(self.plumb("snapshot", "delete", first["id"]), 10, "no snapshot")

    def test_a_group_is_one_snapshot(self):
        self.start_vm("a")
        self.start_vm("b")
        done = self.plumb("snapshot", "create", "--group", "shop", "a", "b", "--quiesce", "crash")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        (made,) = self.snapshots()
        self.assertTrue(made["id"].startswith("shop-"))
        self.assertEqual([one["vm"] for one in made["members"]], ["a", "b"])
        self.assertEqual(self.plumb("snapshot", "delete", made["id"]).returncode, 0)
        self.assert_nothing_left()

    def test_what_is_weaker_than_asked_is_said(self):
        self.start_vm()
        done = self.create("--agent-timeout", "0.2")
        self.assertEqual(done.returncode, 3)
        self.assertIn("VM 'a' is of grade crash only, not fs: no guest agent answers", done.stderr)
        self.assertEqual(self.snapshots()[0]["members"][0]["grade"], "crash")
        self.assert_refused(self.create("--agent-timeout", "0.2", "--require", "fs"), 15,
                            "not fs as required")
        self.assertEqual(len(self.snapshots()), 1)

    def test_a_dry_run_changes_nothing(self):
        self.start_vm()
        done = self.create("--quiesce", "crash", "--dry-run")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("hold the disks of a", done.stdout)
        self.assertIn(f"copy disk data of a ({self.images}/a.img)", done.stdout)
        self.assert_nothing_left()

    def test_what_cannot_be_is_refused_and_leaves_nothing(self):
        self.start_vm()
        self.assert_refused(self.create(vm="b"), 10, "plumb: no VM 'b' runs here")
        self.assert_refused(self.create("--quiesce", "perfect"), 2, "'perfect' is no grade")
        self.assert_refused(self.create("--quiesce", "crash", "--require", "fs"), 2, "asks for crash")
        self.assert_refused(self.create("b"), 2, "--group NAME")
        self.assert_refused(self.plumb("snapshot", "create", "a", "--group", "../x"), 2, "'../x'")
        os.rename(self.images / "a.img", self.images / "old.img")
        self.assert_refused(self.create("--quiesce", "crash"), 1, "a.img is not there")
        self.image("images/a.img", 4 * MIB)
        self.assert_refused(self.create("--quiesce", "crash"), 1, "another file than the one")
        self.assert_nothing_left()

    def test_arrays_of_the_configuration_are_listed_and_checked(self):
        pathlib.Path(self.environment["PLUMB_CONFIG"]).write_text(
            f'[[array]]\nname = "images"\nprovider = "reflink"\nfolder = "{self.images}"\n')
        self.start_vm()
        self.assertEqual(self.create("--quiesce", "crash").returncode, 0)
        self.assertEqual(self.snapshots()[0]["members"][0]["disks"][0]["array"], "images")
        self.assertEqual(self.plumb("array", "check").returncode, 0)
        (listed,) = json.loads(self.plumb("array", "list", "--json").stdout)
        self.assertEqual((listed["name"], listed["error"]), ("images", ""))
        self.assert_refused(self.plumb("array", "check", "imags"), 10, "did you mean 'images'")

    def test_a_snapshot_is_attached_to_another_vm_for_reading(self):
        self.start_vm()
        self.create("--quiesce", "crash")
        (made,) = self.snapshots()
        disk = f"{made['id']}/data"
        reader = self.start("run", "--name", "reader", "--memory", "32M", "--kernel", PROBE,
                            "--cmdline", "spin")
        self.wait_for_line(reader, "spinning")
        attach = ("disk", "attach", "reader", "old", "--snapshot")
        self.assert_refused(self.plumb(*attach, disk), 2, "add --read-only")
        self.assert_refused(self.plumb(*attach, made["id"] + "/nothing", "--read-only"), 10,
                            f"no disk '{made['id']}/nothing'")
        self.assert_refused(self.plumb(*attach, "data", "--read-only"), 2, "write ID/DISK")
        done = self.plumb(*attach, disk, "--read-only")
        self.assertEqual(done.returncode, 0, done.stderr)
        (attached,) = json.loads(self.plumb("disk", "list", "reader", "--json").stdout)
        self.assertEqual((attached["id"], attached["read_only"], attached["size_bytes"]),
                         ("old", True, 4 * MIB))
        self.assertEqual(self.plumb("snapshot", "map", disk).stdout, attached["device"] + "\n")
        # It stays as long as it is used.
        self.assert_refused(self.plumb("snapshot", "delete", made["id"]), 11, "in use by VM reader")
        self.assertEqual([one["id"] for one in self.snapshots()], [made["id"]])
        self.plumb("kill", "reader")
        reader.wait(timeout=DEADLINE_S)
        self.assertEqual(self.plumb("snapshot", "unmap", disk).returncode, 0)
        # The kernel may still be closing the file.
        while self.plumb("snapshot", "delete", made["id"]).returncode != 0:
            pass
        self.assert_nothing_left()


class DeathTest(SnapshotTest):
    def test_the_caller_is_killed_at_each_step(self):
        self.start_vm()
        for phase in PHASES:
            with self.subTest(phase):
                done = self.create("--quiesce", "crash", *self.hook(phase, "kill -9 $PPID"))
                self.assertEqual(done.returncode, -signal.SIGKILL)
                self.assert_writes_go_on()
                if phase in LATE:
                    self.plumb("snapshot", "delete", self.snapshots()[0]["id"])
                self.assert_nothing_left()
                self.assertNotIn("freeze", self.vms()[0])

    def test_the_caller_is_interrupted_at_each_step(self):
        self.start_vm()
        for phase in ("planned", "held", "copied"):
            with self.subTest(phase):
                done = self.create("--quiesce", "crash", *self.hook(phase, "kill -INT $PPID"))
                # The signal is seen at the next step; after the last one, the snapshot is whole.
                if phase == "copied":
                    self.assertEqual(done.returncode, 0, done.stderr)
                    self.plumb("snapshot", "delete", self.snapshots()[0]["id"])
                else:
                    self.assert_refused(done, 130, "interrupted")
                self.assert_writes_go_on()
                self.assert_nothing_left()

    def test_the_vm_is_killed_at_each_step(self):
        for phase in PHASES:
            with self.subTest(phase):
                process = self.start_vm()
                done = self.create("--quiesce", "crash", *self.hook(phase, f"kill -9 {process.pid}"))
                process.wait(timeout=DEADLINE_S)
                whole = PHASES.index(phase) >= PHASES.index("released")
                self.assertEqual(done.returncode, 0 if whole else 1, done.stderr)
                if whole:
                    self.plumb("snapshot", "delete", self.snapshots()[0]["id"])
                self.assert_nothing_left()
                os.remove(self.images / "a.img")

    def test_a_hook_that_fails_ends_it(self):
        self.start_vm()
        done = self.create("--quiesce", "crash", *self.hook("held", "echo no room >&2; exit 7"))
        self.assert_refused(done, 1, "hooks/held failed with exit status 7: no room")
        self.assert_writes_go_on()
        self.assert_nothing_left()
        done = self.create("--quiesce", "crash", *self.hook("whole", "exit 1"))
        self.assertEqual(done.returncode, 3)
        self.assertEqual(len(self.snapshots()), 1)


class TemplateTest(SnapshotTest):
    def make_template(self, name="probe"):
        self.start_vm()
        self.succeeds(self.create("--quiesce", "crash"))
        self.snapshot = self.snapshots()[0]
        self.succeeds(self.plumb("template", "create", name, "--from", self.snapshot["id"]))

    def succeeds(self, done):
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done

    def templates(self):
        return json.loads(self.succeeds(self.plumb("template", "list", "--json")).stdout)

    def deploy(self, template, vm):
        file = self.folder / f"{vm}.toml"
        done = self.plumb("template", "deploy", template, vm, "--file", file)
        return done, file

    def definition(self, file):
        with open(file, "rb") as text:
            return tomllib.load(text)

    def test_a_template_goes_out_and_in_and_becomes_three_vms_that_run_at_once(self):
        self.make_template()
        copy = pathlib.Path(self.snapshot["members"][0]["disks"][0]["snapshot_id"]).read_bytes()
        out = self.folder / "probe.template"
        self.succeeds(self.plumb("template", "export", "probe", out))
        self.succeeds(self.plumb("template", "delete", "probe"))
        self.succeeds(self.plumb("snapshot", "delete", self.snapshot["id"]))
        self.succeeds(self.plumb("template", "import", out, "again", "--folder", self.images))
        self.assertEqual([one["id"] for one in self.templates()], ["again"])

        seen = {"uuid": set(), "generation-id": set(), "image": set(), "serial": set()}
        for vm in ("one", "two", "three"):
            done, file = self.deploy("again", vm)
            self.succeeds(done)
            definition = self.definition(file)
            (disk,) = definition["disk"]
            self.assertEqual(pathlib.Path(disk["image"]).read_bytes(), copy)
            for key, values in seen.items():
                values.add({**definition, **disk}[key])
            process = self.start("run", file)
            self.wait_for_line(process, "BEGIN")
        self.assertEqual([len(values) for values in seen.values()], [3, 3, 3, 3])
        running = {vm["name"]: vm for vm in self.vms()}
        self.assertEqual(sorted(running), ["a", "one", "three", "two"])
        self.assertEqual(len({vm["uuid"] for vm in running.values()}), 4)

        # Not twice from the same disks.
        self.assert_refused(self.plumb("run", file, "--name", "thief"), 11, "in use by VM three")
        self.succeeds(self.plumb("template", "delete", "again"))
        self.assert_writes_go_on("two")
        self.assertEqual(self.copies(), [])

    def test_templates_that_cannot_be_are_refused_and_leave_nothing(self):
        self.make_template()
        files = sorted(self.images.rglob("*"))
        self.assert_refused(self.plumb("template", "create", "probe", "--from", self.snapshot["id"]),
                            2, "'probe' already")
        self.assert_refused(self.plumb("template", "create", "x", "--from", "nothing"), 10,
                            "no snapshot 'nothing'")
        self.assert_refused(self.plumb("template", "create", "../x", "--from", self.snapshot["id"]),
                            2, "'../x'")
        self.assert_refused(self.deploy("nothing", "new")[0], 10, "no template 'nothing'")
        self.assert_refused(self.deploy("probe", "bad name")[0], 2, "bad name")
        (self.folder / "taken.toml").write_text("mine")
        self.assert_refused(self.deploy("probe", "taken")[0], 2, "there already")
        self.assert_refused(self.plumb("template", "deploy", "probe", "new", "--file",
                                       self.folder / "no/new.toml"), 1, "no/new.toml")
        self.assertEqual((self.folder / "taken.toml").read_text(), "mine")
        self.assertEqual(sorted(self.images.rglob("*")), files)

    def test_an_exported_file_that_is_broken_is_refused_and_leaves_nothing(self):
        self.make_template()
        good = self.folder / "good"
        self.succeeds(self.plumb("template", "export", "probe", good))
        content = good.read_bytes()
        self.assert_refused(self.plumb("template", "export", "probe", good), 1, "File exists")
        files = sorted(self.images.rglob("*"))
        bad = self.folder / "bad"
        broken = [b"", b"x", content[:10], content[:20], content[:-1], content[:-24],
                  content[:len(content) // 2]]
        for at in (0, 5, 18, 22, 40, len(content) - 1, len(content) - 30, 1 + len(content) // 2):
            broken.append(content[:at] + bytes([content[at] ^ 1]) + content[at + 1:])
        for number, one in enumerate(broken):
            with self.subTest(number):
                bad.write_bytes(one)
                done = self.plumb("template", "import", bad, "bad", "--folder", self.images)
                self.assert_refused(done, 1, str(bad))
                self.assertEqual(sorted(self.images.rglob("*")), files)
        self.assertEqual(len(self.templates()), 1)


class LeaseTest(SnapshotTest):
    def lease(self):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(str(self.folder / "run/a/lease.sock"))
        connection.settimeout(DEADLINE_S)
        self.addCleanup(connection.close)
        return connection

    def ask(self, connection, **request):
        connection.send(json.dumps(request).encode())
        return json.loads(connection.recv(65536))

    def test_one_has_the_disks_at_a_time_and_loses_them_with_his_connection(self):
        self.start_vm()
        mode = os.stat(self.folder / "run/a/lease.sock").st_mode
        self.assertEqual(stat.S_IMODE(mode), 0o600)
        owner = self.lease()
        self.assertIn("ok", self.ask(owner, do="begin", owner="a test"))
        self.assertIn("ok", self.ask(owner, do="hold", limit_ms=600000))
        held = self.writes()
        self.assertEqual(self.vms()[0]["freeze"]["held"], True)
        self.assert_refused(self.create("--quiesce", "crash"), 11, "a test has the guest's disks")
        self.assertEqual(self.writes(), held)
        owner.close()
        self.assert_writes_go_on()

    def test_a_hold_ends_with_its_limit(self):
        self.start_vm()
        owner = self.lease()
        self.ask(owner, do="begin", owner="a test")
        # On a slow host the disk may not be quiet within the limit.
        while "ok" not in self.ask(owner, do="hold", limit_ms=300):
            pass
        self.assert_writes_go_on()
        self.assertIn("longer than was agreed", self.ask(owner, do="release")["error"])

    def test_what_is_no_request_does_no_harm(self):
        self.start_vm()
        for message in (b"x", b"[]", b"{", b"null", b'{"do":7}', b'{"do":"hold"}', b"\xff" * 60000,
                        b'{"do":"hold","limit_ms":-1}', b'{"do":"begin","owner":7}'):
            connection = self.lease()
            connection.send(message)
            connection.recv(65536)
            connection.close()
        crowd = [self.lease() for _ in range(8)]
        self.assertEqual(self.lease().recv(1), b"")  # one too many
        self.assert_writes_go_on()
        for one in crowd:
            one.close()
        self.assertEqual(self.create("--quiesce", "crash").returncode, 0)


if __name__ == "__main__":
    main()
