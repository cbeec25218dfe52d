#!/usr/bin/env -S python3 -SE
"""An EqualLogic group for tests, as a program in place of ssh and, as iscsiadm, of open-iscsi.

It takes only lines of the group's command line that published programs use (Cinder's PS driver and
the Proxmox plug-ins), and writes anything else into FOLDER/strays. FOLDER is where it is called;
volumes are files in it, state.json the rest, mood what goes wrong, cut-at the command before
which the connection ends once. What iscsiadm logs in to
is a device in a made-up /sys and /dev.
"""
import json
import os
import pathlib
import re
import shutil
import signal
import sys

FOLDER = pathlib.Path(sys.argv[0]).parent
STATE = FOLDER / "state.json"
NAME = r"[a-zA-Z0-9][a-zA-Z0-9.:-]{0,62}"


class Refused(Exception):
    """What a command is answered with."""


def mood():
    path = FOLDER / "mood"
    return path.read_text().strip() if path.exists() else ""


def load():
    return json.loads(STATE.read_text())


def save(state):
    STATE.write_text(json.dumps(state))


def stray(text):
    with open(FOLDER / "strays", "a") as file:
        file.write(text + "\n")
    raise Refused("Bad command")


def volume_of(state, name):
    if name not in state["volumes"]:
        raise Refused("Volume " + name + " does not exist.")
    return state["volumes"][name]


def snapshot_of(state, volume, name):
    if name not in volume_of(state, volume)["snapshots"]:
        raise Refused("Snapshot " + name + " does not exist.")
    return state["volumes"][volume]["snapshots"][name]


def new_object(state, content=None, size=0):
    state["last"] += 1
    number = state["last"]
    path = FOLDER / ("object-%d" % number)
    if content:
        shutil.copyfile(content, path)
    else:
        path.touch()
        os.truncate(path, size)
    target = "iqn.2001-05.com.equallogic:0-8a0906-%d" % number
    return {"file": str(path), "target": target, "online": True, "number": number,
            "description": "", "access": []}


def new_volume(state, name, **how):
    if name in state["volumes"]:
        raise Refused("Volume " + name + " already exists.")
    if mood() == "full":
        raise Refused("Not enough free space in the pool")
    made = new_object(state, **how)
    made["snapshots"] = {}
    state["volumes"][name] = made
    return ["Volume creation succeeded.", "iSCSI target name is " + made["target"] + "."]


def show(thing):
    size = os.path.getsize(thing["file"]) // (1 << 20)
    return ["_____ Information _____", "Size: %dMB" % size, "iSCSI Name: " + thing["target"],
            "Status: " + ("online" if thing["online"] else "offline"),
            "Description: " + thing["description"]]


def offline(thing):
    if thing["number"] in load_logins():
        raise Refused("Cannot set offline: it has active connections.")
    thing["online"] = False
    return []


def online(thing):
    thing["online"] = True
    return []


def create_snapshot(state, volume, label):
    if mood() == "full":
        raise Refused("Not enough free space in the pool")
    of = volume_of(state, volume)
    made = new_object(state, content=of["file"])
    made.update(description=label, online=False)
    name = volume + "-2026-11-23-00:%d" % made["number"]
    if mood() != "purges":  # an old snapshot goes for a new one; here the new one itself
        of["snapshots"][name] = made
    return ["Snapshot creation succeeded.", "Snapshot name is " + name + "."]


def rename_snapshot(state, volume, old, new):
    thing = snapshot_of(state, volume, old)
    if new in state["volumes"][volume]["snapshots"]:
        raise Refused("Snapshot " + new + " already exists.")
    del state["volumes"][volume]["snapshots"][old]
    state["volumes"][volume]["snapshots"][new] = thing
    return []


def list_snapshots(state, volume):
    lines = ["Name" + " " * 40 + "Permission Status      Connections", "-" * 44 + " ---- ---- ----"]
    for name, thing in volume_of(state, volume)["snapshots"].items():
        lines.append("%s read-write %s 0" % (name, "online" if thing["online"] else "offline"))
    return lines


def delete_snapshot(state, volume, name):
    if snapshot_of(state, volume, name)["online"]:
        raise Refused("Snapshot must be offline.")
    del state["volumes"][volume]["snapshots"][name]
    return ["Snapshot deletion succeeded."]


def restore(state, volume, name):
    thing = snapshot_of(state, volume, name)
    if state["volumes"][volume]["online"] or thing["online"]:
        raise Refused("Volume and snapshot must be offline.")
    with open(thing["file"], "rb") as old, open(state["volumes"][volume]["file"], "r+b") as new:
        shutil.copyfileobj(old, new)
    return []


def delete_volume(state, name):
    if volume_of(state, name)["online"]:
        raise Refused("Volume must be offline.")
    del state["volumes"][name]  # and its snapshots with it
    return ["Volume deletion succeeded."]


def grant(state, name, initiator):
    volume_of(state, name)["access"].append(initiator)
    return []


COMMANDS = [
    (r"stty columns 255|stty hardwrap off", lambda s: []),
    (r"cli-settings (?:events|paging|confirmation|formatoutput) off|cli-settings displayinMB on",
     lambda s: []),
    (r"pool select (?:default) show",
     lambda s: ["TotalCapacity: 1024GB", "FreeSpace: " + ("0MB" if mood() == "full" else "512GB")]),
    (rf"volume create ({NAME}) (\d+)MB pool default thin-provision",
     lambda s, n, m: new_volume(s, n, size=int(m) << 20)),
    (rf"volume select ({NAME}) show", lambda s, v: show(volume_of(s, v))),
    (rf"volume select ({NAME}) online", lambda s, v: online(volume_of(s, v))),
    (rf"volume select ({NAME}) offline", lambda s, v: offline(volume_of(s, v))),
    (rf"volume delete ({NAME})", delete_volume),
    (rf"volume select ({NAME}) multihost-access enable", lambda s, v: volume_of(s, v) and []),
    (rf"volume select ({NAME}) access create initiator (iqn\.\S+)", grant),
    (rf"volume select ({NAME}) snapshot create-now description (\S+)", create_snapshot),
    (rf"volume select ({NAME}) snapshot rename (\S+) ({NAME})", rename_snapshot),
    (rf"volume select ({NAME}) snapshot show", list_snapshots),
    (rf"volume select ({NAME}) snapshot delete (\S+)", delete_snapshot),
    (rf"volume select ({NAME}) snapshot select (\S+) show",
     lambda s, v, n: show(snapshot_of(s, v, n))),
    (rf"volume select ({NAME}) snapshot select (\S+) online",
     lambda s, v, n: online(snapshot_of(s, v, n))),
    (rf"volume select ({NAME}) snapshot select (\S+) offline",
     lambda s, v, n: offline(snapshot_of(s, v, n))),
    (rf"volume select ({NAME}) snapshot select (\S+) restore", restore),
    (rf"volume select ({NAME}) snapshot select (\S+) clone ({NAME})",
     lambda s, v, n, new: new_volume(s, new, content=snapshot_of(s, v, n)["file"])),
]


def answer(state, line):
    for shape, act in COMMANDS:
        found = re.fullmatch(shape, line)
        if found:
            return act(state, *found.groups())
    return stray(line)


def session():
    kind = mood()
    if "BatchMode=yes" not in sys.argv or "StrictHostKeyChecking=yes" not in sys.argv:
        stray("ssh " + " ".join(sys.argv))
    if kind == "unknown-host":
        sys.exit("Host key verification failed.")
    if kind == "silent":
        signal.pause()
    if kind == "giant":
        while True:
            print("x" * 65536)
    if kind == "garbage":
        sys.exit(print("\x1b[2J\xc3 nothing like a prompt"))
    print("Welcome to Group Manager\n", flush=True)
    cut_at = FOLDER / "cut-at"
    for line in map(str.strip, sys.stdin):
        if line == "logout":
            print("group-0> logout")
            return
        if cut_at.exists() and re.search(cut_at.read_text(), line):
            cut_at.unlink()
            return
        # A terminal echoes what is typed.
        print("group-0> " + line, flush=True)
        state = load()
        try:
            print("\r\n".join(answer(state, line)))
            save(state)
        except Refused as reason:
            print("% Error - " + str(reason))


# ---- iscsiadm -------------------------------------------------------------------------------------


def load_logins():
    path = FOLDER / "logins.json"
    return json.loads(path.read_text()) if path.exists() else []


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def things(state):
    for volume in state["volumes"].values():
        yield volume
        yield from volume["snapshots"].values()


def iscsi():
    words = sys.argv[1:]
    if words[1] == "discovery":
        return
    target = words[words.index("-T") + 1]
    number = int(target.rsplit("-", 1)[1])
    logins = load_logins()
    host = FOLDER / "host"
    name = "sd%d" % number
    link = host / "dev/disk/by-path" / ("ip-10.0.0.9:3260-iscsi-%s-lun-0" % target)
    if words[-1] == "--logout":
        if number not in logins:
            sys.exit(21)
        logins.remove(number)
        if (host / "sys/block" / name / "device/delete").read_text() != "1":
            stray("a logout while the host still has " + name)
        shutil.rmtree(host / "sys/block" / name)
        link.unlink()
        (host / "dev" / name).unlink()
    else:
        if number in logins:
            sys.exit(15)
        thing = [one for one in things(load()) if one["number"] == number]
        if not thing or not thing[0]["online"]:
            print("iscsiadm: no records found", file=sys.stderr)
            sys.exit(24)
        logins.append(number)
        block = host / "sys/block" / name
        write(block / "dev", "8:%d" % number)
        write(block / "size", str(os.path.getsize(thing[0]["file"]) // 512))
        write(block / "queue/logical_block_size", "512")
        write(block / "device/wwid", "naa.6090a018%024x" % number)
        write(block / "device/delete", "")
        (host / "dev/disk/by-path").mkdir(parents=True, exist_ok=True)
        (host / "dev" / name).symlink_to(thing[0]["file"])
        link.symlink_to("../../" + name)
    write(FOLDER / "logins.json", json.dumps(logins))


if __name__ == "__main__":
    if sys.argv[0].endswith("iscsiadm"):
        iscsi()
    else:
        session()
