#!/usr/bin/env python3
"""Every kind of bad input: a clear error, the right exit code, and nothing changed.

Those that need real LUNs are in tests/lab/cases.
"""
import fcntl
import json
import os
import pathlib
import struct
import subprocess
import unittest
import uuid

from plumb_process import PLUMB, PROBE, PlumbTest, kvm_missing, main

FAILED, USAGE, NOT_FOUND, LOCKED = 1, 2, 10, 11
WWN = "naa.60014051234abcd5000000000000000a"


def image_digest(path):
    return subprocess.run(["sha256sum", path], capture_output=True, check=True).stdout


class DefinitionTest(PlumbTest):
    def refused(self, code, *texts, arguments):
        self.assert_refused(self.plumb("run", *arguments), code, *texts)
        self.assertEqual(list(self.folder.glob("run/*")), [])

    def toml(self, text):
        path = self.folder / "vm.toml"
        path.write_text(text)
        return path

    def test_unknown_key_names_the_nearest(self):
        self.refused(USAGE, "unknown key 'memroy'", "did you mean 'memory'?",
                     arguments=[self.toml('name = "a"\nmemroy = "1G"\n')])

    def test_broken_toml_names_the_line(self):
        self.refused(USAGE, "line 2", arguments=[self.toml('name = "a"\nmemory = \n')])

    def test_missing_definition_file(self):
        self.refused(FAILED, "/none.toml cannot be opened", arguments=["/none.toml"])

    def test_memory_out_of_range(self):
        for size in ("1M", "4096G", "17M", "much"):
            self.refused(USAGE, "--memory", size,
                         arguments=["--name", "a", "--kernel", "k", "--memory", size])

    def test_vcpus_out_of_range(self):
        for count in ("0", "65", "-1", "many"):
            self.refused(USAGE, "from 1 to 64",
                         arguments=["--name", "a", "--kernel", "k", f"--vcpus={count}"])

    def test_uuid_that_is_none(self):
        self.refused(USAGE, "--uuid", "is not a UUID",
                     arguments=["--name", "a", "--kernel", "k", "--uuid", "db1"])
        self.refused(USAGE, "line 2", "generation-id", "stands for no UUID", arguments=[
            self.toml(f'name = "a"\ngeneration-id = "{uuid.UUID(int=0)}"\n')])

    def test_two_disks_with_one_id(self):
        self.refused(USAGE, "two disks have the id 'd'",
                     arguments=["--name", "a", "--kernel", "k", "--disk", "x,id=d",
                                "--disk", "y,id=d"])

    def test_name_that_would_leave_the_runtime_folder(self):
        self.refused(USAGE, "is not a name", arguments=["--name", "../x", "--kernel", "k"])

    def test_unknown_flag_and_command(self):
        self.assert_refused(self.plumb("run", "--nmae", "a"), USAGE, "--nmae")
        self.assert_refused(self.plumb("rnu"), USAGE, "'plumb rnu'", "did you mean 'run'?")
        self.assert_refused(self.plumb("lun", "shw", "naa.1"), USAGE, "'plumb lun shw'",
                            "did you mean 'show'?", "see plumb lun --help")
        self.assert_refused(self.plumb("lun"), USAGE, "a command is missing")
        self.assert_refused(self.plumb("lun", "list", "extra"), USAGE, "extra")
        self.assert_refused(self.plumb(), USAGE)

    def test_unknown_vm(self):
        for verb in ("stop", "kill", "pause", "resume", "console"):
            self.assert_refused(self.plumb(verb, "nobody"), NOT_FOUND, "no VM 'nobody' runs here")


class LunTest(PlumbTest):
    def test_text_that_is_no_identity(self):
        self.assert_refused(self.plumb("run", "--name", "a", "--kernel", "k", "--lun", "/dev/sda"),
                            USAGE, "not the identity of a LUN")

    def test_unknown_wwn(self):
        self.assert_refused(self.plumb("run", "--name", "a", "--kernel", PROBE, "--lun", WWN),
                            FAILED, f"LUN {WWN} is not on this host")
        self.assert_refused(self.plumb("lun", "show", WWN), FAILED, f"LUN {WWN} is not on this host")


def crc32c(data):
    """RFC 3720, appendix B.4."""
    remainder = 0xffffffff
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder >> 1) ^ (0x82f63b78 if remainder & 1 else 0)
    return remainder ^ 0xffffffff


class MappingTest(PlumbTest):
    def mapping(self, *, mode="virtual", name="data.rdm"):
        """A mapping, good in itself, of a LUN that no host has."""
        lines = ["plumb-rdm 1", "uuid = 3f2504e0-4f89-41d3-9a0c-0305e82c3301", f"mode = {mode}",
                 f"wwid = {WWN}", "serial = S1", "size-bytes = 1048576", "logical-block-size = 512",
                 "sharing = exclusive", "allow-weak-identity = false"]
        text = "".join(line + "\n" for line in lines)
        path = self.folder / name
        path.write_text(f"{text}crc32c = {crc32c(text.encode()):08x}\n")
        return path

    def run_on(self, path):
        return self.plumb("run", "--name", "a", "--memory", "32M", "--kernel", PROBE, "--rdm", path)

    def refused_everywhere(self, path, *texts):
        self.assert_refused(self.plumb("rdm", "show", path), FAILED, str(path), *texts)
        self.assert_refused(self.plumb("rdm", "verify", path), FAILED, str(path), *texts)
        if not kvm_missing():
            self.assert_refused(self.run_on(path), FAILED, str(path), *texts)

    def test_create_what_cannot_be(self):
        path = self.folder / "data.rdm"
        for code, texts, arguments in (
                (USAGE, ["not the identity of a LUN"], ["--wwn", "/dev/sda"]),
                (USAGE, ["'raw' is not a mode", "virtual or physical"],
                 ["--wwn", WWN, "--mode", "raw"]),
                (USAGE, ["--wwn"], []),
                (FAILED, [f"LUN {WWN} is not on this host"], ["--wwn", WWN])):
            self.assert_refused(self.plumb("rdm", "create", path, *arguments), code, *texts)
        self.assert_refused(self.plumb("rdm", "create"), USAGE)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_mapping_that_is_not_there_or_no_mapping(self):
        self.refused_everywhere(self.folder / "none.rdm", "No such file")
        self.refused_everywhere(self.folder, "not a regular file")
        other = self.folder / "vm.toml"
        other.write_text('name = "db1"\n')
        self.refused_everywhere(other, "is not a mapping file", "plumb rdm create")

    def test_mapping_of_another_version(self):
        path = self.mapping()
        path.write_text(path.read_text().replace("plumb-rdm 1", "plumb-rdm 2"))
        self.refused_everywhere(path, "format version '2'")

    def test_mapping_edited_or_cut(self):
        path = self.mapping()
        whole = path.read_text()
        path.write_text(whole.replace("1048576", "2097152"))
        self.refused_everywhere(path, "checksum is wrong", "plumb rdm create")
        path.write_text(whole[:-20])
        self.refused_everywhere(path, "does not end with its checksum")

    def test_lun_that_is_not_here(self):
        path = self.mapping()
        done = self.plumb("rdm", "show", path)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, f"wwid +{WWN}\n")
        self.assertRegex(done.stdout, f"problem +LUN {WWN} is not on this host")
        shown = json.loads(self.plumb("rdm", "show", "--json", path).stdout)
        self.assertEqual((shown["device"], shown["size_bytes"]), (None, 1048576))
        self.assert_refused(self.plumb("rdm", "verify", path), FAILED, str(path),
                            f"LUN {WWN} is not on this host")
        verified = self.plumb("rdm", "verify", "--json", path)
        self.assertEqual(verified.returncode, FAILED)
        self.assertFalse(json.loads(verified.stdout)["ok"])

    def test_unknown_command_and_key(self):
        self.assert_refused(self.plumb("rdm", "shw", "x"), USAGE, "'plumb rdm shw'",
                            "did you mean 'show'?")
        self.assert_refused(self.run_on("data.rdm,lun=" + WWN), USAGE, "one of image, lun and rdm")
        self.assert_refused(self.run_on("data.rdm,allow-weak-identity"), USAGE,
                            "plumb rdm create --allow-weak-identity")

    @unittest.skipIf(kvm_missing(), str(kvm_missing()))
    def test_run_on_a_lun_that_is_not_here(self):
        self.assert_refused(self.run_on(self.mapping()), FAILED, f"LUN {WWN} is not on this host")

    @unittest.skipIf(kvm_missing(), str(kvm_missing()))
    def test_physical_mode_on_another_bus(self):
        self.assert_refused(self.run_on(self.mapping(mode="physical")), USAGE, "data.rdm",
                            "takes the guest's SCSI commands, so the disk needs bus=scsi")

    @unittest.skipIf(kvm_missing(), str(kvm_missing()))
    def test_mapping_in_use(self):
        path = self.mapping()
        with open(path, "r+b") as file:
            # struct flock of x86-64: F_WRLCK, from 0 to the end.
            lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
            self.assert_refused(self.run_on(path), LOCKED, f"mapping {path} is in use by",
                                str(os.getpid()))
        self.assert_refused(self.run_on(path), FAILED, "is not on this host")


class ImageTest(PlumbTest):
    def refused(self, path, code, *texts, options=""):
        done = self.plumb("run", "--name", "a", "--memory", "32M", "--kernel", PROBE,
                          "--disk", f"{path}{options}")
        self.assert_refused(done, code, str(path), *texts)

    def test_missing(self):
        self.refused(self.folder / "none.img", FAILED, "does not exist")

    def test_empty(self):
        path = self.folder / "empty.img"
        path.touch()
        self.refused(path, FAILED, "empty")

    def test_unaligned(self):
        path = self.folder / "odd.img"
        path.write_bytes(bytes(1000))
        self.refused(path, FAILED, "512")
        self.assertEqual(path.stat().st_size, 1000)

    def test_read_only_file(self):
        path = self.image(size=1 << 20)
        path.chmod(0o444)
        self.refused(path, FAILED, "read-only")

    def test_folder(self):
        self.refused(self.folder, FAILED, "folder")

    def test_device_node(self):
        self.refused(pathlib.Path("/dev/null"), FAILED)

    def test_file_system_without_direct_io(self):
        shared = pathlib.Path("/dev/shm/plumb-test.img")
        shared.write_bytes(bytes(1 << 20))
        try:
            done = self.run_probe("hello", "--disk", shared)
            if done.returncode == 0:
                self.skipTest("SKIPPED: this kernel's tmpfs has direct I/O")
            self.assert_refused(done, FAILED, str(shared), "direct I/O")
        finally:
            shared.unlink()

    def test_image_used_twice_in_one_vm(self):
        path = self.image(size=1 << 20)
        done = self.run_probe("hello", "--disk", f"{path},id=a", "--disk", f"{path},id=b")
        self.assert_refused(done, LOCKED, str(path))


# As nobody, without the capabilities that pass permissions by.
UNPRIVILEGED = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")


class KernelTest(PlumbTest):
    def refused(self, content, *texts):
        path = self.folder / "kernel"
        path.write_bytes(content)
        done = self.plumb("run", "--name", "a", "--memory", "32M", "--kernel", path)
        self.assert_refused(done, FAILED, str(path), *texts)

    @unittest.skipIf(kvm_missing(), str(kvm_missing()))
    def test_no_kernel(self):
        self.refused(b"#!/bin/sh\n" * 1000, "kernel")

    @unittest.skipIf(kvm_missing(), str(kvm_missing()))
    def test_empty(self):
        self.refused(b"")

    @unittest.skipIf(kvm_missing(), str(kvm_missing()))
    def test_truncated_bzimage(self):
        self.refused(bzimage()[:0x250])

    @unittest.skipIf(kvm_missing(), str(kvm_missing()))
    def test_32_bit_bzimage(self):
        self.refused(bzimage(xloadflags=0) + bytes(1 << 20), "64-bit")

    @unittest.skipIf(kvm_missing(), str(kvm_missing()))
    def test_elf_without_pvh_note(self):
        self.refused(pathlib.Path(PLUMB).read_bytes(), "PVH")

    @unittest.skipIf(kvm_missing(), str(kvm_missing()))
    def test_missing_kernel_and_initrd(self):
        done = self.plumb("run", "--name", "a", "--memory", "32M", "--kernel", "/none")
        self.assert_refused(done, FAILED, "/none", "No such file")
        done = self.run_probe("hello", "--initrd", "/none")
        self.assert_refused(done, FAILED, "/none", "No such file")


def bzimage(xloadflags=1):
    """The head of a bzImage (Documentation/arch/x86/boot.rst) with one setup sector."""
    head = bytearray(0x1000)
    head[0x1f1] = 4
    head[0x1fe:0x200] = b"\x55\xaa"
    head[0x202:0x206] = b"HdrS"
    head[0x206:0x208] = (0x020f).to_bytes(2, "little")
    head[0x211] = 1
    head[0x236:0x238] = xloadflags.to_bytes(2, "little")
    head[0x1f4:0x1f8] = (1 << 16).to_bytes(4, "little")
    return bytes(head)


class KvmTest(PlumbTest):
    @unittest.skipUnless(os.geteuid() == 0, "SKIPPED: hiding /dev/kvm needs root")
    def test_no_kvm_device(self):
        done = self.plumb("run", "--name", "a", "--memory", "32M", "--kernel", PROBE,
                          before=("unshare", "--mount", "sh", "-c",
                                  'mount -t tmpfs none /dev && exec "$@"', "sh"))
        self.assert_refused(done, FAILED, "/dev/kvm")

    @unittest.skipIf(kvm_missing(), str(kvm_missing()))
    @unittest.skipUnless(os.geteuid() == 0, "SKIPPED: becoming another user needs root")
    def test_no_permission(self):
        self.folder.chmod(0o777)
        done = self.plumb("run", "--name", "a", "--memory", "32M", "--kernel", PROBE,
                          before=UNPRIVILEGED)
        if os.stat("/dev/kvm").st_mode & 0o006 == 0o006:
            self.skipTest("SKIPPED: /dev/kvm is for everybody here")
        self.assert_refused(done, FAILED, "/dev/kvm", "kvm")

    @unittest.skipIf(kvm_missing(), str(kvm_missing()))
    def test_memory_that_does_not_fit(self):
        done = self.plumb("run", "--name", "a", "--memory", "1024G", "--kernel", PROBE)
        self.assert_refused(done, FAILED, "memory")


@unittest.skipIf(kvm_missing(), str(kvm_missing()))
class InUseTest(PlumbTest):
    def spinning(self, name, *more):
        process = self.start("run", "--name", name, "--memory", "32M", "--kernel", PROBE,
                             "--cmdline", "spin", *more)
        self.wait_for_line(process, "spinning")
        return process

    def test_name_already_running(self):
        first = self.spinning("db1")
        self.assert_refused(self.run_probe("hello", name="db1"), LOCKED, "VM 'db1' runs already",
                            str(first.pid))

    def test_image_locked_by_another_vm(self):
        path = self.image(size=1 << 20)
        first = self.spinning("db1", "--disk", path)
        before = image_digest(path)
        self.assert_refused(self.run_probe("test", "--disk", path, name="db2"), LOCKED,
                            str(path), "VM db1", str(first.pid))
        self.assertEqual(image_digest(path), before)

    def test_image_shared_read_only(self):
        path = self.image(size=1 << 20)
        self.spinning("db1", "--disk", f"{path},read-only")
        self.assertEqual(self.run_probe("hello", "--disk", f"{path},read-only", name="db2").returncode,
                         0)
        self.assert_refused(self.run_probe("hello", "--disk", path, name="db3"), LOCKED, "VM db1")


if __name__ == "__main__":
    main()
