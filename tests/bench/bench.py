#!/usr/bin/env python3
"""Benchmarks of the VM's process beside QEMU microvm. Prints a table; --json writes the figures as
[{"name", "unit", "ours", "peers": {…}}], medians. Exit code 1 when a goal is missed."""
import argparse
import fcntl
import json
import os
import pathlib
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

GUEST_MEMORY = "256M"
DEADLINE_S = 60


class Bench:
    def __init__(self, build, folder):
        self.plumb = str(build / "bin/plumb")
        self.probe = str(build / "bin/probe-guest")
        self.folder = folder
        self.image = folder / "disk.img"
        self.image.write_bytes(bytes(16 << 20))

    def ours(self, command):
        return [self.plumb, "run", "--name", "bench", "--memory", GUEST_MEMORY,
                "--kernel", self.probe, "--cmdline", command, "--disk", str(self.image)]

    def qemu(self, command):
        """The leanest QEMU: microvm without firmware options, a virtio-mmio disk on an iothread."""
        return ["qemu-system-x86_64", "-M",
                "microvm,acpi=off,rtc=off,pic=off,pit=off,isa-serial=on,x-option-roms=off,"
                "memory-backend=ram",
                "-accel", "kvm", "-cpu", "qemu64,-pni", "-m", GUEST_MEMORY,
                "-object", f"memory-backend-memfd,id=ram,size={GUEST_MEMORY}",
                "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
                "-no-reboot", "-kernel", self.probe, "-append", command,
                "-object", "iothread,id=io0",
                "-drive", f"if=none,id=d0,file={self.image},format=raw,cache=directsync,aio=io_uring",
                "-device", "virtio-blk-device,drive=d0,iothread=io0",
                "-device", "isa-debug-exit,iobase=0xf4"]

    def start(self, command):
        environment = dict(os.environ, PLUMB_RUN_DIR=str(self.folder / "run"))
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def first_output_ms(self, command):
        """From exec to the first byte that the guest's first instructions print."""
        began = time.perf_counter()
        process = self.start(command)
        byte = os.read(process.stdout.fileno(), 1)
        taken = (time.perf_counter() - began) * 1000
        process.stdout.read()
        process.wait(timeout=DEADLINE_S)
        if byte != b"P":
            sys.exit(f"bench: the guest of {command[0]} printed {byte!r}")
        return taken

    def overhead_mib(self, command):
        """PSS of the process while the guest runs, without the mapping of the guest's memory."""
        process = self.start(command)
        line = b""
        while b"spinning" not in line:
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"bench: the guest of {command[0]} ended: exit {process.wait()}")
        pss_kib, guest = 0, False
        with open(f"/proc/{process.pid}/smaps", encoding="utf-8") as smaps:
            for row in smaps:
                words = row.split()
                if not words[0].endswith(":"):
                    guest = "memfd:" in row
                elif words[0] == "Pss:" and not guest:
                    pss_kib += int(words[1])
        process.kill()
        process.wait(timeout=DEADLINE_S)
        process.stdout.close()
        self.wait_for_image()
        return pss_kib / 1024

    def wait_for_image(self):
        """The kernel ends the I/O ring of a killed process, and so its lock, a moment later."""
        with open(self.image, "r+b") as image:
            fcntl.fcntl(image, fcntl.F_OFD_SETLKW, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))


# name → (unit, measuring method, guest command, runs, goal as text, goal as a test of ours and QEMU's)
BENCHMARKS = {
    "start": ("ms", Bench.first_output_ms, "hello", 15, "≤ 0.15 × QEMU",
              lambda ours, qemu: ours <= 0.15 * qemu),
    "memory": ("MiB", Bench.overhead_mib, "spin", 5, "≤ 5 MB",
               lambda ours, qemu: ours * 1.048576 <= 5),
}


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench.sh")
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--build", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--runs", type=int)
    arguments = parser.parse_args()
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        sys.exit("SKIPPED: /dev/kvm is not there, or not for this user")
    unit, measure, command, runs, goal, met = BENCHMARKS[arguments.name]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="plumb-bench-", dir="/var/tmp"))
    try:
        bench = Bench(arguments.build.resolve(), folder)
        ours, qemu = [], []
        for _ in range(arguments.runs or runs):
            ours.append(measure(bench, bench.ours(command)))
            qemu.append(measure(bench, bench.qemu(command)))
    finally:
        shutil.rmtree(folder)
    mine, theirs = statistics.median(ours), statistics.median(qemu)
    good = met(mine, theirs)
    print(f"{'benchmark':<10} {'plumb':>12} {'QEMU':>12} {'ratio':>7}  goal")
    print(f"{arguments.name:<10} {mine:>8.1f} {unit:<3} {theirs:>8.1f} {unit:<3} "
          f"{mine / theirs:>7.2f}  {goal}: {'met' if good else 'MISSED'}")
    if arguments.json:
        arguments.json.write_text(json.dumps([{"name": arguments.name, "unit": unit, "ours": mine,
                                               "peers": {"qemu": theirs}}], indent=1) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
