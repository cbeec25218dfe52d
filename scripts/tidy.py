#!/usr/bin/env python3
"""clang-tidy over all sources but tests. What was found clean before, with the same headers, compiler's words and rules, is
not looked at again: its name in ${XDG_CACHE_HOME:-~/.cache}/plumb/tidy is a hash of all that.
  scripts/tidy.py BUILD     BUILD has been built: ninja knows there which headers each source includes"""
import hashlib
import json
import multiprocessing.pool
import os
import pathlib
import re
import subprocess
import sys

# g++'s commands, in the words of clang 14.
TIDY = ["clang-tidy", "--quiet", "--extra-arg=-std=c++2b", "--extra-arg=-Wno-unknown-warning-option"]


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def sources():
    tests = re.compile(r"_test\.cc$|/fuzz/|^tests/")
    return [name for name in output("git", "ls-files", "*.cc").split() if not tests.search(name)]


def included_by(build):
    """What each source was compiled from: paths, itself first."""
    included = {}
    for block in output("ninja", "-C", build, "-t", "deps").split("\n\n"):
        paths = [os.path.realpath(os.path.join(build, line.strip())) for line in block.splitlines()[1:] if line.startswith("    ")]
        if paths:
            included[paths[0]] = paths
    return included


class Tidy:
    def __init__(self, build):
        self.build = build
        self.included = included_by(build)
        with open(f"{build}/compile_commands.json", encoding="utf-8") as file:
            self.commands = {command["file"]: command["command"] for command in json.load(file)}
        self.rules = output("clang-tidy", "--version") + pathlib.Path(".clang-tidy").read_text() + str(TIDY)
        self.digests = {}
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        self.clean = pathlib.Path(cache) / "plumb/tidy"
        self.clean.mkdir(parents=True, exist_ok=True)

    def digest(self, path):
        if path not in self.digests:
            self.digests[path] = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
        return self.digests[path]

    def key(self, source):
        """None when it is not known what the source includes."""
        path = os.path.realpath(source)
        if path not in self.included or path not in self.commands:
            return None
        here = os.getcwd()
        told = [self.rules, self.commands[path].replace(here, "")]
        told += [one.replace(here, "") + self.digest(one) for one in self.included[path]]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()

    def look(self, source):
        """What there is to say of it; "" when it is clean."""
        key = self.key(source)
        if key and (self.clean / key).exists():
            return ""
        done = subprocess.run([*TIDY, "-p", self.build, source], check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True)
        if done.returncode == 0 and key:
            (self.clean / key).touch()
        return "" if done.returncode == 0 else done.stdout or f"clang-tidy ended with {done.returncode} for {source}"


def main():
    tidy = Tidy(sys.argv[1])
    with multiprocessing.pool.ThreadPool(os.cpu_count()) as pool:
        findings = [text for text in pool.map(tidy.look, sources(), 1) if text]
    print("\n".join(findings))
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
