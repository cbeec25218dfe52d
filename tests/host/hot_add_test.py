#!/usr/bin/env python3
"""Disks attached to and detached from running VMs. The probe guest has no driver for SCSI, and of
ACPI it knows the ejecting of slots: what a guest does with the disks is the lab case hot-add."""
import array
import json
import os
import pathlib
import socket
import stat
import subprocess
import time
import unittest

from plumb_process import DEADLINE_S, PROBE, PlumbTest, kvm_missing, main

MIB = 1 << 20


@unittest.skipIf(kvm_missing(), str(kvm_missing()))
class HotAddTest(PlumbTest):
    def start_vm(self, command="spin", *more, name="a"):
        process = self.start("run", "--name", name, "--memory", "32M", "--kernel", PROBE,
                             "--cmdline", command, *more)
        first = {"spin": "spinning", "eject": "ejecting"}.get(command, "BEGIN")
        self.wait_for_line(process, first)
        return process

    def attach(self, disk, *more, vm="a"):
        return self.plumb("disk", "attach", vm, disk, *more)

    def detach(self, disk, *more, vm="a"):
        return self.plumb("disk", "detach", vm, disk, *more)

    def succeeds(self, done, code=0):
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)

    def disks(self, vm="a"):
        return {disk["id"]: disk
                for disk in json.loads(self.plumb("disk", "list", vm, "--json").stdout)}

    def events(self):
        done = subprocess.run(["curl", "-s", "--unix-socket", self.folder / "run/a/control.sock",
                               "http://vm/vm/events"], capture_output=True, text=True,
                              timeout=DEADLINE_S, check=True)
        return [(event["kind"], event.get("disk")) for event in json.loads(done.stdout)]

    def small_image(self, name):
        return self.image(name, MIB)


class AttachTest(HotAddTest):
    def test_a_disk_is_shown_with_its_keys_and_its_claim_is_the_vms(self):
        self.start_vm()
        blk, scsi = self.small_image("blk.img"), self.small_image("scsi.img")
        self.succeeds(self.attach("one", "--image", blk, "--cache", "writeback", "--serial", "S1"))
        self.succeeds(self.attach("two", "--image", scsi, "--bus", "scsi", "--read-only",
                                  "--on-error", "pause"))
        disks = self.disks()
        self.assertEqual(list(disks), ["one", "two"])
        self.assertEqual((disks["one"]["cache"], disks["one"]["serial"], disks["one"]["bus"]),
                         ("writeback", "S1", "virtio-blk"))
        self.assertIn("slot", disks["one"])
        self.assertEqual((disks["two"]["target"], disks["two"]["read_only"],
                          disks["two"]["on_error"]), (0, True, "pause"))
        self.assertIn(f"one={blk}", self.plumb("ps").stdout)
        self.assertEqual(self.events(), [("disk-attached", "one"), ("disk-attached", "two")])
        self.assert_refused(self.run_probe("hello", "--disk", blk), 11, "in use by VM a (pid")
        mode = os.stat(self.folder / "run/a/disks.sock").st_mode
        self.assertEqual(stat.S_IMODE(mode), 0o600)
        self.succeeds(self.plumb("disk", "resize", "a", "one", "2M"))

    def test_what_cannot_be_is_refused_in_one_sentence_and_changes_nothing(self):
        own, other = self.small_image("own.img"), self.small_image("other.img")
        self.start_vm("spin", "--disk", f"{own},id=own")
        engine = self.disks()["own"]["engine"]
        wrong = "libaio" if engine == "io_uring" else "io_uring"
        for code, text, arguments in (
                (2, "has a disk 'own' already", ("own", "--image", other)),
                (2, "needs one of image, lun and rdm", ("new",)),
                (2, "needs one of image, lun and rdm", ("new", "--image", other, "--rdm", "x.rdm")),
                (2, "'ide' is not known; write virtio-blk or scsi",
                 ("new", "--image", other, "--bus", "ide")),
                (2, "is not a name", ("a/b", "--image", other)),
                (2, f"asks for engine {wrong}", ("new", "--image", other, "--engine", wrong)),
                (11, "in use by VM a (pid", ("new", "--image", own)),
                (1, "does not exist", ("new", "--image", self.folder / "none.img")),
                (1, "cannot be opened", ("new", "--rdm", self.folder / "none.rdm")),
                (1, "is not on this host", ("new", "--lun", "naa.6001405000000000000000000000000f"))):
            with self.subTest(text=text):
                self.assert_refused(self.attach(*arguments), code, text)
        self.assert_refused(self.attach("new", "--image", other, vm="b"), 10, "no VM 'b' runs here")
        self.assertEqual(list(self.disks()), ["own"])
        self.assertEqual(self.events(), [])
        self.succeeds(self.run_probe("test", "--disk", other))  # nobody holds it
        self.succeeds(self.plumb("kill", "a"))
        self.assert_refused(self.attach("new", "--image", other), 10, "no VM 'a' runs here")

    def test_all_slots_are_used_and_no_more_and_used_again(self):
        self.start_vm()
        slots = set()
        for number in range(40):
            done = self.attach(f"d{number}", "--image", self.small_image(f"{number}.img"))
            if done.returncode != 0:
                break
            slots.add(self.disks()[f"d{number}"]["slot"])
        self.assert_refused(done, 2, "more devices than its PCI bus has slots (30 are for devices)")
        self.assertEqual(len(slots), 28)  # all but those of console and random numbers
        self.assertEqual(len(self.disks()), 28)
        self.succeeds(self.run_probe("test", "--disk", self.folder / f"{number}.img"))

    def test_another_disks_io_goes_on_while_disks_come_and_go(self):
        busy, other = self.image("busy.img", 8 * MIB), self.small_image("other.img")
        process = self.start_vm("read count=400000 qd=8", "--disk", f"{busy},id=busy")
        for number in range(10):
            for bus in ("virtio-blk", "scsi"):
                disk = f"{bus}{number}"  # what is forced off keeps its id while the guest has it
                self.succeeds(self.attach(disk, "--image", other, "--bus", bus))
                self.succeeds(self.detach(disk, "--force", "--timeout", "0"), 3)
        self.assertIsNone(process.poll(), "the guest ended too early for this test to say anything")
        output, errors = process.communicate(timeout=DEADLINE_S)
        self.assertIn("END 400000", output, errors)
        self.assertIn("PROBE OK", output)


class DetachTest(HotAddTest):
    def test_a_guest_that_does_not_eject_keeps_the_disk(self):
        path = self.small_image("disk.img")
        self.start_vm()
        self.succeeds(self.attach("data", "--image", path))
        self.assert_refused(self.detach("data", "--timeout", "0"), 1, "has not let go of disk data")
        self.assertEqual(self.disks()["data"]["state"], "running")
        self.assertIn("has not let go", self.disks()["data"]["refusal"])
        self.assert_refused(self.run_probe("hello", "--disk", path), 11, "in use by VM a")

    def test_by_force_the_claim_is_free_at_once_and_the_disk_can_come_again(self):
        path = self.small_image("disk.img")
        self.start_vm("spin", "--disk", f"{path},id=data")
        slot = self.disks()["data"]["slot"]
        done = self.detach("data", "--timeout", "0", "--force")
        self.succeeds(done, 3)
        self.assertIn("gets I/O errors from its device", done.stdout)
        self.assertEqual(self.disks()["data"]["state"], "gone")
        self.assertEqual(self.events()[-1], ("disk-forced-off", "data"))
        self.succeeds(self.run_probe("test", "--disk", path))
        self.succeeds(self.attach("again", "--image", path))
        self.assertNotEqual(self.disks()["again"]["slot"], slot)
        # What is left of the disk: nothing to grow, and nothing more to detach.
        self.assert_refused(self.plumb("disk", "resize", "a", "data", "2M"), 11, "is being detached")
        self.succeeds(self.detach("data", "--timeout", "0"), 3)

    def test_a_guest_that_ejects_is_asked_first_and_by_force_the_disk_does_not_wait_for_it(self):
        path = self.small_image("disk.img")
        self.start_vm("eject")
        self.succeeds(self.attach("asked", "--image", path))
        self.succeeds(self.detach("asked"))
        self.assertNotIn("disk-forced-off", [kind for kind, _ in self.events()])
        # What was taken stays taken, however soon the guest lets go of what is left.
        for number in range(5):
            disk = f"taken{number}"
            self.succeeds(self.attach(disk, "--image", path))
            self.succeeds(self.detach(disk, "--timeout", "0", "--force"), 3)
            self.assertIn(("disk-forced-off", disk), self.events())

    def test_a_guest_under_way_gets_errors_from_that_disk_when_it_is_forced_off(self):
        path = self.image("disk.img", 8 * MIB)
        process = self.start_vm("read count=100000000 qd=8", "--disk", f"{path},id=data")
        done = self.detach("data", "--timeout", "0", "--force")
        self.assertIn(done.returncode, (3, 0), done.stdout + done.stderr)
        if done.returncode == 0:  # the guest was quicker to end
            self.assertIn("the VM has ended", done.stdout)
        output, errors = process.communicate(timeout=DEADLINE_S)
        self.assertIn("PROBE FAILED: a measured request", output, errors)

    def test_a_disk_that_stopped_for_an_error_can_be_forced_off(self):
        path = self.image("disk.img", 8 * MIB)
        process = self.start_vm("read count=100000000 qd=8", "--disk", f"{path},id=data,on-error=pause")
        os.truncate(path, 0)
        deadline = time.monotonic() + DEADLINE_S
        while self.vms()[0]["state"] != "paused":
            self.assertLess(time.monotonic(), deadline)
        self.assert_refused(self.detach("data"), 1, "the VM is paused, so its guest cannot let go")
        self.succeeds(self.detach("data", "--timeout", "0", "--force"), 3)
        self.succeeds(self.plumb("resume", "a"))
        output, errors = process.communicate(timeout=DEADLINE_S)
        self.assertIn("PROBE FAILED: a measured request", output, errors)

    def test_a_scsi_target_nobody_uses_leaves_and_is_used_again(self):
        path = self.small_image("disk.img")
        self.start_vm()
        for _ in range(3):
            self.succeeds(self.attach("data", "--image", path, "--bus", "scsi"))
            self.assertEqual(self.disks()["data"]["target"], 0)
            done = self.detach("data")
            self.assertEqual((done.returncode, done.stdout), (0, "data is detached\n"), done.stderr)
            self.assertEqual(self.disks(), {})
        self.succeeds(self.run_probe("test", "--disk", path))
        self.assertEqual([kind for kind, _ in self.events()],
                         3 * ["disk-attached", "disk-detaching", "disk-detached"])

    def test_what_cannot_be_detached(self):
        self.start_vm()
        self.assert_refused(self.detach("data"), 10, "no disk 'data'")
        self.assert_refused(self.detach("data", vm="b"), 10, "no VM 'b' runs here")


class SocketTest(HotAddTest):
    """The socket that takes disks is for its own user; what is no disk is still refused."""

    def ask(self, message, fds=()):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(DEADLINE_S)
            connection.connect(str(self.folder / "run/a/disks.sock"))
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            connection.sendmsg([message], rights)
            return json.loads(connection.recv(1 << 16))["error"]

    def test_bad_messages_are_answered_and_the_vm_goes_on(self):
        self.start_vm()
        with open("/dev/null", "rb") as nothing:
            number = nothing.fileno()
            disk = {"id": "x"}
            for message, fds, text in (
                    (b"\0", (), "not a JSON object"),
                    (b"[]", (number,), "not a JSON object"),
                    (b"{}", (number,), "without disk or source"),
                    (json.dumps({"disk": disk, "source": {}}).encode(), (number,), "not defined"),
                    (b"x" * (65 << 10), (), "longer than"),
                    (b"{}", (number,) * 4, "descriptors")):
                self.assertIn(text, self.ask(message, fds))
        silent = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(8)]
        try:
            for connection in silent:
                connection.connect(str(self.folder / "run/a/disks.sock"))
            done = self.attach("late", "--image", self.small_image("late.img"))
            self.assert_refused(done, 1, "takes no more disks now")
        finally:
            for connection in silent:
                connection.close()
        self.succeeds(self.attach("late", "--image", self.folder / "late.img"))
        descriptors = pathlib.Path(f"/proc/{self.vms()[0]['pid']}/fd")
        self.assertFalse([fd for fd in descriptors.iterdir() if os.readlink(fd) == "/dev/null"
                          and int(fd.name) > 2])


if __name__ == "__main__":
    main()
