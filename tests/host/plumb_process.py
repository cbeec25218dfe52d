"""Runs plumb for the host tests: its programs, a folder of the test's own, the probe guest."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

BUILD = pathlib.Path(os.environ.get("PLUMB_BUILD", "build/dev")).resolve()
PLUMB = str(BUILD / "bin/plumb")
PROBE = str(BUILD / "bin/probe-guest")
SANITIZED = "asan" in str(BUILD)

# Far beyond what anything here takes; only so that a hang becomes a failure.
DEADLINE_S = 120


def kvm_missing():
    """Why guests cannot run here, or None."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "SKIPPED: /dev/kvm is not there, or not for this user"
    return None


class PlumbTest(unittest.TestCase):
    """A runtime folder and a work folder per test; every VM started is gone at its end."""

    def setUp(self):
        # Not /tmp: it may be a tmpfs, which has no direct I/O.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="plumb-test-", dir="/var/tmp"))
        self.environment = dict(os.environ, PLUMB_RUN_DIR=str(self.folder / "run"),
                                PLUMB_STATE_DIR=str(self.folder / "state"))
        self.started = []

    def tearDown(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=DEADLINE_S)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()
        for vm in self.vms():
            self.plumb("kill", vm["name"])
        shutil.rmtree(self.folder)

    def plumb(self, *arguments, before=()):
        """Runs a command to its end; `before` is put in front (unshare, setpriv, …)."""
        return subprocess.run([*before, PLUMB, *map(str, arguments)], env=self.environment,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace", timeout=DEADLINE_S, check=False)

    def start(self, *arguments):
        """Starts a command and leaves it running."""
        process = subprocess.Popen([PLUMB, *map(str, arguments)], env=self.environment,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, errors="replace")
        self.started.append(process)
        return process

    def wait_for_line(self, process, text):
        """Reads the process's output up to a line that contains `text`."""
        seen = []
        for line in process.stdout:
            seen.append(line)
            if text in line:
                return
        self.fail(f"no line with {text!r}; seen {seen}, errors {process.stderr.read()}")

    def vms(self):
        done = self.plumb("ps", "--json")
        return json.loads(done.stdout) if done.returncode == 0 else []

    def image(self, name="disk.img", size=64 << 20):
        """An image of written zeroes: unwritten extents would behave otherwise."""
        path = self.folder / name
        with open(path, "wb") as file:
            for _ in range(size // (1 << 20)):
                file.write(bytes(1 << 20))
            file.write(bytes(size % (1 << 20)))
        return path

    def run_probe(self, what, *more, name="probe"):
        return self.plumb("run", "--name", name, "--memory", "32M", "--kernel", PROBE,
                          "--cmdline", what, *more)

    def assert_refused(self, done, code, *texts):
        """One line on standard error with `texts`, the exit code, and nothing on standard output."""
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.startswith("plumb: ")]
        self.assertEqual(len(lines), 1, done.stderr)
        for text in texts:
            self.assertIn(text, lines[0])
        self.assertEqual(done.stdout, "")


def main():
    """Runs the module's tests; the closing line is what scripts/test.sh counts."""
    program = unittest.main(module="__main__", exit=False, verbosity=2)
    result = program.result
    # Several subtests of one test may fail.
    failed = len({getattr(test, "test_case", test).id() for test, _ in result.failures + result.errors})
    print(f"host: {result.testsRun - failed - len(result.skipped)} passed, {failed} failed, "
          f"{len(result.skipped)} skipped")
    sys.exit(1 if failed else 0)
