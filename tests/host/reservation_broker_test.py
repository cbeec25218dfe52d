#!/usr/bin/env python3
"""plumb-pr-broker as it runs: whatever comes through its socket, it says what is wrong and goes on.

What it does with real LUNs is in tests/lab/cases/reservations.sh.
"""
import contextlib
import os
import pathlib
import random
import resource
import shutil
import socket
import stat
import struct
import subprocess
import tempfile
import threading
import unittest

from plumb_process import BUILD, DEADLINE_S, SANITIZED, main

BROKER = str(BUILD / "bin/plumb-pr-broker")
MAX_CLIENTS = 256
READ_KEYS = bytes([0x5E, 0, 0, 0, 0, 0, 0, 4, 0, 0])
REGISTER = bytes([0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0])
NO_LUN = "not that of a block device"


def request(cdb=READ_KEYS, parameters=b"", magic=b"PRRQ", version=1, announced=None):
    """A request as docs/reservations.md lays it out; the arguments make it wrong."""
    announced = len(parameters) if announced is None else announced
    return struct.pack("<4sHHII10s6x", magic, version, 0, announced, 0, cdb) + parameters


def refusal(reply):
    """The text of a refusal."""
    magic, version, kind, status, length = struct.unpack_from("<4sHBBI", reply)
    assert (magic, version, kind, status) == (b"PRRP", 1, 1, 0), reply
    assert len(reply) == 32 + length, reply
    return reply[32:].decode()


class BrokerTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="plumb-test-", dir="/var/tmp"))
        self.path = str(self.folder / "socket")
        self.broker = None
        self.reader = None
        self.lines = []
        self.null = os.open("/dev/null", os.O_RDWR)

    def tearDown(self):
        if self.broker:
            alive = self.broker.poll() is None
            self.broker.kill()
            self.broker.wait(timeout=DEADLINE_S)
            self.reader.join()
            self.broker.stderr.close()
            self.assertTrue(alive, f"the broker ended with {self.broker.returncode}: {self.lines}")
        os.close(self.null)
        shutil.rmtree(self.folder)

    def start(self, *arguments, command=(), **more):
        """Starts the broker, on a socket of the test's own, and waits until it serves."""
        command = command or [BROKER, "--socket", self.path, *arguments]
        self.broker = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **more)
        self.assertIn("serves", self.broker.stderr.readline())
        self.reader = threading.Thread(target=self.lines.extend, args=(self.broker.stderr,))
        self.reader.start()

    def connect(self):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.addCleanup(client.close)
        client.connect(self.path)  # blocking: waits for room in the backlog
        client.settimeout(DEADLINE_S)
        return client

    def send(self, client, message, *descriptors):
        """Sends a message, and returns the text of the broker's refusal."""
        socket.send_fds(client, [message], list(descriptors))
        return refusal(client.recv(1 << 16))

    def assert_ends(self, client):
        """That the broker has closed the connection, and serves others."""
        self.assertEqual(client.recv(1), b"")
        self.assertIn(NO_LUN, self.send(self.connect(), request(), self.null))


class HostileClientTest(BrokerTest):
    def test_malformed_messages_end_the_connection(self):
        self.start()
        inquiry = bytes([0x12, 0, 0, 0, 36, 0, 0, 0, 0, 0])
        for what, text in (
                (b"x", "shorter than the header"),
                (request()[:31], "shorter than the header"),
                (request(magic=b"PRRP"), "magic number"),
                (request(version=2), "version 2"),
                (request(cdb=inquiry), "0x12 is not for the reservation broker"),
                (request(parameters=bytes(24)), "carries no parameter list"),
                (request(cdb=REGISTER, announced=24), "announces 24"),
                (request(cdb=REGISTER, parameters=bytes(24), announced=23), "announces 23"),
                (request(cdb=REGISTER, parameters=bytes(24), announced=0xffffffff), "at most 8192"),
                (request(cdb=REGISTER, parameters=bytes(8193)), "at most 8192"),
                (bytes([*request()[:31], 1]), "reserved bytes"),
                (request(cdb=REGISTER, parameters=bytes(8289)), "longer than the 8320 bytes"),
                (bytes(100000), "longer than the 8320 bytes")):
            with self.subTest(text=text, size=len(what)):
                client = self.connect()
                self.assertIn(text, self.send(client, what, self.null))
                self.assert_ends(client)

    def test_missing_and_too_many_descriptors(self):
        self.start()
        client = self.connect()
        self.assertIn("without the LUN's descriptor", self.send(client, request()))
        self.assert_ends(client)
        for count in (2, 3, 250):
            client = self.connect()
            self.assertIn("more descriptors than it may have",
                          self.send(client, request(), *[self.null] * count))
            self.assert_ends(client)
        # What came with them is closed again.
        self.assertLess(len(os.listdir(f"/proc/{self.broker.pid}/fd")), 20)

    def test_random_messages(self):
        seed = random.randrange(1 << 32)
        generator = random.Random(seed)
        self.start()
        for turn in range(2000):
            message = bytearray(request(cdb=generator.choice([READ_KEYS, REGISTER]),
                                        parameters=bytes(generator.choice([0, 24, 30]))))
            for _ in range(generator.randrange(4)):
                message[generator.randrange(len(message))] = generator.randrange(256)
            del message[generator.choice([len(message), generator.randrange(1, len(message))]):]
            descriptors = [self.null] * generator.choice([0, 1, 1, 1, 2])
            with self.subTest(seed=seed, turn=turn):
                client = self.connect()
                self.assertNotEqual(self.send(client, bytes(message), *descriptors), "")
                client.close()

    def test_a_thousand_clients(self):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
        self.start()
        clients = [self.connect() for _ in range(1000)]
        texts = []
        for client in clients:
            # One that is refused may be closed already; what it was told can still be read.
            with contextlib.suppress(BrokenPipeError):
                socket.send_fds(client, [request()], [self.null])
            try:
                texts.append(refusal(client.recv(1 << 16)))
            except ConnectionResetError:
                texts.append(refusal(client.recv(1 << 16)))
        self.assertEqual(sum(NO_LUN in text for text in texts), MAX_CLIENTS)
        self.assertEqual(sum("256 clients are served already" in text for text in texts),
                         1000 - MAX_CLIENTS)
        # Those within the bound are still served, and so are others when they have left.
        self.assertIn(NO_LUN, self.send(clients[0], request(), self.null))
        for client in clients:
            client.close()
        for _ in range(100000):
            client = self.connect()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                if NO_LUN in self.send(client, request(), self.null):
                    return
            client.close()
        self.fail("no place becomes free")

    def test_silent_and_vanishing_clients(self):
        self.start()
        silent = self.connect()
        for _ in range(100):
            client = self.connect()
            socket.send_fds(client, [request()], [self.null])
            client.close()  # before the answer
        self.assertIn(NO_LUN, self.send(self.connect(), request(), self.null))
        self.assertIn(NO_LUN, self.send(silent, request(), self.null))


class DescriptorTest(BrokerTest):
    def test_what_is_no_block_device(self):
        self.start()
        client = self.connect()  # one for all: a wrong descriptor does not end the connection
        with tempfile.TemporaryFile() as file, socket.socket() as other:
            folder = os.open("/", os.O_PATH)
            for descriptor in (self.null, file.fileno(), other.fileno(), client.fileno(), folder):
                for message in (request(), request(cdb=REGISTER, parameters=bytes(24))):
                    self.assertIn(NO_LUN, self.send(client, message, descriptor))
            os.close(folder)

    def loop_device(self):
        """An image with one partition, sectors 2048 to 4095, in the MBR's own format."""
        image = self.folder / "image"
        with open(image, "wb") as file:
            file.truncate(8 << 20)
            file.seek(446)
            file.write(bytes.fromhex("00000000830000000008000000080000"))
            file.seek(510)
            file.write(b"\x55\xaa")
        done = subprocess.run(["losetup", "--find", "--show", "--partscan", image],
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self.skipTest(f"SKIPPED: no loop device: {done.stderr.strip()}")
        device = done.stdout.strip()
        self.addCleanup(subprocess.run, ["losetup", "--detach", device], check=True)
        return device

    def test_a_block_device_that_is_no_lun(self):
        device = self.loop_device()
        self.start()
        client = self.connect()
        for mode, text in (("r+b", "has no LUN identity"), ("rb", "not open for writing")):
            with open(device, mode, buffering=0) as loop:
                message = request(cdb=REGISTER, parameters=bytes(24))
                self.assertIn(text, self.send(client, message, loop.fileno()))

    def test_a_partition(self):
        name = os.path.basename(self.loop_device())
        number = pathlib.Path(f"/sys/block/{name}/{name}p1/dev")
        if not number.exists():
            self.skipTest("SKIPPED: the kernel makes no partitions of loop devices here")
        node = str(self.folder / "partition")
        os.mknod(node, 0o600 | stat.S_IFBLK, os.makedev(*map(int, number.read_text().split(":"))))
        self.start()
        client = self.connect()
        with open(node, "r+b", buffering=0) as partition:
            for message in (request(), request(cdb=REGISTER, parameters=bytes(24))):
                self.assertIn("is a partition; reservations are of whole LUNs",
                              self.send(client, message, partition.fileno()))


class StartTest(BrokerTest):
    def refused(self, code, text, *arguments, **more):
        done = subprocess.run([BROKER, *arguments], capture_output=True, text=True, check=False,
                              timeout=DEADLINE_S, **more)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(text, done.stderr)

    def test_wrong_arguments(self):
        self.refused(2, "'--sokcet' is not understood", "--sokcet", self.path)
        self.refused(2, "'--socket' is not understood", "--socket")
        self.refused(2, "no socket comes from systemd")
        self.refused(2, "--group is for the socket", "--group", "root")
        self.refused(2, "there is no group 'nobody-at-all'", "--socket", self.path, "--group",
                     "nobody-at-all")
        self.refused(1, "/none/socket cannot be made", "--socket", "/none/socket")

    def test_the_socket_is_for_its_user_only(self):
        self.start()
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)

    @unittest.skipIf(os.getuid() != 0, "SKIPPED: only root can be somebody else")
    def test_the_socket_is_for_a_group(self):
        self.start("--group", "daemon")
        os.chmod(self.folder, 0o755)
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o660)
        connect = ["python3", "-c", "import socket, sys; "
                   "socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(sys.argv[1])",
                   self.path]
        daemon = str(os.stat(self.path).st_gid)
        for groups, code in (("65534", 1), (daemon, 0)):
            done = subprocess.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--groups",
                                   groups, *connect], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertEqual("PermissionError" in done.stderr, code == 1)

    def listening(self, kind):
        listener = socket.socket(socket.AF_UNIX, kind)
        self.addCleanup(listener.close)
        listener.bind(self.path)
        listener.listen(8)
        return listener

    # As systemd does: the socket is descriptor 3, and LISTEN_PID the process.
    ACTIVATED = ["sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0"', BROKER]

    def test_a_socket_from_systemd(self):
        listener = self.listening(socket.SOCK_SEQPACKET)
        self.start(command=self.ACTIVATED, close_fds=False,
                   preexec_fn=lambda: os.dup2(listener.fileno(), 3))
        self.assertIn(NO_LUN, self.send(self.connect(), request(), self.null))

    def test_another_kind_of_socket_from_systemd(self):
        listener = self.listening(socket.SOCK_STREAM)
        done = subprocess.run(self.ACTIVATED, close_fds=False, capture_output=True, text=True,
                              preexec_fn=lambda: os.dup2(listener.fileno(), 3), check=False,
                              timeout=DEADLINE_S)
        self.assertEqual(done.returncode, 2)
        self.assertIn("must be ListenSequentialPacket", done.stderr)

    def test_what_it_keeps_of_its_privileges(self):
        self.start()
        self.assertIn(NO_LUN, self.send(self.connect(), request(), self.null))
        # Every thread: also that of the client, who stays connected.
        tasks = list(pathlib.Path(f"/proc/{self.broker.pid}/task").iterdir())
        self.assertGreaterEqual(len(tasks), 2)
        for task in tasks:
            status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
            for name in ("CapInh", "CapPrm", "CapEff"):
                # CAP_SYS_RAWIO and CAP_SYS_ADMIN, if it had them
                self.assertEqual(int(status[name], 16) & ~(1 << 17 | 1 << 21), 0)
            self.assertEqual(status["NoNewPrivs"].strip(), "1")
            if not SANITIZED:
                self.assertEqual(status["Seccomp"].strip(), "2")


if __name__ == "__main__":
    main()
