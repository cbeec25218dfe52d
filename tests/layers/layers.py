#!/usr/bin/env python3
"""The layer rule of docs/architecture.md: a folder includes itself and what is below it.

Usage: layers.py [ROOT]. Prints every forbidden include as FILE:LINE and exits 1; prints nothing and
exits 0 when the rule holds.
"""
import pathlib
import re
import sys

# Folder → the folders it may include besides its own.
ALLOWED = {
    "base": set(),
    "blockdev": {"base"},
    "rdm": {"blockdev", "base"},
    "snapshot": {"rdm", "blockdev", "base"},
    "vmm": {"blockdev", "base"},
    "cli": {"vmm", "snapshot", "rdm", "blockdev", "base"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


def is_test(path: pathlib.Path) -> bool:
    return path.name.endswith("_test.cc") or path.name.startswith("fake_")


def violations(root: pathlib.Path):
    for folder, below in ALLOWED.items():
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in {".h", ".cc", ".S", ".c"}:
                continue
            may = below | {folder} | ({"tests"} if is_test(path) else set())
            for number, line in enumerate(path.read_text().splitlines(), 1):
                found = INCLUDE.match(line)
                if not found:
                    continue
                where = f"{path.relative_to(root)}:{number}"
                if found.group(1).endswith(".hex"):
                    continue  # made by the build, beside the object files
                target = found.group(1).split("/")[0]
                if "/" not in found.group(1) or target not in ALLOWED and target != "tests":
                    yield f'{where}: "{found.group(1)}": write includes from the root of the tree'
                elif target not in may:
                    yield (f'{where}: {folder} may not include "{found.group(1)}"; it may use '
                           f'{", ".join(sorted(may - {"tests"}))}. A service from above comes in '
                           "through an interface that this folder owns and cli plugs in")


def main() -> int:
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    found = list(violations(root))
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
