"""The virtual machine monitors under measurement, running the probe guest on one disk."""
import fcntl
import os
import pathlib
import struct
import subprocess
import sys

GUEST_MEMORY = "256M"
DEADLINE_S = 120


class Vmm:
    """One program: how to start it with a command for the guest, and what to read while it runs."""

    def __init__(self, build, folder, image):
        self.probe = str(build / "bin/probe-guest")
        self.folder = folder
        self.image = image

    def start(self, command):
        environment = dict(os.environ, PLUMB_RUN_DIR=str(self.folder / "run"))
        return subprocess.Popen(self.arguments(command), env=environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def read_until(self, process, text):
        """Reads lines of the guest's console up to one with `text`."""
        for line in process.stdout:
            if text in line:
                return
        sys.exit(f"bench: the guest of {self.name} ended, exit {process.wait()}, "
                 f"before it printed {text.decode()!r}")

    def kill(self, process):
        process.kill()
        process.wait(timeout=DEADLINE_S)
        process.stdout.close()
        # The kernel ends the I/O ring of a killed process, and so its lock, a moment later.
        with open(self.image, "r+b") as image:
            fcntl.fcntl(image, fcntl.F_OFD_SETLKW, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))


class Plumb(Vmm):
    name = "plumb"

    def __init__(self, build, folder, image, options=(), bus="virtio-blk"):
        super().__init__(build, folder, image)
        self.plumb = str(build / "bin/plumb")
        self.options = list(options)
        self.bus = bus

    def arguments(self, command):
        return [self.plumb, "run", "--name", "bench", "--memory", GUEST_MEMORY,
                "--kernel", self.probe, "--cmdline", command, "--disk", f"{self.image},bus={self.bus}",
                *self.options]


class Qemu(Vmm):
    name = "QEMU"

    def arguments(self, command):
        """The leanest QEMU: microvm without firmware options, a virtio-mmio disk on an iothread."""
        return [*self.machine("acpi=off"), "-append", command, *self.drive(),
                "-device", "virtio-blk-device,drive=d0,iothread=io0"]

    def machine(self, options):
        return ["qemu-system-x86_64", "-M",
                f"microvm,{options},rtc=off,pic=off,pit=off,isa-serial=on,x-option-roms=off,"
                "memory-backend=ram",
                "-accel", "kvm", "-cpu", "qemu64,-pni", "-m", GUEST_MEMORY,
                "-object", f"memory-backend-memfd,id=ram,size={GUEST_MEMORY}",
                "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
                "-no-reboot", "-kernel", self.probe,
                "-device", "isa-debug-exit,iobase=0xf4"]

    def drive(self):
        return ["-object", "iothread,id=io0", "-drive",
                f"if=none,id=d0,file={self.image},format=raw,cache=directsync,aio=io_uring"]


class QemuPci(Qemu):
    """With the bus that the probe guest's driver knows (it needs ACPI)."""

    def arguments(self, command):
        return [*self.machine("pcie=on"), "-append", command, *self.drive(),
                "-device", "virtio-blk-pci,drive=d0,iothread=io0"]


class QemuScsi(Qemu):
    """A SCSI disk, on the same bus."""

    def arguments(self, command):
        return [*self.machine("pcie=on"), "-append", command, *self.drive(),
                "-device", "virtio-scsi-pci,id=s0,iothread=io0",
                "-device", "scsi-hd,drive=d0,bus=s0.0"]


def cpu_seconds(pid):
    """CPU time of a process so far, less what its guest ran: (all of it, the guest's)."""
    ticks = os.sysconf("SC_CLK_TCK")
    all_ns, guest_ticks = 0, 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            all_ns += int((task / "schedstat").read_text().split()[0])
            guest_ticks += int((task / "stat").read_text().rsplit(")", 1)[1].split()[40])
        except (FileNotFoundError, ProcessLookupError):
            pass  # a worker of the kernel's that ended
    return all_ns / 1e9 - guest_ticks / ticks
