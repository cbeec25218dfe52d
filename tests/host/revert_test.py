#!/usr/bin/env python3
"""Going back to snapshots: on a file system with reflinks, and (RevertOverlayTest) on one without, where VMs keep
snapshots themselves."""
import json
import os
import signal

from plumb_process import DEADLINE_S, PROBE, main
from snapshot_test import MIB, SnapshotTest

PHASES = ("revert-planned", "revert-kept", "revert-journalled", "revert-restored", "revert-renewed", "revert-done")
# Steps after which the revert is finished, whoever dies.
LATE = PHASES[PHASES.index("revert-journalled"):]


class RevertTest(SnapshotTest):
    def setUp(self):
        super().setUp()
        self.paths = [self.images / "a-root.img", self.images / "a-data.img"]
        self.file = self.folder / "a.toml"
        disks = "".join(f'[[disk]]\nid = "{disk}"\nimage = "{path}"\n'
                        for disk, path in zip(("root", "data"), self.paths))
        self.file.write_text(f'name = "a"\nmemory = "32M"\nkernel = "{PROBE}"\ncmdline = "spin"\n{disks}')
        for path in self.paths:
            path.write_bytes(os.urandom(MIB))

    def run_vm(self):
        process = self.start("run", self.file)
        self.wait_for_line(process, "spinning")
        return process

    def end_vm(self, process):
        self.succeeds(self.plumb("kill", "a"))
        process.wait(timeout=DEADLINE_S)

    def succeeds(self, done):
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done

    def contents(self):
        return [path.read_bytes() for path in self.paths]

    def change_disks(self):
        """Another content, as a guest would write it: on each disk."""
        for path in self.paths:
            with open(path, "r+b") as file:
                file.seek(65536)
                file.write(os.urandom(4096))
        return self.contents()

    def take(self, note=""):
        """A snapshot of the VM, which runs for it; what it has to read as."""
        process = self.run_vm()
        content = self.contents()
        made = json.loads(self.succeeds(self.create("--quiesce", "crash", "--note", note, "--json")).stdout)
        self.generation = self.vms()[0]["generation_id"]
        self.end_vm(process)
        return made["id"], content

    def revert(self, name, *more):
        # The kernel closes the files of a ring some time after its process has been killed.
        while (done := self.plumb("snapshot", "revert", name, "--json", *more)).returncode == 11 \
                and "which could not be found" in done.stderr:
            pass
        return done

    def reverted(self, name, *more):
        return json.loads(self.succeeds(self.revert(name, *more)).stdout)

    def journals(self):
        return list((self.folder / "state/snapshots/journals").iterdir())

    def notes(self):
        return {one["id"]: one["note"] for one in self.snapshots()}


class WayBackTest(RevertTest):
    def test_there_and_back_again(self):
        first, old = self.take("first")
        before = self.generation
        new = self.change_disks()
        self.assertNotEqual(old, new)
        second, _ = self.take("second")
        newest = self.change_disks()
        done = self.reverted(first)
        self.assertEqual((done["to"], done["warnings"]), (first, []))
        self.assertEqual(self.contents(), old)
        kept = done["kept"]
        self.assertEqual(self.notes()[kept], f"before the revert to {first}")
        parents = {one["id"]: one["members"][0]["parent"] for one in self.snapshots()}
        self.assertEqual(parents, {first: "", second: first, kept: second})

        # The machine is another one now, and stays it.
        third, _ = self.take("third")
        self.assertEqual(self.generation, done["vms"][0]["generation_id"])
        self.assertNotEqual(self.generation, before)
        again, _ = self.take()
        self.assertEqual(self.generation, done["vms"][0]["generation_id"])
        parents = {one["id"]: one["members"][0]["parent"] for one in self.snapshots()}
        self.assertEqual((parents[third], parents[again]), (first, third))

        # A revert can be reverted; and each time it is another machine.
        back = self.reverted(kept)
        self.assertEqual(self.contents(), newest)
        self.take()
        self.assertEqual(self.generation, back["vms"][0]["generation_id"])
        self.assertNotEqual(self.generation, done["vms"][0]["generation_id"])
        self.assertEqual(self.journals(), [])

    def test_who_gives_the_definition_an_id_of_his_own_has_it(self):
        first, _ = self.take()
        self.reverted(first)
        own = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
        self.file.write_text(f'generation-id = "{own}"\n' + self.file.read_text())
        self.take()
        self.assertEqual(self.generation, own)
        # And after the next revert it is not his any more.
        done = self.reverted(first)
        self.take()
        self.assertEqual(self.generation, done["vms"][0]["generation_id"])

    def test_one_disk_only(self):
        first, old = self.take()
        new = self.change_disks()
        done = self.reverted(first, "--disk", "data")
        self.assertEqual(self.contents(), [new[0], old[1]])
        kept = {one["id"]: one for one in self.snapshots()}[done["kept"]]
        self.assertEqual([disk["id"] for disk in kept["members"][0]["disks"]], ["data"])
        self.reverted(done["kept"])
        self.assertEqual(self.contents(), new)

    def test_without_keeping_what_is_there(self):
        first, old = self.take()
        self.change_disks()
        self.assertEqual(self.reverted(first, "--discard-present")["kept"], "")
        self.assertEqual(self.contents(), old)
        self.assertEqual(list(self.notes()), [first])

    def test_a_dry_run_changes_nothing(self):
        first, _ = self.take()
        new = self.change_disks()
        done = self.succeeds(self.plumb("snapshot", "revert", first, "--dry-run"))
        self.assertIn(f"claim disk root of a ({self.paths[0]})", done.stdout)
        self.assertIn("give a a new generation id", done.stdout)
        self.assertEqual((self.contents(), list(self.notes()), self.journals()), (new, [first], []))

    def test_a_group_or_one_of_it(self):
        process = self.run_vm()
        self.start_vm("b")
        made = json.loads(self.succeeds(self.plumb("snapshot", "create", "--group", "shop", "a", "b", "--quiesce",
                                                   "crash", "--json")).stdout)["id"]
        old = self.contents()
        self.end_vm(process)
        self.change_disks()
        # One of them runs.
        self.assert_refused(self.plumb("snapshot", "revert", made), 11, "VM 'b' runs, as pid")
        self.assertNotEqual(self.contents(), old)
        done = self.reverted(made, "--vm", "a")
        self.assertEqual(self.contents(), old)
        self.assertTrue(done["kept"].startswith("a-"))
        self.plumb("kill", "b")
        self.started[1].wait(timeout=DEADLINE_S)
        self.change_disks()
        done = self.reverted(made)
        self.assertEqual(self.contents(), old)
        self.assertTrue(done["kept"].startswith("shop-"), done["kept"])
        self.assertEqual([vm["vm"] for vm in done["vms"]], ["a", "b"])

    def test_what_cannot_be_is_refused_and_nothing_is_changed(self):
        first, _ = self.take()
        new = self.change_disks()
        self.assert_refused(self.revert("nothing"), 10, "no snapshot 'nothing'")
        self.assert_refused(self.revert(first, "--vm", "b"), 10, "has no VM 'b'")
        self.assert_refused(self.revert(first, "--disk", "dat"), 10, "no disk 'dat' of VM 'a'")
        process = self.run_vm()
        self.assert_refused(self.revert(first), 11, f"VM 'a' runs, as pid {process.pid}")
        self.end_vm(process)
        # Another VM has one of the disks.
        other = self.start("run", "--name", "other", "--memory", "32M", "--kernel", PROBE, "--cmdline", "spin",
                           "--disk", self.paths[1])
        self.wait_for_line(other, "spinning")
        self.assert_refused(self.revert(first), 11, f"image {self.paths[1]} is in use by VM other")
        self.plumb("kill", "other")
        other.wait(timeout=DEADLINE_S)
        self.assertEqual((self.contents(), list(self.notes()), self.journals()), (new, [first], []))
        copies = self.copies()
        copies[1].unlink()
        self.assert_refused(self.revert(first), 14, "is not there in array")
        self.assertEqual((self.contents(), list(self.notes()), self.journals()), (new, [first], []))

    def test_a_hook_that_fails(self):
        first, old = self.take()
        new = self.change_disks()
        for phase in PHASES[:2]:
            done = self.revert(first, *self.hook(phase, "echo not now >&2; exit 7"))
            self.assert_refused(done, 1, f"hooks/{phase} failed with exit status 7: not now")
            self.assertEqual((self.contents(), list(self.notes()), self.journals()), (new, [first], []))
        done = self.revert(first, *self.hook("revert-restored", "exit 1"))
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertEqual((self.contents(), self.journals()), (old, []))


class CutShortTest(RevertTest):
    def assert_no_vm_starts(self, name):
        for path in self.paths:
            done = self.plumb("run", "--name", "thief", "--memory", "32M", "--kernel", PROBE, "--disk", path)
            self.assert_refused(done, 11, f"is being put back to snapshot {name}", "`plumb snapshot recover`")

    def test_killed_at_each_step(self):
        first, old = self.take()
        for phase in PHASES:
            with self.subTest(phase):
                new = self.change_disks()
                done = self.revert(first, *self.hook(phase, "kill -9 $PPID"))
                self.assertEqual(done.returncode, -signal.SIGKILL)
                unfinished = phase in LATE and phase != "revert-done"
                if unfinished:
                    self.assert_no_vm_starts(first)
                    self.assertEqual(self.plumb("snapshot", "recover").stderr,
                                     f"plumb: finished the revert of a to snapshot {first}, which was cut short\n")
                self.succeeds(self.plumb("snapshot", "recover"))
                self.assertEqual(self.contents(), old if phase in LATE else new)
                self.assertEqual(self.journals(), [])
                before = getattr(self, "generation")
                self.take()
                self.assertEqual(self.generation != before, phase in LATE)
                kept = [name for name, note in self.notes().items() if note.startswith("before")]
                self.assertEqual(len(kept), 0 if phase == "revert-planned" else 1)
                # What was there is not lost either.
                if kept:
                    self.reverted(kept[0])
                    self.assertEqual(self.contents(), new)
                for name in self.notes():
                    if name != first:
                        self.succeeds(self.plumb("snapshot", "delete", name))

    def test_a_copy_that_is_lost_halfway_has_all_go_back(self):
        first, _ = self.take()
        new = self.change_disks()
        disks = {disk["id"]: disk for disk in self.snapshots()[0]["members"][0]["disks"]}
        lost = disks["data"]["snapshot_id"]
        done = self.revert(first, *self.hook("revert-journalled", f"rm -f {lost}"))
        self.assert_refused(done, 14, "the disks have what they had before, and nothing was changed")
        self.assertEqual((self.contents(), list(self.notes()), self.journals()), (new, [first], []))
        self.run_vm()

    def test_one_that_cannot_be_finished_gives_way_to_another(self):
        first, _ = self.take()
        new = self.change_disks()
        disks = {disk["id"]: disk for disk in self.snapshots()[0]["members"][0]["disks"]}
        lost = disks["data"]["snapshot_id"]
        done = self.revert(first, *self.hook("revert-journalled", f"rm -f {lost}; kill -9 $PPID"))
        self.assertEqual(done.returncode, -signal.SIGKILL)
        (kept,) = [name for name, note in self.notes().items() if note.startswith("before")]
        self.assertEqual(self.plumb("snapshot", "recover").returncode, 1)
        self.assert_no_vm_starts(first)
        done = self.plumb("snapshot", "delete", first)
        self.assertEqual(done.returncode, 11)
        self.assertIn(f"a revert to snapshot {first} is not finished", done.stderr)
        done = self.plumb("snapshot", "revert", kept, "--disk", "root")
        self.assertEqual(done.returncode, 11)
        # All of its disks: the other one's place is taken.
        done = self.plumb("snapshot", "revert", kept)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual((self.contents(), self.journals()), (new, []))
        self.run_vm()

    def test_the_image_is_not_lost_to_a_vm_that_starts_meanwhile(self):
        first, old = self.take()
        self.change_disks()
        start = f"{self.started[0].args[0]} run {self.file} >{self.folder}/out 2>&1; true"
        for phase in ("revert-planned", "revert-kept", "revert-journalled", "revert-restored", "revert-renewed"):
            self.reverted(first, *self.hook(phase, start))
            said = (self.folder / "out").read_text()
            self.assertTrue("is in use by plumb-snapshot" in said or "is being put back" in said, said)
            self.assertEqual(self.contents(), old)
        self.assertEqual(self.vms(), [])


if __name__ == "__main__":
    main()
