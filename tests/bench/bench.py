#!/usr/bin/env python3
"""Benchmarks of the VM's process beside QEMU's and fio. Prints a table; --json writes the figures as
[{"name", "unit", "ours", "peers": {…}, "ratios": {…}}]. Figures are medians; a ratio is the median of
those of runs next to each other in time, because a host's disk may change its speed from one minute to
the next. Exit code 1 when a goal is missed."""
import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import libvirt_test
from vmm import DEADLINE_S, Plumb, Qemu, QemuPci, QemuScsi, cpu_seconds

SMALL_IMAGE_MIB, KEPT_IMAGE_MIB, COW_IMAGE_MIB, IMAGE_MIB = 16, 32, 256, 512
LAB = pathlib.Path(__file__).resolve().parents[1] / "lab"


def median(values):
    return statistics.median(values)


def run_plumb(bench, *arguments):
    """What the command prints."""
    build, folder, _ = bench.place
    done = subprocess.run([build / "bin/plumb", *arguments], timeout=DEADLINE_S, capture_output=True, text=True,
                          env=dict(os.environ, PLUMB_RUN_DIR=str(folder / "run")), check=False)
    if done.returncode != 0:
        sys.exit(f"bench: plumb {' '.join(arguments)}: {done.stderr}")
    return done.stdout


# ---- start, memory ----------------------------------------------------------------------------------

def first_output_ms(vmm):
    """From exec to the first byte that the guest's first instructions print."""
    began = time.perf_counter()
    process = vmm.start("hello")
    byte = os.read(process.stdout.fileno(), 1)
    taken = (time.perf_counter() - began) * 1000
    process.stdout.read()
    process.wait(timeout=DEADLINE_S)
    if byte != b"P":
        sys.exit(f"bench: the guest of {vmm.name} printed {byte!r}")
    return taken


def pss_kib(pid):
    """Of the process and its children, without the mapping of the guest's memory."""
    total, guest = 0, False
    with open(f"/proc/{pid}/smaps", encoding="utf-8") as smaps:
        for row in smaps:
            words = row.split()
            if not words[0].endswith(":"):
                guest = "memfd:" in row
            elif words[0] == "Pss:" and not guest:
                total += int(words[1])
    for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        total += sum(pss_kib(int(child)) for child in children.read_text().split())
    return total


def overhead_mib(vmm):
    """What the VM's processes take while the guest runs."""
    process = vmm.start("spin")
    vmm.read_until(process, b"spinning")
    mib = pss_kib(process.pid) / 1024
    vmm.kill(process)
    return mib


def run_small(name, unit, measure, runs, goal, met):
    def run(bench):
        ours, theirs = [], []
        for _ in range(bench.runs or runs):
            ours.append(measure(Plumb(*bench.place)))
            theirs.append(measure(Qemu(*bench.place)))
        bench.add(name, unit, ours, {"qemu": theirs}, goal, met)
    return run


# ---- io, cpu, syscalls ------------------------------------------------------------------------------

# (kind, depth, requests of a run)
CASES = (("read", 1, 8000), ("write", 1, 4000), ("read", 32, 50000), ("write", 32, 20000))


def guest_io(vmm, kind, depth, count):
    """(I/Os a second, microseconds of host CPU an I/O), between the guest's BEGIN and END."""
    process = vmm.start(f"{kind} qd={depth} count={count} stay")
    vmm.read_until(process, b"BEGIN")
    began, cpu_began = time.perf_counter(), cpu_seconds(process.pid)
    vmm.read_until(process, b"END")
    taken, cpu = time.perf_counter() - began, cpu_seconds(process.pid) - cpu_began
    vmm.kill(process)
    return count / taken, cpu / count * 1e6


def fio_iops(image, kind, depth, count):
    done = subprocess.run(
        ["fio", "--name=host", f"--filename={image}", f"--rw=rand{kind}", "--bs=4k", "--direct=1",
         "--sync=dsync", "--ioengine=io_uring", f"--iodepth={depth}", "--norandommap",
         f"--size={IMAGE_MIB}M", f"--number_ios={count}", "--output-format=json"],
        capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    return json.loads(done.stdout)["jobs"][0][kind]["iops"]


def run_scsi_io(bench):
    for kind, depth, count in CASES:
        ours, theirs, block = [], [], []
        for _ in range(bench.runs or 11):
            ours.append(guest_io(bench.ours(), kind, depth, count)[0])
            theirs.append(guest_io(QemuScsi(*bench.place), kind, depth, count)[0])
            block.append(guest_io(bench.ours("virtio-blk"), kind, depth, count)[0])
        bench.add(f"scsi {kind} qd={depth}", "IOPS", ours, {"qemu": theirs, "virtio-blk": block},
                  "≥ 0.9 virtio-blk; ≥ QEMU", lambda _, qemu, block: block >= 0.9 and qemu >= 1)


def run_io(bench):
    if bench.bus == "scsi":
        return run_scsi_io(bench)
    for kind, depth, count in CASES:
        ours, theirs, host = [], [], []
        for _ in range(bench.runs or 11):
            ours.append(guest_io(bench.ours(), kind, depth, count)[0])
            theirs.append(guest_io(QemuPci(*bench.place), kind, depth, count)[0])
            host.append(fio_iops(bench.image, kind, depth, count))
        room = median(fio / qemu for fio, qemu in zip(host, theirs))
        bench.add(f"io {kind} qd={depth}", "IOPS", ours, {"qemu": theirs, "fio": host},
                  "≥ 0.95 fio; ≥ 1.3 QEMU where fio leaves room",
                  lambda _, qemu, fio: fio >= 0.95 and qemu >= (1.3 if room >= 1.3 else 1))


def run_cpu(bench):
    for kind, depth, count in CASES:
        ours, theirs = [], []
        for _ in range(bench.runs or 11):
            ours.append(guest_io(bench.ours(), kind, depth, count)[1])
            theirs.append(guest_io(QemuPci(*bench.place), kind, depth, count)[1])
        goal = "≤ 0.6 QEMU" if depth == 32 else "no goal"
        bench.add(f"cpu {kind} qd={depth}", "µs", ours, {"qemu": theirs}, goal,
                  lambda _, qemu, deep=depth == 32: not deep or qemu <= 0.6)


def system_calls(vmm, kind, count):
    """System calls of the process per 1,000 I/Os: those of a long run less those of a short one."""
    def traced(requests):
        log = vmm.folder / "strace.log"
        process = subprocess.Popen(
            ["strace", "-f", "-c", "-o", log,
             *vmm.arguments(f"{kind} qd=32 batch=16 count={requests}")],
            env=dict(os.environ, PLUMB_RUN_DIR=str(vmm.folder / "run")), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        process.wait(timeout=DEADLINE_S)
        total = re.search(r"^100\.00\s+\S+\s+\S+\s+(\d+)\b.*total$", log.read_text(), re.MULTILINE)
        return int(total.group(1))
    short = count // 10
    return (traced(count) - traced(short)) / (count - short) * 1000


def io_thread_waits(vmm, kind, count):
    """Waits of the disk's thread per 1,000 I/Os, by its own count: unlike strace that slows nothing."""
    process = vmm.start(f"{kind} qd=32 batch=16 count={count} stay")
    vmm.read_until(process, b"END")
    status = subprocess.run(["curl", "-s", "--unix-socket", vmm.folder / "run/bench/control.sock",
                             "http://vm/vm"], capture_output=True, timeout=DEADLINE_S, check=True)
    vmm.kill(process)
    return json.loads(status.stdout)["disks"][0]["io_thread_waits"] / count * 1000


def run_syscalls(bench):
    for kind in ("read", "write"):
        ours, theirs = [], []
        for _ in range(bench.runs or 3):
            ours.append(system_calls(bench.ours(), kind, 20000))
            theirs.append(system_calls(QemuPci(*bench.place), kind, 20000))
        bench.add(f"syscalls {kind} qd=32 batch=16", "per 1000", ours, {"qemu": theirs}, "≤ 150",
                  lambda ours, _: ours <= 150)
    for kind in ("read", "write"):
        waits = [io_thread_waits(bench.ours(), kind, 40000) for _ in range(bench.runs or 3)]
        bench.add(f"waits {kind} qd=32 batch=16", "per 1000", waits, {}, "≤ 150",
                  lambda ours: ours <= 150)


# ---- cow --------------------------------------------------------------------------------------------

def cow_bursts(bench, snapshots, depth, burst):
    """Writes a second of a disk with so many kept snapshots, and without any, burst by burst:
    {"cold": ([…], […]), "warm": …}; see cow_bench.cc."""
    build, folder, image = bench.place
    with tempfile.TemporaryDirectory(dir=folder) as overlays:
        done = subprocess.run([build / "bin/cow_bench", image, overlays, str(snapshots), str(depth), str(burst)],
                              capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    bursts = {"cold": ([], []), "warm": ([], [])}
    for name, kept, plain in map(str.split, done.stdout.splitlines()):
        bursts[name][0].append(float(kept))
        bursts[name][1].append(float(plain))
    return bursts


def run_cow(bench):
    """Writes to grains that are kept cost as much as without a snapshot, and the first write to a grain
    as much with many snapshots as with one."""
    for depth, burst in ((1, 50), (32, 200)):
        runs = {kept: [] for kept in (1, 10, 30)}
        for _ in range(bench.runs or 5):
            for kept, of in runs.items():
                of.append(cow_bursts(bench, kept, depth, burst))
        with_one = None
        for kept, of in runs.items():
            def add(name, goal, met, of=of, kept=kept):
                ours, plain = (sum((run[name][i] for run in of), []) for i in (0, 1))
                bench.add(f"cow {name} qd={depth} kept={kept}", "writes/s", ours, {"none": plain}, goal, met)
                return bench.results[-1]["ratios"]["none"]
            add("warm", "≥ 0.9 none", lambda _, none: none >= 0.9)
            one = with_one
            cold = add("cold", "≥ 0.8 of the ratio with 1",
                       lambda _, none, one=one: one is None or none >= 0.8 * one)
            with_one = with_one or cold


# ---- kept -------------------------------------------------------------------------------------------

KEPT = (1, 10, 30)


class Reflinks:
    """An XFS with two images of the same size; of one of them snapshots are taken."""

    def __init__(self, bench):
        self.bench = bench
        self.folder = bench.place[1]
        self.mount = self.folder / "xfs"
        self.mount.mkdir()
        disk = self.folder / "xfs.img"
        with open(disk, "wb") as file:
            file.truncate(2 << 30)
        subprocess.run(["mkfs.xfs", "-q", disk], check=True)
        subprocess.run(["mount", "-o", "loop", disk, self.mount], check=True)
        self.kept, self.plain = (self.mount / name for name in ("kept.img", "plain.img"))
        for image in (self.kept, self.plain):
            image.write_bytes(bytes(KEPT_IMAGE_MIB << 20))
        os.sync()

    def vm(self, image):
        return Plumb(self.bench.place[0], self.folder, image, self.bench.options)

    def ids(self):
        return [one["id"] for one in json.loads(run_plumb(self.bench, "snapshot", "list", "--json"))]

    def keep(self, count):
        """So many are kept then, the newest of this moment; writes lie between them."""
        for newest in self.ids()[count - 1:]:
            run_plumb(self.bench, "snapshot", "delete", newest)
        for _ in range(count - len(self.ids())):
            vm = self.vm(self.kept)
            process = vm.start("write qd=32 count=2000 stay")
            vm.read_until(process, b"END")
            run_plumb(self.bench, "snapshot", "create", "bench", "--quiesce", "crash")
            vm.kill(process)

    def end(self):
        subprocess.run(["umount", self.mount], check=True)


def run_kept(bench):
    """What a guest's writes cost with snapshots kept by the file system, next to an image without any:
    "cold" when the newest snapshot has just been taken, "warm" when most was written since."""
    if os.geteuid() != 0 or shutil.which("mkfs.xfs") is None:
        sys.exit("SKIPPED: needs root and mkfs.xfs, to mount a file system with reflinks")
    images = Reflinks(bench)
    try:
        for depth, count in ((1, 500), (32, 3000)):
            with_one = None
            for kept in KEPT:
                rates = {"cold": ([], []), "warm": ([], [])}
                for _ in range(bench.runs or 5):
                    images.keep(kept)
                    for name, (ours, plain) in rates.items():
                        if name == "warm":
                            guest_io(images.vm(images.kept), "write", 32, 4 * KEPT_IMAGE_MIB << 8)
                        ours.append(guest_io(images.vm(images.kept), "write", depth, count)[0])
                        plain.append(guest_io(images.vm(images.plain), "write", depth, count)[0])
                bench.add(f"reflink warm qd={depth} kept={kept}", "writes/s", rates["warm"][0],
                          {"none": rates["warm"][1]}, "≥ 0.9 none", lambda _, none: none >= 0.9)
                bench.add(f"reflink cold qd={depth} kept={kept}", "writes/s", rates["cold"][0],
                          {"none": rates["cold"][1]}, "≥ 0.8 of the ratio with 1",
                          lambda _, none, one=with_one: one is None or none >= 0.8 * one)
                with_one = with_one or bench.results[-1]["ratios"]["none"]
    finally:
        images.end()


# ---- freeze -----------------------------------------------------------------------------------------

def percentile(values, share):
    """The value that so large a share of them does not exceed."""
    return sorted(values)[max(0, -(-len(values) * share // 100) - 1)]


def run_freeze(bench):
    """First a guest of libvirt, which QEMU emulates, on this host; then guests of plumb in the lab, where
    the host is emulated too: each of our steps takes many times as long there as on a machine, and so
    does what it is measured against."""
    freeze_on_host(bench)
    freeze_in_lab(bench)


def add_other_guest(bench, name, usual, during):
    """Of the writes of a guest that is not frozen, ms, a list a round. Rounds without it differ in their p99; the p99 of
    all writes beside snapshots is to be within that spread. (The worst round of each would say little: of two that are
    the same one is the worse.)"""
    usual = [percentile(round_, 99) for round_ in usual if len(round_) >= 20]
    bench.add_spread(f"{name}: other's p99, usual", "ms", usual, None)
    p99 = percentile([ms for round_ in during for ms in round_], 99)
    bench.add_spread(f"{name}: other's p99, during", "ms", [p99], percentile(usual, 99))


def add_freezes(bench, name, rounds):
    """Of snapshots as `plumb snapshot create --json` tells of them."""
    copied = [one["copied_us"] / 1000 for one in rounds]
    bench.add_spread(f"{name}: frozen", "ms", [one["members"][0]["frozen_ms"] for one in rounds],
                     50 + percentile(copied, 99))
    bench.add_spread(f"{name}: disks held", "ms",
                     [one["members"][0]["held_us"] / 1000 for one in rounds], None)
    bench.add_spread(f"{name}: array", "ms", copied, None)


class OtherGuest:
    """A guest that writes without end, and has nothing to do with the snapshot but its file system."""
    NAME = "other"
    IMAGE_MIB = 32

    def __init__(self, bench, folder):
        self.bench = bench
        image = folder / "other.img"
        image.write_bytes(bytes(self.IMAGE_MIB << 20))
        run_plumb(bench, "run", "--detach", "--name", self.NAME, "--memory", "32M", "--kernel",
                  str(bench.place[0] / "bin/probe-guest"), "--cmdline", "write count=1000000000 qd=1",
                  "--disk", f"{image},id=data")

    def writes(self):
        """How many writes took at most so many milliseconds, and more than the next fewer."""
        disk = json.loads(run_plumb(self.bench, "disk", "list", self.NAME, "--json"))[0]
        buckets = disk["statistics"]["write"]["latency"]["buckets"]
        return {one.get("up_to_ns", 1 << 35) / 1e6: one["count"] for one in buckets}

    def writes_of(self, action):
        """What the writes meanwhile took, each to a factor of two."""
        before = self.writes()
        action()
        grown = {limit: count - before.get(limit, 0) for limit, count in self.writes().items()}
        return [limit for limit, count in grown.items() for _ in range(count)]

    def end(self):
        run_plumb(self.bench, "kill", self.NAME)


def freeze_on_host(bench):
    reason = libvirt_test.missing()
    if reason:
        print(f"libvirt guest: {reason}")
        return
    libvirt = libvirt_test.Libvirt()
    other = None
    try:
        libvirt.domain("bench", libvirt.disk("bench", "vda", 32 << 20) + libvirt_test.AGENT)
        while libvirt.try_virsh("domfsinfo", "bench").returncode != 0:
            libvirt.check_runs()
        other = OtherGuest(bench, libvirt.images)
        create = ("snapshot", "create", "bench", "--require", "fs", f"--libvirt={libvirt.uri}", "--json")
        rounds, usual, during = [], [], []
        for _ in range(bench.runs or 100):
            # The same command, with all but the freeze and the copy.
            usual.append(other.writes_of(lambda: run_plumb(bench, *create, "--dry-run")))
            during.append(other.writes_of(lambda: rounds.append(json.loads(run_plumb(bench, *create)))))
            run_plumb(bench, "snapshot", "delete", rounds[-1]["id"])
        add_freezes(bench, "libvirt, reflink", rounds)
        add_other_guest(bench, "libvirt", usual, during)
    finally:
        if other:
            other.end()
        libvirt.end()


def freeze_in_lab(bench):
    done = subprocess.run([LAB / "run", "--build", bench.place[0], "bench-freeze"],
                          stdout=subprocess.PIPE, text=True, check=False)
    figures = [json.loads(row.removeprefix("FIGURE ")) for row in done.stdout.splitlines()
               if row.startswith("FIGURE ")]
    if done.returncode != 0:
        sys.exit("bench: the lab's case failed:\n" + done.stdout[-2000:])
    for array in ("reflink", "dm-thin"):
        rounds = [one for one in figures if one["array"] == array and "snapshot" in one]
        add_freezes(bench, array, [one["snapshot"] for one in rounds])
        bench.add_spread(f"{array}: a writer waits", "ms", [one["seen_us"] / 1000 for one in rounds], None)
        add_other_guest(bench, array, *([[us / 1000 for us in one[key]] for one in rounds]
                                        for key in ("other_usual_us", "other_us")))
    for array in ("reflink", "dm-thin"):
        kept = {one["kept"]: one["took_us"] for one in figures if one["array"] == array and "kept" in one}
        for count, took in kept.items():
            bench.add_spread(f"{array}: writes, {count} kept", "ms", [us / 1000 for us in took],
                             None if count < 10 else 1.2 * percentile(kept[1], 99) / 1000)


BENCHMARKS = {
    "start": (SMALL_IMAGE_MIB, run_small("start", "ms", first_output_ms, 15, "≤ 0.15 QEMU",
                                         lambda _, qemu: qemu <= 0.15)),
    "memory": (SMALL_IMAGE_MIB, run_small("memory", "MiB", overhead_mib, 5, "≤ 5 MB",
                                          lambda ours, _: ours * 1.048576 <= 5)),
    "io": (IMAGE_MIB, run_io),
    "cpu": (IMAGE_MIB, run_cpu),
    "syscalls": (IMAGE_MIB, run_syscalls),
    "cow": (COW_IMAGE_MIB, run_cow),
    "kept": (0, run_kept),
    "freeze": (0, run_freeze),
}


class Bench:
    """A folder with an image, and the results so far."""

    def __init__(self, arguments, folder, image_mib):
        self.runs = arguments.runs
        self.options = arguments.option
        self.bus = arguments.bus
        self.image = folder / "disk.img"
        with open(self.image, "wb") as image:
            for _ in range(image_mib):
                image.write(bytes(1 << 20))
            os.fsync(image.fileno())
        self.place = (arguments.build.resolve(), folder, self.image)
        self.results = []
        self.all_met = True
        self.columns = None

    def ours(self, bus=None):
        return Plumb(*self.place, self.options, bus or self.bus)

    def add(self, name, unit, ours, peers, goal, met):
        """Records a result and prints its row: our runs, and those of each peer, in the same order.
        `met` is asked with our median and the ratios."""
        ratios = {peer: median(mine / its for mine, its in zip(ours, theirs))
                  for peer, theirs in peers.items()}
        peers = {peer: median(theirs) for peer, theirs in peers.items()}
        ours = median(ours)
        if self.columns is None:
            self.columns = list(peers)
            print(f"{'benchmark':<28} {'unit':<9} {'plumb':>10}" +
                  "".join(f" {peer:>10} {'ratio':>6}" for peer in peers) + "  goal")
        cells = [f" {peers[peer]:>10.1f} {ratios[peer]:>6.2f}" if peer in peers else " " * 18
                 for peer in self.columns]
        good = met(ours, *ratios.values())
        print(f"{name:<28} {unit:<9} {ours:>10.1f}{''.join(cells)}"
              f"  {goal}: {'met' if good else 'MISSED'}", flush=True)
        self.results.append({"name": name, "unit": unit, "ours": ours, "peers": peers,
                             "ratios": ratios})
        self.all_met &= good

    def add_spread(self, name, unit, values, limit):
        """The same of something that has no peer: median and 99th percentile, which is to be at most
        `limit`; None: there is no goal."""
        p50, p99 = (percentile(values, share) for share in (50, 99))
        if not self.results:
            print(f"{'benchmark':<28} {'unit':<5} {'p50':>9} {'p99':>9}  goal of p99")
        good = limit is None or p99 <= limit
        goal = "none" if limit is None else f"≤ {limit:.1f}: {'met' if good else 'MISSED'}"
        print(f"{name:<28} {unit:<5} {p50:>9.1f} {p99:>9.1f}  {goal}", flush=True)
        self.results.append({"name": name, "unit": unit, "ours": p50, "p99": p99, "peers": {}})
        self.all_met &= good


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench.sh")
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--build", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--bus", choices=("virtio-blk", "scsi"), default="virtio-blk",
                        help="of the disk; with scsi, io compares with QEMU's virtio-scsi and our virtio-blk")
    parser.add_argument("--option", action="append", default=[],
                        help="an option for plumb run, such as --option=--io-poll-us=0")
    arguments = parser.parse_args()
    if arguments.bus == "scsi" and arguments.name != "io":
        parser.error("--bus scsi is for io")
    if arguments.name not in ("cow", "freeze") and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        sys.exit("SKIPPED: /dev/kvm is not there, or not for this user")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="plumb-bench-", dir="/var/tmp"))
    os.environ |= {"PLUMB_STATE_DIR": str(folder / "state"), "PLUMB_CONFIG": str(folder / "plumb.toml")}
    image_mib, run = BENCHMARKS[arguments.name]
    try:
        bench = Bench(arguments, folder, image_mib)
        run(bench)
    finally:
        shutil.rmtree(folder)
    if arguments.json:
        arguments.json.write_text(json.dumps(bench.results, indent=1) + "\n")
    return 0 if bench.all_met else 1


if __name__ == "__main__":
    sys.exit(main())
