#!/usr/bin/env python3
"""Snapshots of guests of libvirt: a real libvirtd, with folders and a socket of its own and without privileges, runs
Debian's kernel under TCG; the images are on a file system with reflinks, and are written to all the time."""
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import select
import subprocess
import tempfile
import time
import unittest

from plumb_process import DEADLINE_S, PlumbTest, main

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAB = pathlib.Path(os.environ.get("PLUMB_CACHE") or
                   os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "plumb")) / "lab"
USER = "nobody"
MIB = 1 << 20

# Each number is on the first disk before it is on the second, and on both before it is told of.
GUEST = r"""
mkdir -p /run /var /a /b
ln -s /run /var/run
mount -t ext4 /dev/vda /a
mount -t ext4 /dev/vdb /b
for port in /sys/class/virtio-ports/*; do
  [ "$(cat "$port/name" 2>/dev/null)" = org.qemu.guest_agent.0 ] || continue
  qemu-ga --method=virtio-serial --path="/dev/${port##*/}" --statedir=/run --logfile=/run/agent.log &
done
commit() { echo "$n" | dd of=$1/log oflag=append conv=notrunc,fsync 2>/dev/null; }
while n=$((n + 1)); do commit /a && commit /b && echo "COMMIT $n"; done
"""

DOMAIN = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type>{boot}</os><features><acpi/></features><cpu mode='maximum'/>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<controller type='usb' model='none'/><memballoon model='none'/>{devices}
<serial type='file'><source path='{console}'/></serial></devices></domain>"""
DISK = """<disk type='file' device='disk'><driver name='qemu' type='{format}' cache='none'/>
<source file='{file}'/><target dev='{target}' bus='virtio'/></disk>"""
AGENT = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"


def missing():
    """Why libvirt's guests cannot run here, or None."""
    if os.geteuid() != 0:
        return "SKIPPED: only root mounts file systems"
    for program in ("libvirtd", "virsh", "qemu-system-x86_64", "qemu-ga", "qemu-img", "mkfs.xfs", "cpio"):
        if shutil.which(program) is None:
            return f"SKIPPED: {program} is not installed"
    return None


def run(*arguments, **options):
    return subprocess.run([*map(str, arguments)], check=True, timeout=DEADLINE_S, **options)


class Libvirt:
    """A libvirtd of its own, an XFS for images, and a guest's kernel and initramfs."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="plumb-lv-", dir="/var/tmp"))
        self.folder.chmod(0o711)  # the daemon's user has to pass
        self.home = self.folder / "h"
        self.images = self.folder / "images"
        self.daemon = None
        socket = self.home / "r/libvirt/libvirt-sock"
        self.uri = f"qemu+unix:///session?socket={socket}"
        for name in ("", "c", "c/libvirt", "r", "cache", "data"):
            (self.home / name).mkdir()
        # Neither cgroups, nor another process for logs, nor confinement: nothing of the host's is needed.
        (self.home / "c/libvirt/qemu.conf").write_text(
            'security_driver = "none"\ncgroup_controllers = []\nstdio_handler = "file"\n')
        (self.home / "c/libvirt/libvirtd.conf").write_text(f'log_outputs = "3:file:{self.home}/log"\n')
        self.mount_images()
        self.make_guest()
        run("chown", "-R", f"{USER}:", self.home)
        self.start_daemon()

    def mount_images(self):
        disk = self.folder / "xfs.img"
        with open(disk, "wb") as file:
            file.truncate(512 * MIB)
        self.images.mkdir()
        run("mkfs.xfs", "-q", disk)
        run("mount", "-o", "loop", disk, self.images)

    def make_guest(self):
        run(ROOT / "tests/lab/prepare", "guest", stdout=subprocess.DEVNULL)
        shutil.copy(LAB / "kernel-6.1/vmlinux", self.folder / "vmlinux")
        root = self.folder / "fs"
        (root / "bin").mkdir(parents=True)
        (root / "run.sh").write_text(GUEST)
        agent = shutil.which("qemu-ga")
        shutil.copy(agent, root / "bin")
        libraries = run("ldd", agent, capture_output=True, text=True).stdout
        for library in re.findall(r"/\S+", libraries):
            (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, root / library[1:])
        names = run("find", ".", "-mindepth", "1", cwd=root, capture_output=True).stdout
        more = run("cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0", cwd=root, input=names, capture_output=True)
        (self.folder / "initrd").write_bytes((LAB / "boot-6.1/guest.cpio").read_bytes() + more.stdout)

    def start_daemon(self):
        home = self.home
        user = pwd.getpwnam(USER)
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_CONFIG_HOME": f"{home}/c",
                       "XDG_RUNTIME_DIR": f"{home}/r", "XDG_CACHE_HOME": f"{home}/cache",
                       "XDG_DATA_HOME": f"{home}/data"}
        with open(self.folder / "daemon.log", "wb") as log:
            self.daemon = subprocess.Popen(["libvirtd"], env=environment, stdin=subprocess.DEVNULL, stdout=log,
                                           stderr=log, user=user.pw_uid, group=user.pw_gid, extra_groups=[],
                                           start_new_session=True)
        while self.try_virsh("list").returncode != 0:
            self.check_runs()

    def check_runs(self):
        if self.daemon.poll() is not None:
            raise RuntimeError("libvirtd has ended: " + (self.folder / "daemon.log").read_text(errors="replace"))

    def try_virsh(self, *arguments):
        return subprocess.run(["virsh", "-q", "-c", self.uri, *map(str, arguments)], capture_output=True, text=True,
                              timeout=DEADLINE_S, check=False)

    def virsh(self, *arguments):
        done = self.try_virsh(*arguments)
        if done.returncode != 0:
            raise RuntimeError(f"virsh {arguments}: {done.stderr}")
        return done.stdout.strip()

    def disk(self, name, target, size, disk_format="raw"):
        """An image as XML; a raw one has an ext4."""
        image = self.images / f"{name}-{target}.img"
        if disk_format == "raw":
            image.write_bytes(bytes(size))
            run("mkfs.ext4", "-q", image)
        else:
            run("qemu-img", "create", "-q", "-f", disk_format, image, str(size))
        shutil.chown(image, USER)
        return DISK.format(file=image, target=target, format=disk_format)

    def domain(self, name, devices, *flags, boots=True, command="create"):
        """Creates a domain, which runs unless a flag says otherwise."""
        boot = (f"<kernel>{self.folder}/vmlinux</kernel><initrd>{self.folder}/initrd</initrd>"
                "<cmdline>console=ttyS0 quiet panic=-1 mitigations=off init_on_alloc=0</cmdline>") if boots else ""
        console = self.home / f"{name}.console"
        console.touch()
        shutil.chown(console, USER)
        xml = self.folder / f"{name}.xml"
        xml.write_text(DOMAIN.format(name=name, boot=boot, devices=devices, console=console))
        self.virsh(command, xml, *flags)

    def last_commit(self, name):
        found = re.findall(r"COMMIT (\d+)\s", (self.home / f"{name}.console").read_text(errors="replace"))
        return int(found[-1]) if found else 0

    def end(self):
        if self.daemon is not None and self.daemon.poll() is None:
            for name in self.virsh("list", "--name").split():
                self.virsh("destroy", name)
            self.daemon.terminate()
            self.daemon.wait(timeout=DEADLINE_S)
        # The kernel may still be closing files.
        while subprocess.run(["umount", self.images], stderr=subprocess.DEVNULL, timeout=DEADLINE_S,
                             check=False).returncode != 0 and self.images.is_mount():
            pass
        shutil.rmtree(self.folder)


@unittest.skipIf(missing(), str(missing()))
class LibvirtTest(PlumbTest):
    @classmethod
    def setUpClass(cls):
        cls.libvirt = None
        cls.addClassCleanup(lambda: cls.libvirt and cls.libvirt.end())
        cls.libvirt = Libvirt()
        for name, agent in (("db1", AGENT), ("mute", "")):
            disks = cls.libvirt.disk(name, "vda", 32 * MIB) + cls.libvirt.disk(name, "vdb", 32 * MIB)
            cls.libvirt.domain(name, disks + agent)
        # The agent is there once it answers.
        while cls.libvirt.try_virsh("domfsinfo", "db1").returncode != 0:
            cls.libvirt.check_runs()

    def setUp(self):
        super().setUp()
        self.environment["PLUMB_STATE_DIR"] = str(self.folder / "state")
        self.environment["PLUMB_CONFIG"] = str(self.folder / "plumb.toml")
        for name in ("db1", "mute"):
            self.assert_goes_on(name)

    def tearDown(self):
        for made in self.snapshots():
            self.plumb("snapshot", "delete", made["id"])
        left = self.watchdogs()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        super().tearDown()
        self.assertEqual(left, [])

    def create(self, *arguments, vm="db1"):
        return self.plumb("snapshot", "create", vm, f"--libvirt={self.libvirt.uri}", *arguments)

    def snapshots(self):
        return json.loads(self.plumb("snapshot", "list", "--json").stdout)

    def copies(self):
        return sorted(self.libvirt.images.glob(".plumb-snapshots/*"))

    def watchdogs(self):
        """The pids of those that do not end, although nobody needs them."""
        pids = [int(lock.read_text()) for lock in (self.folder / "run").glob("libvirt/*/lock")]
        return [pid for pid in pids if self.runs_beyond(pid)]

    def runs_beyond(self, pid):
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        with os.fdopen(process):
            try:
                if b"plumb-libvirt" not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                    return False
            except OSError:
                return False
            return not select.select([process], [], [], DEADLINE_S)[0]

    def assert_goes_on(self, name="db1"):
        before = self.libvirt.last_commit(name)
        end = time.monotonic() + DEADLINE_S
        while self.libvirt.last_commit(name) <= before:
            self.libvirt.check_runs()
            self.assertLess(time.monotonic(), end, f"guest {name} does not go on")

    def assert_nothing_left(self):
        self.assertEqual(self.plumb("snapshot", "recover").returncode, 0)
        self.assertEqual((self.snapshots(), self.copies()), ([], []))

    def hook(self, phase, script):
        hooks = self.folder / "hooks"
        shutil.rmtree(hooks, ignore_errors=True)
        hooks.mkdir()
        program = hooks / phase
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return "--hooks", hooks

    def numbers_in(self, copy, *options):
        """What the guest had committed in the file system of a copy."""
        where = self.folder / "mnt"
        where.mkdir(exist_ok=True)
        run("mount", "-o", ",".join(("loop", *options)), copy, where)
        try:
            return [int(line) for line in (where / "log").read_text().split()]
        finally:
            run("umount", where)

    def disks_of(self, member):
        return {disk["id"]: pathlib.Path(disk["snapshot_id"]) for disk in member["disks"]}

    def test_a_guest_is_frozen_copied_and_thawed(self):
        before = self.libvirt.last_commit("db1")
        done = self.create("--quiesce", "fs", "--note", "one", "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        (member,) = json.loads(done.stdout)["members"]
        self.assertEqual((member["vm"], member["grade"], member["reason"]), ("db1", "fs", ""))
        self.assertGreater(member["held_us"], 0)
        disks = self.disks_of(member)
        self.assertEqual(sorted(disks), ["vda", "vdb"])
        self.assert_goes_on()
        for copy in disks.values():
            # Clean: there is no journal to replay.
            self.assertNotIn("needs_recovery", run("dumpe2fs", "-h", copy, capture_output=True, text=True).stdout)
            run("e2fsck", "-fn", copy, capture_output=True)
            numbers = self.numbers_in(copy, "ro", "noload")
            self.assertEqual(numbers, list(range(1, len(numbers) + 1)))
            self.assertGreaterEqual(len(numbers), before)
        (made,) = self.snapshots()
        shown = json.loads(self.plumb("snapshot", "show", made["id"], "--json").stdout)
        definition = shown["members"][0]["definition"]["libvirt"]
        self.assertEqual(definition["uri"], self.libvirt.uri)
        self.assertIn("<name>db1</name>", definition["xml"])
        self.assert_refused(self.plumb("template", "create", "t", "--from", made["id"]), 2, "guest of libvirt")

    def test_a_command_waits_for_the_one_before(self):
        both = [self.start("snapshot", "create", "db1", f"--libvirt={self.libvirt.uri}") for _ in range(2)]
        for command in both:
            _, errors = command.communicate(timeout=DEADLINE_S)
            self.assertEqual((command.returncode, errors), (0, ""))
        self.assertEqual(len(self.snapshots()), 2)

    def test_a_guest_without_an_agent_is_of_grade_crash_and_its_disks_of_one_instant(self):
        done = self.create(vm="mute")
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("VM 'mute' is of grade crash only, not fs: ", done.stderr)
        self.assertIn("guest agent is not configured", done.stderr)
        (made,) = self.snapshots()
        # As after a power cut: the journal is replayed, here in a copy of the copy.
        last = {}
        for disk, copy in self.disks_of(made["members"][0]).items():
            work = self.folder / "work.img"
            shutil.copy(copy, work)
            last[disk] = len(self.numbers_in(work))
        self.assertIn(last["vda"] - last["vdb"], (0, 1))
        self.assert_goes_on("mute")
        self.assert_refused(self.create("--require", "fs", vm="mute"), 15, "not fs as required")
        self.assertEqual(self.create("--quiesce", "crash", vm="mute").returncode, 0)

    def test_the_caller_is_killed(self):
        for phase in ("planned", "frozen", "held", "copied", "released"):
            with self.subTest(phase):
                done = self.create(*self.hook(phase, "kill -9 $PPID"))
                self.assertEqual(done.returncode, -9)
                self.assert_goes_on()
                self.assertEqual(self.watchdogs(), [])
                self.assertEqual(self.libvirt.virsh("domstate", "db1"), "running")
                self.assert_nothing_left()

    def test_the_time_is_over(self):
        # Commits go on while the command still waits for its hook.
        console = self.libvirt.home / "db1.console"
        script = f"n=$(wc -l <{console}); until [ $(wc -l <{console}) -gt $((n + 2)) ]; do :; done"
        done = self.create("--frozen-limit", "0.5", *self.hook("frozen", script))
        self.assert_refused(done, 1, "longer than was agreed")
        self.assert_nothing_left()

    def test_the_watchdog_is_killed(self):
        kill = "kill -9 $(cat $PLUMB_RUN_DIR/libvirt/*/lock)"
        for phase in ("frozen", "held"):
            with self.subTest(phase):
                # The caller notices, and thaws.
                done = self.create(*self.hook(phase, kill))
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn("domain 'db1', which a command that was killed had left", done.stderr)
                self.assert_goes_on()
                self.assert_nothing_left()

    def test_watchdog_and_caller_are_killed_and_the_next_command_thaws(self):
        both = "kill -9 $(cat $PLUMB_RUN_DIR/libvirt/*/lock); kill -9 $PPID"
        for phase, state in (("frozen", "running"), ("held", "paused")):
            with self.subTest(phase):
                self.assertEqual(self.create(*self.hook(phase, both)).returncode, -9)
                self.assertEqual(self.libvirt.virsh("domstate", "db1"), state)
                before = self.libvirt.last_commit("db1")
                done = self.plumb("snapshot", "recover")
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertIn("domain 'db1', which a command that was killed had left", done.stderr)
                # It stood still until then: but for what the console had not shown yet, nothing was committed.
                self.assertLessEqual(before, self.libvirt.last_commit("db1"))
                self.assert_goes_on()
                self.assert_nothing_left()

    def test_a_guest_that_is_suspended_stays_so(self):
        devices = self.libvirt.disk("still", "vda", 4 * MIB) + self.libvirt.disk("still", "vdb", 4 * MIB)
        self.libvirt.domain("still", devices, "--paused", boots=False)
        try:
            done = self.create(vm="still")
            self.assertEqual(done.returncode, 3)
            self.assertIn("paused", done.stderr)
            self.assertEqual(self.libvirt.virsh("domstate", "still"), "paused")
        finally:
            self.libvirt.virsh("destroy", "still")

    def test_what_cannot_be_copied_is_refused_and_leaves_nothing(self):
        self.assert_refused(self.create(vm="db2"), 10, "no domain 'db2'", "did you mean 'db1'")
        self.libvirt.domain("off", self.libvirt.disk("off", "vda", 4 * MIB), boots=False, command="define")
        self.assert_refused(self.create(vm="off"), 10, "domain 'off' is shut off")
        self.libvirt.virsh("undefine", "off")
        self.libvirt.domain("cow", self.libvirt.disk("cow", "vda", 4 * MIB, "qcow2"), "--paused", boots=False)
        try:
            self.assert_refused(self.create(vm="cow"), 1, "vda has the format 'qcow2'")
        finally:
            self.libvirt.virsh("destroy", "cow")
        for uri in ("qemu+ssh://host/system", "db1"):
            self.assert_refused(self.plumb("snapshot", "create", "db1", f"--libvirt={uri}"), 2, "on this host")
        self.assert_refused(self.plumb("snapshot", "create", "db1", "--libvirt=qemu+unix:///session?socket=/none"), 1,
                            "libvirt does not answer at")
        image = self.libvirt.images / "db1-vda.img"
        image.rename(image.with_suffix(".old"))
        try:
            self.assert_refused(self.create(), 1, "is not there")
            shutil.copy(image.with_suffix(".old"), image)
            self.assert_refused(self.create(), 1, "no process has", "open")
        finally:
            image.with_suffix(".old").rename(image)
        done = self.create("--dry-run")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("freeze db1 by its guest agent", done.stdout)
        self.assert_nothing_left()
        self.assert_goes_on()


if __name__ == "__main__":
    main()
