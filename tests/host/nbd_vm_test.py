#!/usr/bin/env python3
"""Disks of VMs that do not run, served by `plumb nbd serve` to the clients that people use, plain and under TLS."""
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import subprocess
import unittest

from plumb_process import DEADLINE_S, PROBE, SANITIZED, PlumbTest, kvm_missing, main

MIB = 1 << 20
HOLES = [(0, 4 * MIB, 3), (4 * MIB, MIB, 0), (5 * MIB, 11 * MIB, 3)]


def missing(*programs):
    """Why a test has nobody to serve to, or None."""
    for program in programs:
        if shutil.which(program) is None:
            return f"SKIPPED: {program} is not installed"
    return None


def fio_missing():
    if missing("fio"):
        return missing("fio")
    engines = subprocess.run(["fio", "--enghelp"], capture_output=True, text=True, timeout=DEADLINE_S, check=False).stdout
    return None if re.search(r"^\s*nbd$", engines, re.MULTILINE) else "SKIPPED: this fio has no nbd engine"


def needs(*programs):
    return unittest.skipIf(missing(*programs), str(missing(*programs)))


class ServeTest(PlumbTest):
    def setUp(self):
        super().setUp()
        self.environment["PLUMB_CONFIG"] = str(self.folder / "plumb.toml")
        self.socket = self.folder / "nbd.sock"
        self.uri = f"nbd+unix:///?socket={self.socket}"

    def sparse_image(self, name):
        """Holes, and data between them: HOLES."""
        path = self.folder / name
        with open(path, "wb") as file:
            file.truncate(16 * MIB)
            file.seek(4 * MIB)
            file.write(os.urandom(MIB))
        return path

    def definition(self, name, **disks):
        """The definition of a VM with these images."""
        path = self.folder / f"{name}.toml"
        tables = "".join(f'[[disk]]\nid = "{disk}"\nimage = "{image}"\n' for disk, image in disks.items())
        path.write_text(f'name = "{name}"\nkernel = "{PROBE}"\nmemory = "32M"\n{tables}')
        return path

    def serve(self, *arguments, exports=1):
        """A server; returns it, and the addresses that it tells."""
        server = self.start("nbd", "serve", *arguments)
        lines = [server.stdout.readline() for _ in range(exports)]
        for line in lines:
            self.assertIn(" is served at ", line, server.stderr.read() if not line else "")
        return server, [line.split(" is served at ")[1].strip() for line in lines]

    def end(self, server):
        server.send_signal(signal.SIGTERM)
        self.assertEqual(server.wait(timeout=DEADLINE_S), 0, server.stderr.read())

    def client(self, *command):
        # nbdsh runs the distribution's Python, whose library it has.
        environment = dict(os.environ, PATH=f"/usr/bin:{os.environ['PATH']}")
        return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=DEADLINE_S, check=False,
                              env=environment)

    def succeeds(self, *command):
        done = self.client(*command)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def keys(self, name="keys", users=("ann",)):
        path = self.folder / name
        for user in users:
            self.succeeds("psktool", "-u", user, "-p", path)
        path.chmod(0o600)
        return path

    def content(self, uri=None):
        copy = self.folder / "copy.img"
        copy.unlink(missing_ok=True)
        self.succeeds("nbdcopy", uri or self.uri, copy)
        return copy.read_bytes()


@needs("nbdcopy", "nbdinfo", "qemu-img")
class ReadTest(ServeTest):
    def test_holes_are_told_and_kept(self):
        image = self.sparse_image("a.img")
        server, _ = self.serve(self.definition("a", data=image), "--socket", self.socket)
        told = json.loads(self.succeeds("nbdinfo", "--map", "--json", self.uri))
        self.assertEqual([(one["offset"], one["length"], one["type"]) for one in told], HOLES)
        self.assertEqual(self.content(), image.read_bytes())
        self.assertLess((self.folder / "copy.img").stat().st_blocks * 512, 2 * MIB)
        mapped = json.loads(self.succeeds("qemu-img", "map", "--output=json", self.uri))
        self.assertEqual([(one["start"], one["length"], one["zero"]) for one in mapped],
                         [(offset, length, kind == 3) for offset, length, kind in HOLES])
        converted = self.folder / "converted.qcow2"
        self.succeeds("qemu-img", "convert", "-O", "qcow2", self.uri, converted)
        self.assertIn("identical", self.succeeds("qemu-img", "compare", "-f", "raw", "-F", "qcow2", self.uri, converted))
        self.end(server)
        self.assertFalse(self.socket.exists())

    def test_all_disks_of_a_vm_are_listed_and_served(self):
        images = {name: self.sparse_image(f"{name}.img") for name in ("root", "data", "log")}
        server, _ = self.serve(self.definition("a", **images), "--socket", self.socket, exports=3)
        listed = json.loads(self.succeeds("nbdinfo", "--list", "--json", self.uri))["exports"]
        self.assertEqual({one["export-name"] for one in listed}, {"a/root", "a/data", "a/log"})
        for one in listed:
            self.assertEqual((one["is_read_only"], one["can_multi_conn"], one["contexts"]),
                             (True, True, ["base:allocation"]))
        for name, image in images.items():
            self.assertEqual(self.content(f"nbd+unix:///a/{name}?socket={self.socket}"), image.read_bytes())
        self.assertNotEqual(self.client("nbdinfo", self.uri).returncode, 0)  # which of them?
        self.end(server)
        server, _ = self.serve(f"{self.folder}/a.toml/data", "--socket", self.socket)
        self.assertEqual(self.content(), images["data"].read_bytes())

    def test_nothing_is_written_unless_that_is_asked_for(self):
        image = self.sparse_image("a.img")
        before = image.read_bytes()
        self.serve(self.definition("a", data=image), "--socket", self.socket)
        for command in ("write -P 1 0 4096", "write -z 0 4096", "discard 4M 1M"):
            done = self.client("qemu-io", "-f", "raw", "-c", command, self.uri)
            self.assertNotEqual(done.returncode, 0, command)
        self.assertEqual(image.read_bytes(), before)

    def test_a_tcp_address_is_served(self):
        image = self.sparse_image("a.img")
        _, (uri,) = self.serve(self.definition("a", data=image), "--listen", "127.0.0.1:0")
        self.assertTrue(uri.startswith("nbd://127.0.0.1:"), uri)
        self.assertEqual(self.content(uri), image.read_bytes())

    def test_what_cannot_be_served_is_refused_in_a_sentence(self):
        file = self.definition("a", data=self.sparse_image("a.img"))

        def refused(code, text, *arguments):
            self.assert_refused(self.plumb("nbd", "serve", *arguments), code, text)
        refused(2, "either --socket or --listen", file)
        refused(2, "either --socket or --listen", file, "--socket", self.socket, "--listen", "127.0.0.1:0")
        refused(2, "--tls-psk", file, "--listen", "0.0.0.0:0")
        refused(2, "--tls-psk", file, "--listen", "[::]:0")
        refused(2, "--tls-psk", file, "--writable", "--listen", "127.0.0.1:0")
        refused(2, "no address", file, "--listen", "localhost:1")
        refused(10, "no disk 'root'", f"{file}/root", "--socket", self.socket)
        refused(2, "twice", file, f"{file}/data", "--socket", self.socket)
        refused(10, "none", "none", "--socket", self.socket)
        refused(2, "is a snapshot", "none/data", "--socket", self.socket, "--writable")
        keys = self.folder / "keys"
        keys.write_text("ann:00112233445566778899aabbccddeeff\n")
        keys.chmod(0o644)
        refused(1, "chmod 0600", file, "--socket", self.socket, "--tls-psk", keys)
        keys.chmod(0o600)
        keys.write_text("ann:0011\n")
        refused(1, "line 1", file, "--socket", self.socket, "--tls-psk", keys)
        self.assertFalse(self.socket.exists())


@needs("nbdinfo")
class SocketTest(ServeTest):
    def test_a_socket_that_is_served_is_left_alone(self):
        one = self.definition("a", data=self.sparse_image("a.img"))
        other = self.definition("b", data=self.sparse_image("b.img"))
        server, _ = self.serve(one, "--socket", self.socket)
        self.assertEqual(stat.S_IMODE(self.socket.stat().st_mode), 0o600)
        self.assert_refused(self.plumb("nbd", "serve", other, "--socket", self.socket), 11, "serves at socket")
        self.succeeds("nbdinfo", self.uri)
        self.end(server)

    def test_one_that_nobody_serves_is_replaced_and_a_file_is_not(self):
        file = self.definition("a", data=self.sparse_image("a.img"))
        server, _ = self.serve(file, "--socket", self.socket)
        server.kill()
        server.wait(timeout=DEADLINE_S)
        self.assertTrue(self.socket.exists())
        # The kernel closes what a ring watches some time after its process has been killed.
        while self.accepts():
            pass
        server, _ = self.serve(file, "--socket", self.socket)
        self.succeeds("nbdinfo", self.uri)
        self.end(server)
        self.socket.write_text("precious")
        self.assert_refused(self.plumb("nbd", "serve", file, "--socket", self.socket), 1, "is no socket")
        self.assertEqual(self.socket.read_text(), "precious")

    def accepts(self):
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.socket)) == 0

    @unittest.skipIf(SANITIZED, "SKIPPED: sanitizers need more descriptors")
    def test_a_start_that_fails_leaves_no_socket(self):
        """Whichever descriptor it is that cannot be had."""
        file = self.definition("a", data=self.sparse_image("a.img"))
        failed_later = 0
        for most in range(4, 40):
            process = subprocess.Popen(["prlimit", f"--nofile={most}", self.program(), "nbd", "serve", file, "--socket",
                                        self.socket], env=self.environment, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, text=True)
            self.started.append(process)
            if process.stdout.readline():
                self.end(process)
                break
            self.assertNotEqual(process.wait(timeout=DEADLINE_S), 0)
            self.assertFalse(self.socket.exists(), most)
            failed_later += "socket" not in process.stderr.read()
        else:
            self.fail("it does not start with 40 descriptors")
        self.assertGreater(failed_later, 0)

    @staticmethod
    def program():
        return pathlib.Path(PROBE).with_name("plumb")


@needs("nbdcopy", "qemu-img", "qemu-io", "nbdsh")
class WriteTest(ServeTest):
    def setUp(self):
        super().setUp()
        self.path = self.sparse_image("a.img")
        self.file = self.definition("a", data=self.path)

    def test_a_disk_is_restored_by_nbdcopy_and_by_qemu_img(self):
        source = self.sparse_image("source.img")
        server, _ = self.serve(self.file, "--writable", "--socket", self.socket)
        self.succeeds("nbdcopy", "--flush", source, self.uri)
        self.assertEqual(self.path.read_bytes(), source.read_bytes())
        other = self.folder / "other.qcow2"
        other.write_bytes(b"")
        self.succeeds("qemu-img", "convert", "-O", "qcow2", self.sparse_image("other.img"), other)
        self.succeeds("qemu-img", "convert", "-n", "-O", "raw", other, self.uri)
        self.assertEqual(self.path.read_bytes(), (self.folder / "other.img").read_bytes())
        self.end(server)

    def test_every_way_to_write_does_what_it_says(self):
        self.serve(self.file, "--writable", "--socket", self.socket)
        self.succeeds("qemu-io", "-f", "raw", "-c", "write -P 0x5a 512 1M", "-c", "write -f -P 0xa5 8M 4k",
                      "-c", "write -z 4M 512k", "-c", "write -z -u 4608k 256k", "-c", "discard 8M 1M", "-c", "flush",
                      "-c", "read -P 0x5a 512 1M", "-c", "read -P 0 4M 768k", self.uri)
        with open(self.path, "rb") as file:
            self.assertEqual(file.read(512 + MIB), bytes(512) + b"\x5a" * MIB)
            file.seek(4 * MIB)
            self.assertEqual(file.read(768 << 10), bytes(768 << 10))
        script = """
h.pwrite(b"A" * 4096, 65536, nbd.CMD_FLAG_FUA)
assert h.pread(4096, 65536) == bytearray(b"A" * 4096)
h.zero(4096, 65536, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(4096, 65536) == bytearray(4096)
h.set_strict_mode(0)
for act, number in ((lambda: h.pwrite(b"x" * 511, 0), 22), (lambda: h.pwrite(b"x" * 512, 16 << 20), 28),
                    (lambda: h.zero(512, 0, nbd.CMD_FLAG_FAST_ZERO), 22)):
    try:
        act()
        raise AssertionError("it went well")
    except nbd.Error as error:
        assert error.errnum == number, error.errnum
assert h.pread(4096, 65536) == bytearray(4096)
h.flush()
"""
        self.succeeds("nbdsh", "-u", self.uri, "-c", script)

    @unittest.skipIf(fio_missing(), str(fio_missing()))
    def test_fio_writes_and_verifies(self):
        self.serve(self.file, "--writable", "--socket", self.socket)
        report = self.succeeds(
            "fio", "--name=verify", "--verify_state_save=0", "--ioengine=nbd", f"--uri={self.uri}", "--rw=randwrite", "--bs=4k", "--iodepth=16",
            "--size=8M", "--verify=crc32c", "--verify_fatal=1", "--fsync=64", "--output-format=json")
        (job,) = json.loads(report[report.index("{"):])["jobs"]
        self.assertEqual((job["error"], job["write"]["total_ios"], job["read"]["total_ios"]), (0, 2048, 2048))

    @unittest.skipIf(SANITIZED, "SKIPPED: sanitizers need system calls of their own")
    def test_it_may_do_no_more_than_it_needs(self):
        server, _ = self.serve(self.file, "--writable", "--socket", self.socket)
        status = dict(line.split(":\t", 1) for line in
                      pathlib.Path(f"/proc/{server.pid}/status").read_text().splitlines() if ":\t" in line)
        self.assertEqual((status["CapEff"], status["CapPrm"], status["NoNewPrivs"], status["Seccomp"]),
                         ("0" * 16, "0" * 16, "1", "2"))

    @unittest.skipIf(kvm_missing(), str(kvm_missing()))
    def test_a_disk_is_its_vms_or_the_servers(self):
        server, _ = self.serve(self.file, "--writable", "--socket", self.socket)
        self.assert_refused(self.plumb("run", self.file, "--cmdline", "spin"), 11, str(self.path))
        self.end(server)
        process = self.start("run", self.file, "--cmdline", "write count=100000000 qd=4")
        self.wait_for_line(process, "BEGIN")
        for more in ((), ("--writable",)):
            self.assert_refused(self.plumb("nbd", "serve", self.file, "--socket", self.socket, *more), 11, "'a' runs")
        self.assertFalse(self.socket.exists())

    @unittest.skipIf(kvm_missing(), str(kvm_missing()))
    def test_a_snapshot_stays_what_it_was_when_its_disk_is_written(self):
        self.path.write_bytes(os.urandom(4 * MIB))  # no holes, no reflinks: kept by copy-before-write
        if self.client("cp", "--reflink=always", self.path, self.folder / "clone").returncode == 0:
            self.skipTest("SKIPPED: the file system of /var/tmp has reflinks")
        process = self.start("run", self.file, "--cmdline", "write count=100000000 qd=4")
        self.wait_for_line(process, "BEGIN")
        made = json.loads(self.plumb("snapshot", "create", "a", "--quiesce", "crash", "--json").stdout)
        self.assertEqual(self.plumb("kill", "a").returncode, 0)
        process.wait(timeout=DEADLINE_S)
        snapshot = made["id"] + "/data"
        server, _ = self.serve(snapshot, "--socket", self.socket)
        before = hashlib.sha256(self.content()).hexdigest()
        self.end(server)
        server, _ = self.serve(self.file, "--writable", "--socket", self.socket)
        self.succeeds("qemu-io", "-f", "raw", "-c", "write -P 0x77 0 4M", self.uri)
        self.end(server)
        self.assertEqual(self.path.read_bytes(), b"\x77" * 4 * MIB)
        self.serve(snapshot, "--socket", self.socket)
        self.assertEqual(hashlib.sha256(self.content()).hexdigest(), before)


@needs("nbdcopy", "nbdinfo", "qemu-img", "nbdsh", "psktool")
class TlsTest(ServeTest):
    def setUp(self):
        super().setUp()
        self.path = self.sparse_image("a.img")
        self.key_file = self.keys(users=("ann", "bob"))

    def serve_tls(self, *more):
        server, (uri,) = self.serve(self.definition("a", data=self.path), "--tls-psk", self.key_file, *more)
        return server, uri

    def with_key(self, uri, user="ann", keys=None):
        head, tail = uri.split("://")
        return f"{head}://{user}@{tail}{'&' if '?' in tail else '?'}tls-psk-file={keys or self.key_file}"

    def test_who_knows_a_key_is_served_at_a_tcp_address(self):
        server, uri = self.serve_tls("--listen", "127.0.0.1:0")
        self.assertTrue(uri.startswith("nbds://127.0.0.1:"), uri)
        for user in ("ann", "bob"):
            self.assertEqual(self.content(self.with_key(uri, user)), self.path.read_bytes())
        self.assertIn("with TLS", self.succeeds("nbdinfo", self.with_key(uri)))
        self.end(server)

    def test_and_at_a_unix_socket(self):
        _, uri = self.serve_tls("--socket", self.socket)
        self.assertTrue(uri.startswith("nbds+unix:///a/data?socket="), uri)
        self.assertEqual(self.content(self.with_key(uri)), self.path.read_bytes())

    def test_others_are_not(self):
        server, uri = self.serve_tls("--socket", self.socket)
        others = self.keys("others", users=("ann", "carl"))
        for wrong in (self.with_key(uri, keys=others), self.with_key(uri, "carl", others), self.uri,
                      f"nbd+unix:///a/data?socket={self.socket}"):
            self.assertNotEqual(self.client("nbdinfo", wrong).returncode, 0, wrong)
            self.assertNotEqual(self.client("nbdinfo", "--list", wrong).returncode, 0, wrong)
        self.assertEqual(self.content(self.with_key(uri)), self.path.read_bytes())
        self.end(server)
        self.assertNotIn(self.key_file.read_text().split(":")[1].strip(), server.stderr.read())

    def test_a_client_without_tls_1_3_is_served(self):
        _, uri = self.serve_tls("--socket", self.socket)
        configuration = self.folder / "gnutls.conf"
        configuration.write_text("[overrides]\ndisabled-version = tls1.3\n")
        done = subprocess.run(["nbdcopy", self.with_key(uri), "-"], capture_output=True, timeout=DEADLINE_S, check=False,
                              env=dict(os.environ, GNUTLS_SYSTEM_PRIORITY_FILE=str(configuration)))
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertEqual(done.stdout, self.path.read_bytes())

    def test_qemu_img_and_writing(self):
        server, _ = self.serve_tls("--writable", "--socket", self.socket)
        # QEMU wants the file to have this name, and a key by the user's name.
        folder = self.folder / "credentials"
        folder.mkdir()
        shutil.copy(self.key_file, folder / "keys.psk")
        tls = ("--object", f"tls-creds-psk,id=tls0,endpoint=client,username=bob,dir={folder}")
        target = f"driver=nbd,server.type=unix,server.path={self.socket},export=a/data,tls-creds=tls0"
        source = self.sparse_image("source.img")
        self.succeeds("qemu-img", "convert", *tls, "-n", "-f", "raw", "--target-image-opts", source,
                      f"driver=raw,file.{target.replace(',', ',file.')}")
        self.assertEqual(self.path.read_bytes(), source.read_bytes())
        self.assertIn("16 MiB", self.succeeds("qemu-img", "info", *tls, "--image-opts", target))
        self.end(server)

    def test_nbdsh_reads_under_tls(self):
        _, uri = self.serve_tls("--listen", "127.0.0.1:0")
        script = f"""
h.set_uri_allow_local_file(True)
h.connect_uri({self.with_key(uri)!r})
assert h.get_tls_negotiated() and h.get_structured_replies_negotiated()
assert h.get_size() == 16 << 20 and len(h.pread(5000, 4 << 20)) == 5000
"""
        self.succeeds("nbdsh", "-c", script)


if __name__ == "__main__":
    main()
