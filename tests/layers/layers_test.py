#!/usr/bin/env python3
"""Shows that the layer check can fail: plants forbidden includes in a copy of the tree's outline."""
import pathlib
import subprocess
import sys
import tempfile

CHECKER = pathlib.Path(__file__).with_name("layers.py")

# file, include, whether it is allowed
CASES = [
    ("vmm/vm.cc", "blockdev/disk.h", True),
    ("cli/run.cc", "vmm/vm.h", True),
    ("blockdev/disk_test.cc", "tests/fakes/fake_driver.h", True),
    ("snapshot/coordinator.cc", "rdm/lun_id.h", True),
    ("cli/snapshot.cc", "snapshot/coordinator.h", True),
    ("vmm/vm.cc", "rdm/lun_id.h", False),
    ("vmm/vm.cc", "snapshot/coordinator.h", False),
    ("snapshot/coordinator.cc", "vmm/vm.h", False),
    ("rdm/claim.cc", "snapshot/coordinator.h", False),
    ("rdm/claim.cc", "vmm/vm.h", False),
    ("blockdev/disk.cc", "vmm/vm.h", False),
    ("base/log.cc", "blockdev/disk.h", False),
    ("vmm/virtio/blk.cc", "cli/run.h", False),
    ("vmm/vm.cc", "tests/fakes/fake_driver.h", False),
    ("vmm/vm.cc", "vm.h", False),
]


def main() -> int:
    failures = 0
    for file, include, allowed in CASES:
        with tempfile.TemporaryDirectory() as root:
            for folder in ("base", "blockdev", "rdm", "snapshot", "vmm", "cli"):
                pathlib.Path(root, folder).mkdir()
            planted = pathlib.Path(root, file)
            planted.parent.mkdir(parents=True, exist_ok=True)
            planted.write_text(f'#include "{include}"\n')
            done = subprocess.run([sys.executable, CHECKER, root], capture_output=True, text=True)
            caught = done.returncode == 1 and f"{file}:1" in done.stdout
            if caught == allowed:
                failures += 1
                print(f"FAILED: {file} including {include}: exit {done.returncode} {done.stdout}")
    print(f"layer check: {len(CASES) - failures} of {len(CASES)} planted includes judged rightly")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
