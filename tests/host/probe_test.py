#!/usr/bin/env python3
"""The real VMM on this host's /dev/kvm, of any kind: the probe guest reads, writes and verifies."""
import json
import pathlib
import subprocess
import unittest
import uuid

from plumb_process import DEADLINE_S, PROBE, SANITIZED, PlumbTest, kvm_missing, main

RESET, CRASH = 4, 5


@unittest.skipIf(kvm_missing(), str(kvm_missing()))
class ProbeTest(PlumbTest):
    def test_verify_on_both_engines(self):
        for engine in ("io_uring", "libaio"):
            with self.subTest(engine=engine):
                path = self.image(f"{engine}.img")
                done = self.run_probe("test", "--disk", f"{path},serial=S-{engine},engine={engine}")
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                self.assertIn("PROBE OK", done.stdout)
                self.assertIn("write-through 1", done.stdout)
                self.assertIn(f"serial S-{engine}", done.stdout)
                self.assertIn(f"sectors {64 * 2048}", done.stdout)
                # What the guest wrote is in the image: the pattern of block 0, generation 3.
                self.assertEqual(path.read_bytes()[:8],
                                 (0x9e3779b97f4a7c15 ^ 3 << 56).to_bytes(8, "little"))

    def test_verify_with_writeback(self):
        path = self.image()
        done = self.run_probe("test", "--disk", f"{path},cache=writeback")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("write-through 0", done.stdout)

    def test_verify_on_the_scsi_bus(self):
        path = self.image()
        done = self.run_probe("test", "--disk", f"{path},bus=scsi")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn(f"sectors {64 * 2048}", done.stdout)
        self.assertEqual(path.read_bytes()[:8],
                         (0x9e3779b97f4a7c15 ^ 3 << 56).to_bytes(8, "little"))

    def test_several_vcpus(self):
        path = self.image()
        done = self.run_probe("test", "--vcpus", "4", "--disk", path)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_read_only_disk_refuses_writes(self):
        path = self.image()
        done = self.run_probe("write count=1", "--disk", f"{path},read-only")
        self.assertIn("PROBE FAILED: a measured request", done.stdout)
        self.assertEqual(path.read_bytes(), bytes(64 << 20))


@unittest.skipIf(kvm_missing(), str(kvm_missing()))
class MisbehavingGuestTest(PlumbTest):
    def test_triple_fault_is_a_crash(self):
        done = self.run_probe("fault")
        self.assertEqual(done.returncode, CRASH, done.stdout + done.stderr)
        self.assertIn("crash", done.stderr)

    def test_spinning_guest_can_be_paused_and_killed(self):
        process = self.start("run", "--name", "a", "--memory", "32M", "--kernel", PROBE,
                             "--cmdline", "spin")
        self.wait_for_line(process, "spinning")
        self.assertEqual(self.plumb("pause", "a").returncode, 0)
        self.assertEqual([vm["state"] for vm in self.vms()], ["paused"])
        self.assertEqual(self.plumb("resume", "a").returncode, 0)
        self.assertEqual([vm["state"] for vm in self.vms()], ["running"])
        self.assertEqual(self.plumb("kill", "a").returncode, 0)
        process.wait(timeout=DEADLINE_S)
        self.assertEqual(self.vms(), [])

    def test_identity_of_a_running_vm_is_told(self):
        given = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
        # As docs/vm-definition.md says.
        of_names = uuid.UUID("c57fff79-8ea3-4713-8466-98cf6f8d3b91")
        for name, flags, wanted in (("a", (), uuid.uuid5(of_names, "a")),
                                    ("b", ("--uuid", given), uuid.UUID(given))):
            done = self.plumb("run", "--detach", "--name", name, "--memory", "32M",
                              "--kernel", PROBE, "--cmdline", "spin", *flags)
            self.assertEqual(done.returncode, 0, done.stderr)
            vm = {vm["name"]: vm for vm in self.vms()}[name]
            self.assertEqual(vm["uuid"], str(wanted))
            self.assertEqual(vm["generation_id"], str(uuid.uuid5(wanted, "generation-id")))
            self.assertEqual(self.plumb("kill", name).returncode, 0)

    def test_stop_kills_a_guest_that_ignores_the_power_button(self):
        done = self.plumb("run", "--detach", "--name", "a", "--memory", "32M", "--kernel", PROBE,
                          "--cmdline", "spin")
        self.assertEqual(done.returncode, 0, done.stderr)
        stopped = self.plumb("stop", "a", "--timeout", "1")
        self.assertEqual(stopped.returncode, 3)
        self.assertIn("it is killed", stopped.stderr)
        self.assertEqual(self.vms(), [])

    def test_console_flood_does_not_fill_memory(self):
        # Nobody reads the detached VM's console: 64 KiB of history is what it may keep.
        done = self.plumb("run", "--detach", "--name", "a", "--memory", "32M", "--kernel", PROBE,
                          "--cmdline", "flood")
        self.assertEqual(done.returncode, 0, done.stderr)
        console = self.start("console", "a")
        pid = self.vms()[0]["pid"]

        def private_kib_after(kib):
            seen = 0
            while seen < kib << 10:
                seen += len(console.stdout.readline())
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                return sum(int(line.split()[1]) for line in file if line.startswith("Private_Dirty"))

        full = private_kib_after(80)
        growth = private_kib_after(128) - full
        if not SANITIZED:  # sanitizers keep what was freed
            self.assertLess(growth, 64, "KiB that 128 KiB of flood have left")
        self.assertEqual(self.plumb("kill", "a").returncode, 0)


@unittest.skipIf(kvm_missing(), str(kvm_missing()))
class LifeTest(PlumbTest):
    def test_detached_vm_answers_and_ends(self):
        path = self.image(size=1 << 20)
        done = self.plumb("run", "--detach", "--name", "a", "--memory", "32M", "--vcpus", "2",
                          "--kernel", PROBE, "--cmdline", "spin", "--disk", f"{path},id=root")
        self.assertEqual(done.returncode, 0, done.stderr)
        vm = self.vms()[0]
        self.assertEqual((vm["name"], vm["state"], vm["vcpus"]), ("a", "running", 2))
        self.assertEqual(vm["disks"][0]["id"], "root")
        self.assertEqual(vm["disks"][0]["cache"], "writethrough")
        table = self.plumb("ps").stdout
        self.assertIn("running", table)
        self.assertEqual(self.plumb("kill", "a").returncode, 0)
        self.assertEqual(self.plumb("ps", "--json").stdout, "[]\n")

    def test_killed_process_gives_its_image_back(self):
        path = self.image(size=1 << 20)
        for _ in range(5):
            process = self.start("run", "--name", "a", "--memory", "32M", "--kernel", PROBE,
                                 "--cmdline", "spin", "--disk", path)
            self.wait_for_line(process, "spinning")
            process.kill()
            process.wait(timeout=DEADLINE_S)
            done = self.run_probe("hello", "--disk", path, name="a")
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_detached_vm_that_cannot_start_says_why(self):
        done = self.plumb("run", "--detach", "--name", "a", "--memory", "32M", "--kernel", "/none")
        self.assert_refused(done, 1, "/none", "No such file")

    def test_control_api_by_curl_and_bad_requests(self):
        done = self.plumb("run", "--detach", "--name", "a", "--memory", "32M", "--kernel", PROBE,
                          "--cmdline", "spin")
        self.assertEqual(done.returncode, 0, done.stderr)
        socket = self.folder / "run/a/control.sock"
        self.assertEqual(socket.stat().st_mode & 0o777, 0o600)

        def curl(*arguments):
            out = subprocess.run(["curl", "-s", "-w", "\n%{http_code}", "--unix-socket", socket,
                                  *arguments], capture_output=True, text=True, check=True,
                                 timeout=DEADLINE_S).stdout
            body, code = out.rsplit("\n", 1)
            return int(code), json.loads(body) if body.strip() else None

        self.assertEqual(curl("http://vm/vm")[0], 200)
        self.assertEqual(curl("http://vm/vm")[1]["name"], "a")
        self.assertEqual(curl("http://vm/none")[0], 404)
        self.assertEqual(curl("-X", "DELETE", "http://vm/vm")[0], 404)
        self.assertEqual(curl("-X", "PUT", "-d", "{broken", "http://vm/vm/pause")[0], 400)
        self.assertEqual(curl("http://vm/vm")[1]["state"], "running")
        self.assertEqual(curl("-X", "PUT", "http://vm/vm/kill")[0], 200)

    def test_signal_ends_the_vm(self):
        process = self.start("run", "--name", "a", "--memory", "32M", "--kernel", PROBE,
                             "--cmdline", "spin")
        self.wait_for_line(process, "spinning")
        process.terminate()
        for line in process.stderr:
            if "power button" in line:
                break
        process.terminate()
        self.assertEqual(process.wait(timeout=DEADLINE_S), 143)

    def test_process_of_a_running_vm_has_no_privileges(self):
        process = self.start("run", "--name", "a", "--memory", "32M", "--vcpus", "2", "--kernel",
                             PROBE, "--cmdline", "spin", "--disk", self.image())
        self.wait_for_line(process, "spinning")
        # An answer of the control API comes after the last step of the start.
        tasks = list(pathlib.Path(f"/proc/{self.vms()[0]['pid']}/task").iterdir())
        self.assertGreaterEqual(len(tasks), 5)
        for task in tasks:
            status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
            self.assertEqual(int(status["CapEff"], 16) | int(status["CapPrm"], 16), 0, task)
            self.assertEqual(status["NoNewPrivs"], "1", task)
            if not SANITIZED:
                self.assertEqual(status["Seccomp"], "2", task)


if __name__ == "__main__":
    main()
