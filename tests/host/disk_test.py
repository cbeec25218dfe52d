#!/usr/bin/env python3
"""Disks of a running VM: errors and what follows, growth, limits, statistics; and images made."""
import json
import os
import pathlib
import re
import subprocess
import time
import unittest

from plumb_process import DEADLINE_S, PROBE, PlumbTest, kvm_missing, main, PLUMB

MIB = 1 << 20
BLOCK = 4096


class ApiTest(PlumbTest):
    def start_vm(self, command, *more):
        return self.start("run", "--name", "a", "--memory", "32M", "--kernel", PROBE,
                          "--cmdline", command, *more)

    def get(self, target):
        socket = self.folder / "run/a/control.sock"
        return subprocess.run(["curl", "-s", "--unix-socket", socket, f"http://vm{target}"],
                              capture_output=True, text=True, timeout=DEADLINE_S, check=True).stdout

    def vm(self):
        return json.loads(self.get("/vm"))

    def wait_until(self, condition):
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            self.assertLess(time.monotonic(), deadline)


@unittest.skipIf(kvm_missing(), str(kvm_missing()))
class ErrorPolicyTest(ApiTest):
    """A file that shrank under the VM: reads behind its end fail."""

    def test_pause_keeps_the_request_and_resume_finishes_it(self):
        for engine in ("io_uring", "libaio"):
            with self.subTest(engine=engine):
                path = self.image("disk.img", 8 * MIB)
                process = self.start_vm("read count=300000 qd=8", "--disk",
                                        f"{path},id=data,on-error=pause,engine={engine}")
                self.wait_for_line(process, "BEGIN")
                os.truncate(path, 0)
                self.wait_until(lambda: self.vm()["state"] == "paused")
                vm = self.vm()
                self.assertRegex(vm["pause_reason"], r"^disk data \(image .*disk.img\): read of 4096 "
                                 r"bytes at \d+ failed: Input/output error; the VM is paused")
                self.assertEqual(vm["disks"][0]["state"], "stopped")
                self.assertIn("a is paused: disk data (image", self.plumb("ps").stdout)
                events = json.loads(self.get("/vm/events"))
                self.assertEqual([event["kind"] for event in events], ["disk-error", "paused"])
                self.assertEqual(events[0]["disk"], "data")
                # Still broken: it stops again, and no error reaches the guest.
                self.assertEqual(self.plumb("resume", "a").returncode, 0)
                self.wait_until(lambda: self.vm()["disks"][0]["statistics"]["stops"] == 2 and
                                self.vm()["state"] == "paused")
                os.truncate(path, 8 * MIB)
                self.assertEqual(self.plumb("resume", "a").returncode, 0)
                output, errors = process.communicate(timeout=DEADLINE_S)
                self.assertIn("END 300000", output, errors)
                self.assertEqual(process.returncode, 0)

    def test_report_gives_the_guest_the_error(self):
        path = self.image("disk.img", 8 * MIB)
        process = self.start_vm("read count=100000000 qd=8", "--disk", f"{path},on-error=report")
        self.wait_for_line(process, "BEGIN")
        os.truncate(path, 0)
        output, errors = process.communicate(timeout=DEADLINE_S)
        self.assertIn("PROBE FAILED: a measured request", output)
        self.assertRegex(errors, r"disk disk0 \(image .*\): read of 4096 bytes at \d+ failed: Input")

    def test_a_stopped_vm_can_be_killed(self):
        path = self.image("disk.img", 8 * MIB)
        process = self.start_vm("read count=100000000 qd=8", "--disk", f"{path},on-error=pause")
        self.wait_for_line(process, "BEGIN")
        os.truncate(path, 0)
        self.wait_until(lambda: self.vm()["state"] == "paused")
        self.assertEqual(self.plumb("kill", "a").returncode, 0)
        process.communicate(timeout=DEADLINE_S)
        self.assertEqual(process.returncode, 0)


@unittest.skipIf(kvm_missing(), str(kvm_missing()))
class ResizeTest(ApiTest):
    def setUp(self):
        super().setUp()
        self.path = self.image("disk.img", 8 * MIB)
        process = self.start_vm("spin", "--disk", f"{self.path},id=data")
        self.wait_for_line(process, "spinning")

    def test_an_image_grows_while_its_vm_runs(self):
        done = self.plumb("disk", "resize", "a", "data", "16M")
        self.assertEqual((done.returncode, done.stdout), (0, "data is 16 MiB now\n"), done.stderr)
        self.assertEqual(self.path.stat().st_size, 16 * MIB)
        self.assertEqual(self.vm()["disks"][0]["size_bytes"], 16 * MIB)

    def test_sizes_that_cannot_be_are_refused_and_nothing_changes(self):
        for size, text in (("4M", "a smaller disk would lose what is behind"),
                           ("10000001", "are not a multiple of the block size 512"),
                           ("nonsense", "nonsense")):
            done = self.plumb("disk", "resize", "a", "data", size)
            self.assert_refused(done, 2, text)
        self.assert_refused(self.plumb("disk", "resize", "a", "dat", "16M"), 10, "no disk 'dat'")
        self.assertEqual(self.path.stat().st_size, 8 * MIB)
        os.truncate(self.path, 4 * MIB)
        self.assert_refused(self.plumb("disk", "resize", "a", "data"), 1, "has shrunk from")
        self.assertEqual(self.vm()["disks"][0]["size_bytes"], 8 * MIB)


@unittest.skipIf(kvm_missing(), str(kvm_missing()))
class LimitsAndStatisticsTest(ApiTest):
    def test_a_limit_holds(self):
        path = self.image("disk.img", 8 * MIB)
        began = time.monotonic()
        done = self.run_probe("read count=2500 qd=32", "--disk", f"{path},iops=1000")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        # One second's worth at once, the rest at the rate. Slower is no error of ours.
        self.assertGreater(time.monotonic() - began, 1.4)

    def test_statistics_say_what_the_guest_did(self):
        path = self.image("disk.img", 8 * MIB)
        process = self.start_vm("write count=1000 qd=4 stay", "--disk", f"{path},id=data")
        self.wait_for_line(process, "PROBE OK")
        metrics = self.get("/metrics")
        self.assertIn('plumb_disk_requests_total{vm="a",disk="data",op="write"} 1000', metrics)
        self.assertIn(f'plumb_disk_bytes_total{{vm="a",disk="data",op="write"}} {1000 * BLOCK}',
                      metrics)
        self.assertIn('plumb_disk_latency_seconds_bucket{vm="a",disk="data",op="write",le="+Inf"} '
                      '1000', metrics)
        for line in metrics.splitlines():
            self.assertRegex(line, r'^(# (HELP|TYPE) \w+ .+|\w+\{[\w=",.+-]+\} [0-9.e+-]+)$')
        disks = json.loads(self.plumb("disk", "list", "a", "--json").stdout)
        self.assertEqual(disks[0]["statistics"]["write"]["requests"], 1000)
        self.assertRegex(self.plumb("disk", "list", "a").stdout, r"data +running +8 MiB .* 1000 +0")

    def test_threads_run_where_they_were_told(self):
        cpu = min(os.sched_getaffinity(0))
        process = self.start_vm("spin", "--vcpu-cpus", cpu, "--io-thread-cpus", cpu,
                                "--disk", self.image("disk.img", MIB))
        self.wait_for_line(process, "spinning")
        allowed = {}
        for task in pathlib.Path(f"/proc/{self.vm()['pid']}/task").iterdir():
            status = (task / "status").read_text()
            allowed[(task / "comm").read_text().strip()] = re.search(
                r"Cpus_allowed_list:\s*(\S+)", status).group(1)
        self.assertEqual(allowed["vcpu-0"], str(cpu))
        self.assertEqual(allowed["io-disk0"], str(cpu))

    def test_registered_memory_works_and_leaves_no_capability(self):
        path = self.image()
        done = self.run_probe("test", "--registered-memory", "--disk", path)
        if "RLIMIT_MEMLOCK" in done.stderr:
            self.skipTest("SKIPPED: neither CAP_IPC_LOCK nor a high RLIMIT_MEMLOCK")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        process = self.start_vm("spin", "--registered-memory", "--disk", path)
        self.wait_for_line(process, "spinning")
        tasks = list(pathlib.Path(f"/proc/{self.vm()['pid']}/task").iterdir())
        self.assertGreaterEqual(len(tasks), 4)
        for task in tasks:
            status = (task / "status").read_text()
            self.assertRegex(status, r"CapPrm:\s*0{16}\nCapEff:\s*0{16}", status)

    def test_registered_memory_needs_io_uring(self):
        done = self.run_probe("test", "--registered-memory", "--disk",
                              f"{self.image('disk.img', MIB)},engine=libaio")
        self.assert_refused(done, 1, "disk disk0: Linux AIO knows no registered memory")

    def test_cpus_that_are_not_there_are_refused(self):
        for key in ("--vcpu-cpus", "--io-thread-cpus"):
            done = self.run_probe("hello", key, "1000", "--disk", self.image("disk.img", MIB))
            self.assert_refused(done, 1, "cannot be kept to the host CPUs asked for")

    def test_trace_points_are_in_the_program(self):
        notes = subprocess.run(["readelf", "-n", pathlib.Path(PLUMB).parent / "plumb-vm"],
                               capture_output=True, text=True, check=True).stdout
        for name in ("disk_submit", "disk_complete"):
            self.assertRegex(notes, rf"Provider: plumb\s+Name: {name}\s")


class ImageTest(PlumbTest):
    def test_an_image_is_made_whole_and_never_over_another(self):
        path = self.folder / "new.img"
        done = self.plumb("image", "create", path, "5M")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        self.assertEqual(path.stat().st_size, 5 * MIB)
        self.assertGreaterEqual(path.stat().st_blocks * 512, 5 * MIB)
        self.assert_refused(self.plumb("image", "create", path, "5M"), 1, "exists already")
        self.assert_refused(self.plumb("image", "create", self.folder / "b", "1000"), 2,
                            "multiple of 4096")
        self.assertFalse((self.folder / "b").exists())


if __name__ == "__main__":
    main()
