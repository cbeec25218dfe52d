#!/usr/bin/python3 -SE
"""rbd(8) and ceph(8), as which it is called, over files in the folder where it is called from: what the provider rbd asks of
them, with the answers and exit statuses of Ceph 16. The kernel's devices are beside them: sys/N/ and dev/rbdN.

state.json is the pool; what is in "plant" goes wrong: {"COMMAND" or "COMMAND IMAGE": EXIT STATUS}. Images that are "broken" cannot be opened;
a kernel has the lock of those that are "locked", and gives it away for a snapshot.
"""
import errno
import fcntl
import json
import os
import shutil
import sys

FOLDER = os.path.dirname(os.path.abspath(sys.argv[0]))
FSID = "6d2a8d6c-5b0a-4a7e-9a55-3f1d3c7b8f10"
CLIENT = 4177
OPTIONS = {
    "ls": {"-l", "format"},
    "info": {"format", "image", "image-id"},
    "status": {"format", "image"},
    "create": {"image", "size"},
    "rename": {"image", "dest-pool", "dest-namespace", "dest"},
    "rm": {"image", "no-progress"},
    "clone": {"image", "snap", "dest-pool", "dest-namespace", "dest", "rbd-default-clone-format"},
    "snap create": {"image", "snap", "no-progress"},
    "snap rename": {"image", "snap", "dest-pool", "dest-namespace", "dest", "dest-snap"},
    "snap rm": {"image", "snap", "no-progress"},
    "snap rollback": {"image", "snap", "no-progress"},
    "device map": {"image", "snap", "read-only", "options"},
    "device unmap": {"options"},
}


class Refused(Exception):
    pass


def refuse(status, text):
    raise Refused(status, f"rbd: {text}: ({status}) {os.strerror(status)}")


def path(*parts):
    return os.path.join(FOLDER, *parts)


class Pool:
    def __init__(self, state):
        self.state, self.images = state, state["images"]

    def number(self):
        self.state["last"] += 1
        return self.state["last"]

    def image(self, name):
        if name not in self.images or self.images[name].get("broken"):
            refuse(errno.ENOENT, f"error opening image {name}")
        return self.images[name]

    def snapshot(self, image, name):
        for snapshot in image["snapshots"]:
            if snapshot["name"] == name and not snapshot["trash"]:
                return snapshot
        return refuse(errno.ENOENT, f"error opening snapshot {name}")

    def children(self, image, snapshot):
        return [c for c in self.images.values() if c.get("parent") == [image["id"], snapshot["id"]]]

    def new_image(self, name, size, parent=None):
        if name in self.images:
            refuse(errno.EEXIST, "create error")
        image = {"id": f"10{self.number():x}", "size": size, "snapshots": [], "parent": parent}
        self.images[name] = image
        with open(path(image["id"]), "wb") as file:
            file.truncate(size)
        return image

    def drop_snapshot(self, image, snapshot):
        image["snapshots"].remove(snapshot)
        os.remove(path(f"{image['id']}@{snapshot['id']}"))


def row(name, image):
    return {"image": name, "id": image["id"], "size": image["size"], "format": 2}


def list_images(pool, options):
    if "-l" not in options:
        return sorted(pool.images)
    rows = []
    for name, image in sorted(pool.images.items()):
        if image.get("broken"):
            continue
        rows.append(row(name, image))
        for snapshot in image["snapshots"]:
            if not snapshot["trash"]:
                rows.append(row(name, image) | {"snapshot": snapshot["name"], "snapshot_id": snapshot["id"],
                                                "size": snapshot["size"], "protected": "false"})
    return rows


def info(pool, options):
    if "image-id" in options:
        names = [n for n, i in pool.images.items() if i["id"] == options["image-id"]]
        options["image"] = names[0] if names else options["image-id"]
    image = pool.image(options["image"])
    return row(options["image"], image) | {"name": options["image"], "snapshot_count": len(image["snapshots"])}


def devices():
    return sorted(os.listdir(path("sys")), key=int)


def attribute(device, name):
    with open(path("sys", device, name), encoding="ascii") as file:
        return file.read().strip()


def status(pool, options):
    image = pool.image(options["image"])
    clients = [CLIENT for d in devices() if attribute(d, "image_id") == image["id"] and attribute(d, "snap_id")[:5] == "18446"]
    return {"watchers": [{"address": "10.0.0.1:0/1", "client": c, "cookie": 1} for c in clients + image.get("watchers", [])]}


def create(pool, options):
    assert options["size"].endswith("B")
    pool.new_image(options["image"], int(options["size"][:-1]))


def rename(pool, options):
    image = pool.image(options["image"])
    if options["dest"] in pool.images:
        refuse(errno.EEXIST, "rename error")
    del pool.images[options["image"]]
    pool.images[options["dest"]] = image


def remove(pool, options):
    name = options["image"]
    image = pool.images.get(name) or refuse(errno.ENOENT, "delete error")
    if image.get("broken"):
        del pool.images[name]
        return
    if image["snapshots"]:
        refuse(errno.ENOTEMPTY, "image has snapshots")
    if status(pool, options)["watchers"]:
        refuse(errno.EBUSY, "error: image still has watchers")
    del pool.images[name]
    os.remove(path(image["id"]))
    # The last clone of a snapshot in the trash takes it along.
    for parent in pool.images.values():
        for snapshot in list(parent["snapshots"]):
            if snapshot["trash"] and not pool.children(parent, snapshot):
                pool.drop_snapshot(parent, snapshot)


def clone(pool, options):
    assert options["rbd-default-clone-format"] == "2"
    image = pool.image(options["image"])
    snapshot = pool.snapshot(image, options["snap"])
    made = pool.new_image(options["dest"], snapshot["size"], [image["id"], snapshot["id"]])
    shutil.copyfile(path(f"{image['id']}@{snapshot['id']}"), path(made["id"]))


def snap_create(pool, options):
    image = pool.image(options["image"])
    if any(s["name"] == options["snap"] for s in image["snapshots"]):
        refuse(errno.EEXIST, "failed to create snapshot")
    image["locked"] = False
    number = pool.number()
    shutil.copyfile(path(image["id"]), path(f"{image['id']}@{number}"))
    image["snapshots"].append({"id": number, "name": options["snap"], "size": image["size"], "trash": False})


def snap_rename(pool, options):
    image = pool.image(options["image"])
    assert options["dest"] == options["image"]
    if any(s["name"] == options["dest-snap"] for s in image["snapshots"]):
        refuse(errno.EEXIST, "renaming snap failed")
    pool.snapshot(image, options["snap"])["name"] = options["dest-snap"]


def snap_rm(pool, options):
    image = pool.image(options["image"])
    snapshot = pool.snapshot(image, options["snap"])
    if pool.children(image, snapshot):
        snapshot["trash"] = True
    else:
        pool.drop_snapshot(image, snapshot)


def snap_rollback(pool, options):
    image = pool.image(options["image"])
    snapshot = pool.snapshot(image, options["snap"])
    if image.get("locked"):
        refuse(errno.EROFS, "rollback failed")
    shutil.copyfile(path(f"{image['id']}@{snapshot['id']}"), path(image["id"]))
    image["size"] = snapshot["size"]


def device_map(pool, options):
    image = pool.image(options["image"])
    snapshot = pool.snapshot(image, options["snap"]) if "snap" in options else None
    assert (snapshot is not None) == ("read-only" in options)
    number = str(pool.number())
    values = {"cluster_fsid": FSID, "pool": "rbd", "pool_ns": options.get("namespace", ""), "image_id": image["id"],
              "snap_id": str(snapshot["id"] if snapshot else 2**64 - 2), "major": "252", "minor": str(int(number) * 16),
              "client_id": f"client{CLIENT}"}
    os.symlink(path(f"{image['id']}@{snapshot['id']}" if snapshot else image["id"]), path("dev", "rbd" + number))
    os.mkdir(path("sys", number))
    for name, value in values.items():
        with open(path("sys", number, name), "w", encoding="ascii") as file:
            file.write(value + "\n")
    print(path("dev", "rbd" + number))


def device_unmap(_, options):
    number = os.path.basename(options["place"]).removeprefix("rbd")
    if number not in devices():
        refuse(errno.EINVAL, "not a mapped image")
    shutil.rmtree(path("sys", number))
    os.remove(path("dev", "rbd" + number))


RBD = {"ls": list_images, "info": info, "status": status, "create": create, "rename": rename, "rm": remove, "clone": clone,
       "snap create": snap_create, "snap rename": snap_rename, "snap rm": snap_rm, "snap rollback": snap_rollback,
       "device map": device_map, "device unmap": device_unmap}


def ceph(state, command):
    if command == "fsid":
        return {"fsid": FSID}
    if command == "df detail":
        return {"pools": [{"name": "rbd", "stats": {"stored": 4096, "max_avail": 1 << 30, "quota_bytes": 0}}]}
    assert command == "health detail"
    return state["health"]


def parse(words):
    """The command, and its options; those that it does not have are an error, as with rbd."""
    command, options = [], {}
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            options[name] = value
        elif word.startswith("/"):
            options["place"] = word
        elif word == "-l":
            options[word] = ""
        else:
            command.append(word)
    return " ".join(command), options


def run(state):
    command, options = parse(sys.argv[1:])
    with open(path("calls"), "a", encoding="utf-8") as calls:
        calls.write(" ".join([os.path.basename(sys.argv[0])] + sys.argv[1:]) + "\n")
    for planted in (command, f"{command} {options.get('image')}"):
        if planted in state.get("plant", {}):
            refuse(state["plant"][planted], "planted")
    if os.path.basename(sys.argv[0]) == "ceph":
        return ceph(state, command)
    unknown = set(options) - OPTIONS[command] - {"pool", "namespace", "place", "id", "keyring", "conf", "cluster"}
    assert not unknown, unknown
    assert command == "device unmap" or options["pool"] == "rbd"
    return RBD[command](Pool(state), options)


def main():
    with open(path("lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(path("state.json"), encoding="utf-8") as file:
            state = json.load(file)
        try:
            answer = run(state)
        except Refused as error:
            print(error.args[1], file=sys.stderr)
            sys.exit(error.args[0])
        with open(path("state.json.new"), "w", encoding="utf-8") as file:
            json.dump(state, file)
        os.rename(path("state.json.new"), path("state.json"))
        if answer is not None:
            print("\n" + json.dumps(answer))


main()
