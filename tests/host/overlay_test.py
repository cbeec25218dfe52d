#!/usr/bin/env python3
"""Snapshots that the VM keeps itself, by copy-before-write: its image is on a file system without reflinks."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import unittest

from plumb_process import DEADLINE_S, PROBE, PlumbTest, kvm_missing, main

MIB = 1 << 20
PHASES = ("planned", "prepared", "frozen", "held", "copied", "released", "thawed", "whole", "recorded")


@unittest.skipIf(kvm_missing(), str(kvm_missing()))
class OverlayTest(PlumbTest):
    def setUp(self):
        super().setUp()
        self.environment["PLUMB_CONFIG"] = str(self.folder / "plumb.toml")
        self.path = self.folder / "a.img"
        self.path.write_bytes(os.urandom(4 * MIB))
        self.clone = self.folder / "clone"
        done = subprocess.run(["cp", "--reflink=always", self.path, self.clone], capture_output=True,
                              timeout=DEADLINE_S, check=False)
        if done.returncode == 0:
            self.skipTest("SKIPPED: the file system of /var/tmp has reflinks")

    def start_vm(self, what="write count=100000000 qd=4"):
        """A VM that writes to its disk without end."""
        process = self.start("run", "--name", "a", "--memory", "32M", "--kernel", PROBE, "--cmdline", what, "--disk",
                             f"{self.path},id=data")
        self.wait_for_line(process, "BEGIN" if what.startswith("write") else "spinning")
        return process

    def create(self, *more):
        return self.plumb("snapshot", "create", "a", "--quiesce", "crash", *more)

    def take(self):
        """A snapshot, and what it has to read as."""
        self.succeeds(self.plumb("pause", "a"))
        made = json.loads(self.succeeds(self.create("--json")).stdout)
        content = self.path.read_bytes()
        self.assertEqual(made["members"][0]["disks"][0]["array"], "copy-before-write")
        self.succeeds(self.plumb("resume", "a"))
        self.assert_writes_go_on()
        return made["id"], content

    def succeeds(self, done):
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done

    def writes(self):
        disk = json.loads(self.plumb("disk", "list", "a", "--json").stdout)[0]
        return disk["statistics"]["write"]["requests"]

    def kept_bytes(self):
        return json.loads(self.plumb("disk", "list", "a", "--json").stdout)[0]["snapshot_kept_bytes"]

    def assert_writes_go_on(self):
        before = self.writes()
        while self.writes() < before + 100:
            pass

    def assert_reads(self, snapshots):
        for name, content in snapshots:
            self.succeeds(self.plumb("template", "create", "copy", "--from", name))
            (image,) = (self.folder / "state/overlays/volumes").glob("*.img")
            self.assertEqual(image.read_bytes(), content, name)
            self.succeeds(self.plumb("template", "delete", "copy"))

    def overlays(self):
        return sorted(one.name for one in (self.folder / "state/overlays").glob("*/plumb-*"))

    def delete(self, *names):
        self.succeeds(self.plumb("snapshot", "delete", *names))

    def end_vm(self, process, how):
        if how == "kill -9":
            process.kill()
        else:
            self.succeeds(self.plumb("kill", "a"))
        process.wait(timeout=DEADLINE_S)

    def hook(self, phase, script):
        hooks = self.folder / "hooks"
        shutil.rmtree(hooks, ignore_errors=True)
        hooks.mkdir()
        (hooks / phase).write_text(f"#!/bin/sh\n{script}\n")
        (hooks / phase).chmod(0o755)
        return "--hooks", hooks

    def test_each_reads_as_of_its_instant_over_the_ends_of_vms_and_is_deleted_in_any_order(self):
        kept = []
        for how in ("kill", "kill -9", "kill"):
            process = self.start_vm()
            kept.append(self.take())
            self.assert_reads(kept)
            self.end_vm(process, how)
            self.assert_reads(kept)
        process = self.start_vm()
        kept += [self.take(), self.take()]
        for at in (2, 3, 0, 1):
            name, _ = kept.pop(at if at < len(kept) else 0)
            self.delete(name)
            self.assert_reads(kept)
        # The last one, of which the VM has the overlay: nothing is kept any more.
        self.delete(kept.pop()[0])
        self.assertEqual((self.overlays(), self.kept_bytes()), ([], 0))
        self.assert_writes_go_on()

    def test_the_newest_is_needed_until_its_vm_ends(self):
        process = self.start_vm()
        first, second = self.take(), self.take()
        self.delete(second[0])
        self.assert_reads([first])
        self.assertEqual(len(self.overlays()), 2)
        self.end_vm(process, "kill")
        self.start_vm()
        third = self.take()
        self.assertEqual(len(self.overlays()), 2)
        self.assert_reads([first, third])

    def test_a_full_one_is_given_up_and_its_guest_goes_on(self):
        pathlib.Path(self.environment["PLUMB_CONFIG"]).write_text('[copy-before-write]\nlimit = "256K"\n')
        self.start_vm()
        name, _ = self.take()
        while not any(one["kind"] == "snapshots-lost" for one in self.events()):
            pass
        self.assert_writes_go_on()
        done = self.plumb("template", "create", "copy", "--from", name)
        self.assert_refused(done, 14, "is broken: its limit of 262144 bytes is reached")
        self.assertEqual(json.loads(self.plumb("template", "list", "--json").stdout), [])
        os.remove(self.environment["PLUMB_CONFIG"])
        later = self.take()
        self.assert_reads([later])
        self.delete(name)
        self.assert_reads([later])

    def events(self):
        done = subprocess.run(["curl", "-s", "--unix-socket", self.folder / "run/a/control.sock", "http://vm/vm/events"],
                              capture_output=True, timeout=DEADLINE_S, check=True)
        return json.loads(done.stdout)

    def test_a_disk_that_others_have_changed_has_lost_its_snapshots(self):
        process = self.start_vm()
        name, _ = self.take()
        self.end_vm(process, "kill")
        with open(self.path, "r+b") as file:
            file.write(b"changed")
        self.assert_refused(self.plumb("template", "create", "copy", "--from", name), 14, "was changed since the VM")
        process = self.start_vm()
        self.assert_refused(self.plumb("template", "create", "copy", "--from", name), 14, "is broken")
        self.assert_reads([self.take()])

    def test_the_caller_is_killed_at_each_step(self):
        self.start_vm()
        for phase in PHASES:
            with self.subTest(phase):
                done = self.create(*self.hook(phase, "kill -9 $PPID"))
                self.assertEqual(done.returncode, -signal.SIGKILL)
                self.assert_writes_go_on()
                self.assert_nothing_left(phase)
                self.assertEqual(self.kept_bytes(), 0)

    def test_the_vm_is_killed_at_each_step(self):
        for phase in PHASES:
            with self.subTest(phase):
                process = self.start_vm()
                self.create(*self.hook(phase, f"kill -9 {process.pid}"))
                process.wait(timeout=DEADLINE_S)
                self.assert_nothing_left(phase)

    def assert_nothing_left(self, phase):
        self.plumb("snapshot", "recover")
        listed = json.loads(self.plumb("snapshot", "list", "--json").stdout)
        for one in listed:
            self.delete(one["id"])
        self.assertEqual(self.overlays(), [], phase)
        self.assertEqual(list((self.folder / "state/snapshots/journals").iterdir()), [])

    def test_going_back_leaves_every_snapshot_what_it_is(self):
        kept = []
        for how in ("kill", "kill -9", "kill"):
            process = self.start_vm()
            kept.append(self.take())
            self.end_vm(process, how)
        name, content = kept[1]
        present = self.path.read_bytes()
        made = json.loads(self.succeeds(self.plumb("snapshot", "revert", name, "--json")).stdout)
        self.assertEqual(self.path.read_bytes(), content)
        kept.append((made["kept"], present))
        self.assert_reads(kept)
        # The next VM goes on from there, with all its snapshots.
        process = self.start_vm()
        kept.append(self.take())
        self.assert_reads(kept)
        self.end_vm(process, "kill")
        made = json.loads(self.succeeds(self.plumb("snapshot", "revert", kept[3][0], "--json")).stdout)
        self.assertEqual(self.path.read_bytes(), present)
        for at in (1, 3, 0, 2, 0):
            name, _ = kept.pop(at if at < len(kept) else 0)
            self.delete(name)
            self.assert_reads(kept)
        self.delete(made["kept"])
        self.assertEqual(self.overlays(), [])
        self.assertEqual(self.path.read_bytes(), present)

    def test_going_back_is_cut_short_at_each_step(self):
        process = self.start_vm()
        kept = [self.take(), self.take()]
        self.end_vm(process, "kill -9")
        for phase in ("revert-planned", "revert-kept", "revert-journalled", "revert-restored", "revert-renewed"):
            with self.subTest(phase):
                present = self.path.read_bytes()
                name, content = kept[0]
                done = self.plumb("snapshot", "revert", name, *self.hook(phase, "kill -9 $PPID"))
                self.assertEqual(done.returncode, -signal.SIGKILL)
                self.plumb("snapshot", "recover")
                late = phase not in ("revert-planned", "revert-kept")
                self.assertEqual(self.path.read_bytes(), content if late else present)
                for one in json.loads(self.plumb("snapshot", "list", "--json").stdout):
                    if one["note"].startswith("before"):
                        self.assert_reads([(one["id"], present)])
                        self.delete(one["id"])
                self.assert_reads(kept)
                process = self.start_vm()
                self.assert_writes_go_on()
                self.end_vm(process, "kill")

    def test_there_is_no_going_back_beyond_the_limit(self):
        process = self.start_vm()
        name, _ = self.take()
        self.end_vm(process, "kill")
        present = self.path.read_bytes()
        pathlib.Path(self.environment["PLUMB_CONFIG"]).write_text('[copy-before-write]\nlimit = "256K"\n')
        done = self.plumb("snapshot", "revert", name)
        self.assert_refused(done, 14, "raise limit in [copy-before-write]", "nothing was changed")
        self.assertEqual(self.path.read_bytes(), present)
        os.remove(self.environment["PLUMB_CONFIG"])
        self.assertEqual(len(self.overlays()), 1)
        self.succeeds(self.plumb("snapshot", "revert", name, "--discard-present"))
        self.assert_reads([(name, self.path.read_bytes())])

    def test_a_disk_that_comes_later_has_its_snapshots_with_it(self):
        process = self.start_vm()
        kept = [self.take()]
        self.end_vm(process, "kill")
        process = self.start("run", "--name", "b", "--memory", "32M", "--kernel", PROBE, "--cmdline", "spin")
        self.wait_for_line(process, "spinning")
        self.succeeds(self.plumb("disk", "attach", "b", "data", "--image", self.path, "--bus", "scsi"))
        made = json.loads(self.succeeds(self.plumb("snapshot", "create", "b", "--quiesce", "crash", "--json")).stdout)
        kept.append((made["id"], self.path.read_bytes()))
        self.assertEqual(self.plumb("disk", "detach", "b", "data", "--force", "--timeout", "0").returncode, 3)
        self.assert_reads(kept)
        self.start_vm()
        self.assert_writes_go_on()
        self.assert_reads(kept)

    def test_what_is_in_the_folder_and_no_overlay_does_no_harm(self):
        self.start_vm()
        kept = [self.take()]
        (folder,) = (one for one in (self.folder / "state/overlays").iterdir() if one.name != "volumes")
        (folder / "plumb-ffffffffffffffff.cow").write_bytes(b"not an overlay")
        (folder / "notes.txt").write_text("for the administrator")
        kept.append(self.take())
        self.assert_reads(kept)
        self.delete(kept.pop(0)[0])
        self.assert_reads(kept)
        self.assertTrue((folder / "notes.txt").exists())


if __name__ == "__main__":
    main()
