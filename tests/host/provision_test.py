#!/usr/bin/env python3
"""VMs made of a template by `plumb create`, and disks made in arrays by `plumb disk create`."""
import json
import pathlib
import signal
import tomllib

from plumb_process import DEADLINE_S, PROBE, main
from snapshot_test import MIB, SnapshotTest

EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "docs/examples/array-command"


class ProvisionTest(SnapshotTest):
    def succeeds(self, done):
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done

    def made_disk(self, *arguments):
        done = self.succeeds(self.plumb("disk", "create", *arguments, "--array", f"reflink:{self.images}"))
        return pathlib.Path(tomllib.loads(done.stdout)["image"])

    def delete(self, name):
        return self.plumb("disk", "delete", name, "--array", f"reflink:{self.images}")

    def run_on(self, image, name="new"):
        process = self.start("run", "--name", name, "--memory", "32M", "--kernel", PROBE, "--cmdline", "spin", "--disk",
                             f"{image},id=data")
        self.wait_for_line(process, "spinning")
        return process

    def end(self, process, name="new"):
        self.succeeds(self.plumb("kill", name))
        process.wait(timeout=DEADLINE_S)

    def test_a_vm_is_created_from_a_template_as_it_is_deployed(self):
        self.start_vm()
        self.succeeds(self.create("--quiesce", "crash"))
        self.succeeds(self.plumb("template", "create", "probe", "--from", self.snapshots()[0]["id"]))
        file = self.folder / "web.toml"
        self.succeeds(self.plumb("create", "web", "--from-template", "probe", "--file", file))
        process = self.start("run", file)
        self.wait_for_line(process, "BEGIN")
        self.assertEqual(sorted(vm["name"] for vm in self.vms()), ["a", "web"])
        self.assert_refused(self.plumb("create", "web", "--from-template", "probe", "--file", file), 2, "there already")
        self.assert_refused(self.plumb("create", "x", "--from-template", "none"), 10, "no template 'none'")
        self.assert_refused(self.plumb("create", "x"), 2, "--from-template is required")

    def test_a_disk_is_made_used_and_deleted(self):
        image = self.made_disk("data", "4M")
        self.assertEqual((image.stat().st_size, image.read_bytes()), (4 * MIB, bytes(4 * MIB)))
        self.assertTrue(image.name.startswith("data-"))
        process = self.run_on(image)
        self.assert_refused(self.delete("data"), 11, "in use by VM new")
        made = json.loads(self.succeeds(self.create("--quiesce", "crash", "--json", vm="new")).stdout)["id"]
        self.end(process)
        self.assert_refused(self.delete("data"), 11, f"is needed by snapshot {made}; delete that first")
        self.assertTrue(image.exists())
        self.succeeds(self.plumb("snapshot", "delete", made))
        # The kernel may still be closing the file.
        while (done := self.delete("data")).returncode == 11:
            pass
        self.succeeds(done)
        self.assertFalse(image.exists())
        self.assert_refused(self.delete("data"), 10, "plumb has made no disk data")

    def test_the_disk_of_a_template_stays(self):
        process = self.start_vm()
        self.succeeds(self.create("--quiesce", "crash"))
        self.succeeds(self.plumb("template", "create", "probe", "--from", self.snapshots()[0]["id"]))
        self.end(process, "a")
        (volume,) = self.images.glob("plumb-*.img")
        self.assert_refused(self.delete(volume.stem), 11, "is needed by template probe")
        # An image that plumb has not made is none of its disks.
        self.assert_refused(self.delete("a"), 10, "no disk a")
        self.assertTrue(volume.exists() and (self.images / "a.img").exists())

    def test_json_and_the_whole_name(self):
        done = self.succeeds(self.plumb("disk", "create", "data", "1M", "--json", "--array", f"reflink:{self.images}"))
        made = json.loads(done.stdout)
        self.assertEqual((made["size_bytes"], made["wwn"]), (MIB, ""))
        self.assertEqual(made["device"], f"{self.images}/{made['name']}.img")
        self.succeeds(self.delete(made["name"]))

    def test_what_cannot_be_is_refused_and_leaves_nothing(self):
        image = self.made_disk("data", "4M")
        before = sorted(self.images.rglob("*"))
        where = ("--array", f"reflink:{self.images}")
        self.assert_refused(self.plumb("disk", "create", "data", "4M", *where), 2, "there is a disk data")
        self.assert_refused(self.plumb("disk", "create", "Data", "4M", *where), 2, "'Data' cannot be a disk's name")
        self.assert_refused(self.plumb("disk", "create", "x", "much", *where), 2, "'much'")
        self.assert_refused(self.plumb("disk", "create", "x", "1000", *where), 2, "1000 bytes")
        self.assert_refused(self.plumb("disk", "create", "x", "4M", "--array", "san"), 14, "'san' is not in plumb.toml")
        self.assert_refused(self.plumb("disk", "create", "x", "4M"), 2, "--array is required")
        # Too large for its file system: made, and not there afterwards.
        self.assertEqual(self.plumb("disk", "create", "x", "9000000T", *where).returncode, 2)
        self.assertEqual(sorted(self.images.rglob("*")), before)
        self.assertTrue(image.exists())
        self.assertEqual(list((self.folder / "state/disks/journals").iterdir()), [])

    def test_a_death_leaves_nothing(self):
        """An array whose program kills who asks, once the volume is made."""
        program = self.folder / "array"
        program.write_text(f'#!/bin/sh\n{EXAMPLE} "$@" || exit\ncase $1 in create) kill -9 $PPID;; esac\n')
        program.chmod(0o755)
        pathlib.Path(self.environment["PLUMB_CONFIG"]).write_text(
            f'[[array]]\nname = "lab"\nprovider = "command"\nprogram = "{program}"\nabilities = ["provisions", "instant"]\n'
            f'settings = {{ folder = "{self.images}" }}\n')
        done = self.plumb("disk", "create", "data", "4M", "--array", "lab")
        self.assertEqual(done.returncode, -signal.SIGKILL)
        (image,) = self.images.glob("data-*.img")
        done = self.plumb("snapshot", "recover")
        self.assertIn("removed what was left of disk", done.stderr)
        self.assertFalse(image.exists())
        # An array that makes none.
        text = pathlib.Path(self.environment["PLUMB_CONFIG"]).read_text()
        pathlib.Path(self.environment["PLUMB_CONFIG"]).write_text(text.replace('"provisions", ', ""))
        self.assert_refused(self.plumb("disk", "create", "data", "4M", "--array", "lab"), 14, "lab makes no volumes")


if __name__ == "__main__":
    main()
