"""Proves from disks, databases and its own journal that a night ended as it must.

It shares no code with dbbbatch: it reads directories, asks the databases by plain SQL, and takes
what may follow what from docs/ingests.md. Each function yields what is wrong, in words.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_SENTINEL = ".dbb-storage"

#: Which way files go: 0 through the handoff, 1 through a finder alone.
STORAGE = {0: "archive/storage", 1: "guider-disk/storage"}
QUARANTINE = {0: "archive/quarantine", 1: "guider/quarantine"}
FINDER = {0: "finder.latiss", 1: "finder.guider"}
BUFFER = {0: "summit/buffer", 1: "guider/source"}
TARGETS = {0: ("null", "by-night", "catalog"), 1: ("guider",)}
_TREES = {"by-night": "archive/by-night", "guider": "guider-disk/by-copy"}

#: What still is so in the morning.
_LASTING = re.compile(
    r"in quarantine: |wait for a person|waits for a person|a symbolic link; |a FIFO; "
    r"|not confirmed|^and more of this|held files?"
)

#: A trouble that is told again only when it has doubled since.
_COUNTED = re.compile(r"\b(\d+) (?:files? waits? for a person|held files? (?:is|are) not)")

#: What Python itself says of a signal that comes before a script can set up what to do then.
_EARLY = re.compile(
    r"Traceback \(most recent call last\):\n  File \"[^\"]*/bin/[\w-]+\", line \d+, in <module>\n"
    r"    import signal\n(?:  .*\n)*KeyboardInterrupt\n"
)

#: A line of a pass that is mail: who says it.
_LABELLED = re.compile(r"(dbb(-\w+)?|(handoff|finder|target|janitor|auditor)\.[\w-]+): ")


#: Of an alert: what is told, of what, and which component met it.
_ALERT = re.compile(r"^(BEGINS|IS OVER): (.*)\n(?:  .*\n)*?(?:  met by (\S+)|\n)", re.MULTILINE)


class File(NamedTuple):
    """Something that is no directory, below a directory."""

    digest: str
    mode: int
    size: int
    inode: int


class Version(NamedTuple):
    """What the archiver wrote: by which way, under which path, with which content."""

    at: int
    path: str
    digest: str


@dataclass
class Night:
    """What is left of a night.

    Attributes
    ----------
    root : `pathlib.Path`
        Where its directories are.
    ask : callable
        Gives the rows of a question to the database of a site.
    journal : `list` [ `dict` ]
        All lines of its journals, in order of time.
    before : `~collections.abc.Mapping`
        What was to be seen outside before it began, as `picture` gives it.
    """

    root: Path
    ask: Callable[[str, str], list[tuple[Any, ...]]]
    journal: list[dict[str, Any]]
    before: Mapping[str, Any] = field(default_factory=dict)

    def entries(self, *what: str) -> list[dict[str, Any]]:
        """Return the lines of the journal about some things."""
        return [entry for entry in self.journal if entry["what"] in what]

    @cached_property
    def placed(self) -> Counter[Version]:
        """How often each version was put into a buffer, and not withdrawn by the archiver."""
        found: Counter[Version] = Counter()
        for entry in self.entries("placed", "withdrawn"):
            version = Version(entry["at"], entry["path"], entry["digest"])
            if (version.at, version.path) in self.late:
                continue
            found[version] += 1 if entry["what"] == "placed" else -1
        return found

    @cached_property
    def first_placed(self) -> dict[Version, float]:
        """When each version was first put into a buffer, in seconds since 1970."""
        found: dict[Version, float] = {}
        for entry in self.entries("placed"):
            found.setdefault(Version(entry["at"], entry["path"], entry["digest"]), entry["t"])
        return found

    @cached_property
    def late(self) -> set[tuple[int, str]]:
        """Files written in place by an archiver that paused for longer than it may: `settle`.

        The first half may have been taken for the whole, and what came later is the archiver's.
        """
        return {(entry["at"], entry["path"]) for entry in self.entries("half")}

    @cached_property
    def possible(self) -> set[Version]:
        """What a pass may have seen, besides what must be there in the end."""
        entries = self.entries("placed", "withdrawn", "half")
        return {Version(entry["at"], entry["path"], entry["digest"]) for entry in entries}

    @cached_property
    def names(self) -> Counter[tuple[int, str]]:
        """How many contents each path may have had."""
        return Counter((version.at, version.path) for version in self.possible)

    @cached_property
    def _forgetting(self) -> list[tuple[str, float, float]]:
        """When the state directory of a site could not be written: site, begin and end."""
        found = []
        begun: dict[str, float] = {}
        for entry in self.entries("fault", "repaired"):
            what = entry["on"].partition(" for ")[0]
            if entry["what"] == "fault":
                begun[what] = entry["t"]
            elif what.startswith(("directory var/", "full var")):
                sites = [site for site in ("summit", "archive") if f"var/{site}" in what]
                for site in sites or ("summit", "archive"):
                    found.append((site, begun.get(what, 0), entry["t"]))
        return found

    def forgetful(self, site: str, since: float, until: float = 0) -> bool:
        """Return whether passes of a site may not have been able to remember what they said."""
        return any(
            site == where and begin <= (until or since) + 1 and end >= since - 1
            for where, begin, end in self._forgetting
        )

    def tree(self, name: str) -> dict[str, File]:
        """Return what is below a directory, by relative path; read once."""
        trees = self.__dict__.setdefault("_trees", {})
        if name not in trees:
            trees[name] = dict(walk(self.root / name))
        found: dict[str, File] = trees[name]
        return found

    @cached_property
    def quarantined(self) -> list[tuple[str, str, str, str, str]]:
        """Label, path, where it is, digest and reason of all that is in quarantine."""
        sql = (
            "SELECT label, relpath, filename, path, checksum, reason FROM quarantine"
            " WHERE released_at IS NULL AND quarantined_at IS NOT NULL"
        )
        found = []
        for site in ("summit", "archive"):
            for label, relpath, filename, where, checksum, reason in self.ask(site, sql):
                path, digest = decoded(where), _hex(checksum)
                # `dbb rebuild` records what it finds there, and reads nothing.
                if not digest and os.path.isfile(path):
                    digest = _digest(path)
                found.append((label, joined(relpath, filename), path, digest, reason))
        return found


def walk(directory: Path) -> Iterator[tuple[str, File]]:
    """Yield everything but directories below a directory, by its relative path."""
    for top, directories, names in os.walk(directory):
        links = [name for name in directories if os.path.islink(os.path.join(top, name))]
        for name in [*names, *links]:
            path = os.path.join(top, name)
            status = os.lstat(path)
            digest = ""
            if stat.S_ISREG(status.st_mode):
                digest = _digest(path)
            elif stat.S_ISLNK(status.st_mode):
                digest = f"link to {os.readlink(path)}"
            file_ = File(digest, status.st_mode, status.st_size, status.st_ino)
            yield os.path.relpath(path, directory), file_


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def picture(directory: Path) -> dict[str, list[Any]]:
    """Return all that can be seen of a directory and what is below, but who read it when."""
    found = {}
    for path in (directory, *directory.rglob("*")):
        status = path.lstat()
        content = path.read_bytes().hex()[:200] if stat.S_ISREG(status.st_mode) else ""
        found[str(path)] = [
            *(status.st_mode, status.st_ino, status.st_nlink, status.st_uid, status.st_size),
            *(status.st_mtime_ns, status.st_ctime_ns, content),
        ]
    return found


def decoded(name: str) -> str:
    """Return the name that a table means, as the file system has it."""
    parts = re.split(r"\\(\\|x[0-9A-Fa-f]{2})", name)
    raw = b"".join(
        part.encode() if not n % 2 else b"\\" if part == "\\" else bytes.fromhex(part[1:])
        for n, part in enumerate(parts)
    )
    return os.fsdecode(raw)


def joined(relpath: str, filename: str) -> str:
    """Return the relative path that two columns mean."""
    return os.path.join(decoded(relpath), decoded(filename))


def _hex(checksum: str | None) -> str:
    return (checksum or "").partition(":")[2]


# ---- what must be over


def unfinished(night: Night) -> Iterator[str]:
    """Yield what still waits for a pass, so that it is too early to check."""
    for site, what, sql in (
        ("summit", "to be sent", "handoff_file WHERE status IN ('FOUND', 'DELIVERED')"),
        ("summit", "on its way to quarantine", "quarantine WHERE quarantined_at IS NULL"),
        ("archive", "on its way to quarantine", "quarantine WHERE quarantined_at IS NULL"),
        ("archive", "arriving", "file WHERE status = 'ARRIVING'"),
        ("archive", "failing or not removed", "finder_left WHERE verdict IN ('FAILED', 'MOVED')"),
        (
            "archive",
            "to be ingested",
            "ingest_state s JOIN file f ON f.id = s.file_id WHERE f.status = 'STORED' AND"
            " (s.status IN ('UNTRIED', 'PENDING', 'RERUN') OR s.next_try_at IS NOT NULL)",
        ),
        ("summit", "open batches", "transfer_batch WHERE status IN ('OPEN', 'SETTLED')"),
    ):
        if count := night.ask(site, f"SELECT count(*) FROM {sql}")[0][0]:
            yield f"{count} {what}"
    for name in ("summit/buffer", "archive/buffer", "guider/source", "archive/staging"):
        count = 0
        for _, _, names in os.walk(night.root / name):
            count += len(names)
        count -= len(_odd_paths(night)) if name in BUFFER.values() else 0
        if count > 0:
            yield f"{count} files in {name}"


def _odd_paths(night: Night) -> dict[tuple[int, str], str]:
    """Return what the archiver has left in buffers that is no file, by way and path."""
    odd = {(entry["at"], entry["path"]): entry["kind"] for entry in night.entries("odd")}
    for entry in night.entries("odd gone"):
        odd.pop((entry["at"], entry["path"]), None)
    return odd


# ---- versions


def versions_once(night: Night) -> Iterator[str]:
    """Every version is stored once with its bytes, or in quarantine with a reason."""
    stored = {
        Version(at, path, file.digest)
        for at, name in STORAGE.items()
        for path, file in night.tree(name).items()
    }
    aside: Counter[Version] = Counter()
    for label, path, _, digest, reason in night.quarantined:
        at = 1 if label == FINDER[1] else 0
        version = Version(at, path, digest)
        aside[version] += 1
        if not reason:
            yield f"{path!r}: in quarantine of {label} without a reason"
        if night.names[at, path] < 2 and version not in stored:
            yield f"{path!r}: in quarantine of {label} without a cause of its own: {reason}"
    again = sum("resend" in entry["command"] for entry in night.entries("pass"))
    again += len(night.entries("restoring"))
    for version, times in night.placed.items():
        count = (version in stored) + aside[version]
        if times > 0 and not count:
            yield f"{version}: is lost: neither stored nor in quarantine"
        if count > max(times, 1) + again:
            yield f"{version}: is there {count} times and was written {times} times"


def contents_known(night: Night) -> Iterator[str]:
    """No file has a content or a name that the archiver did not give it."""
    for at, name in [*STORAGE.items(), (0, "summit/holding")]:
        for path, file in night.tree(name).items():
            if path == _SENTINEL and "storage" in name:
                continue
            if not stat.S_ISREG(file.mode):
                yield f"{name}/{path!r}: is no regular file"
                continue
            names = {path} if "storage" in name else {path, re.sub(r"\.~\d+~$", "", path)}
            known = any(Version(at, each, file.digest) in night.possible for each in names)
            if not known and not any((at, each) in night.late for each in names):
                yield f"{name}/{path!r}: no version of that name has this content"


def quarantine_whole(night: Night) -> Iterator[str]:
    """What is in a quarantine has a row and a reason, and the other way round."""
    files = {
        str(night.root / name / path): file
        for name in ("summit/quarantine", *QUARANTINE.values())
        for path, file in night.tree(name).items()
    }
    explained = set()
    for label, path, where, digest, _ in night.quarantined:
        file = files.get(where)
        if file is None:
            yield f"{where!r}: is not in the quarantine of {label}, as its row says"
        elif digest and file.digest != digest:
            yield f"{where!r}: has not the content that its row says"
        elif where + ".reason" not in files:
            yield f"{where!r}: has no file with its reason"
        explained |= {where, where + ".reason"}
        if Version(1 if label == FINDER[1] else 0, path, digest) not in night.possible:
            yield f"{where!r}: no version of that name has this content"
    for where in files.keys() - explained:
        yield f"{where!r}: is in quarantine without a row"


# ---- the handoff


def holding_complete(night: Night) -> Iterator[str]:
    """Every version that was sent is held, or was purged after it was stored and ingested."""
    sql = "SELECT relpath, filename, checksum, status, held_as FROM handoff_file"
    holding, kept = night.tree("summit/holding"), Counter[Version]()
    listed = set()
    storage, restored = night.tree(STORAGE[0]), night.entries("restoring")
    for relpath, filename, checksum, status, held_as in night.ask("summit", sql):
        path = joined(relpath, filename)
        version = Version(0, path, _hex(checksum))
        if status in ("HELD", "PURGED", "QUARANTINED", "IGNORED"):
            kept[version] += 1
        if status in ("FOUND", "DELIVERED"):
            yield f"{path!r}: is still {status}"
        if status == "HELD":
            held = os.path.join(decoded(relpath), decoded(held_as or filename))
            listed.add(held)
            if restored:
                # `dbb rebuild` takes a file whose own name ends as a version's for a version.
                kept[Version(0, joined(relpath, held_as or filename), version.digest)] += 1
            if held not in holding:
                # An older database does not know what was purged since; the janitor says so.
                was_purged = any(each["site"] == "summit" for each in restored)
                if not was_purged or path not in storage or storage[path].digest != version.digest:
                    yield f"{held!r}: is not in the holding area, as its row says"
            elif holding[held].digest != version.digest and (0, path) not in night.late:
                yield f"{held!r}: in the holding area, with another content than was sent"
        if status == "PURGED" and (path not in storage or storage[path].digest != version.digest):
            yield f"{path!r}: was purged, and is not stored"
    for held in holding.keys() - listed:
        yield f"{held!r}: is in the holding area without a row"
    older = max((each["t"] for each in restored if each["site"] == "summit"), default=0.0)
    for version, times in night.placed.items():
        if version.at == 0 and times > 0 and not kept[version]:
            # An older database knows nothing of what was sent and purged since.
            stored = version.path in storage and storage[version.path].digest == version.digest
            if not stored or night.first_placed[version] > older:
                yield f"{version}: is neither held nor purged nor set aside"


def purged_after_ingest(night: Night) -> Iterator[str]:
    """What was purged is ingested in the targets that confirm it."""
    sql = (
        "SELECT f.relpath, f.filename, t.name, s.status FROM ingest_state s"
        " JOIN file f ON f.id = s.file_id JOIN target t ON t.id = s.target_id"
        " WHERE t.name IN ('null', 'by-night')"
    )
    done = {
        (joined(relpath, filename), target)
        for relpath, filename, target, status in night.ask("archive", sql)
        if status == "SUCCESS"
    }
    sql = "SELECT relpath, filename FROM handoff_file WHERE status = 'PURGED'"
    for relpath, filename in night.ask("summit", sql):
        for target in ("null", "by-night"):
            if ((path := joined(relpath, filename)), target) not in done:
                yield f"{path!r}: was purged, and {target} does not have it"


# ---- storage and targets


def storage_as_recorded(night: Night) -> Iterator[str]:
    """The table and storage agree, and nobody may change what is stored."""
    sql = "SELECT storage, relpath, filename, size_bytes, checksum, status FROM file"
    rows: dict[str, dict[str, tuple[Any, ...]]] = defaultdict(dict)
    for storage, relpath, filename, size, checksum, status in night.ask("archive", sql):
        rows[decoded(storage)][joined(relpath, filename)] = (size, _hex(checksum), status)
    for name in STORAGE.values():
        files = night.tree(name)
        known = rows.get(str(night.root / name), {})
        for path, (size, digest, status) in known.items():
            file = files.get(path)
            if status != "STORED":
                yield f"{name}/{path!r}: is {status} in the table"
            elif file is None:
                yield f"{name}/{path!r}: is STORED in the table, and not there"
            elif (file.size, file.digest) != (size, digest):
                yield f"{name}/{path!r}: has not the content that the table says"
        for path in files.keys() - known.keys() - {_SENTINEL}:
            yield f"{name}/{path!r}: is in storage without a row"
        for path, file in files.items():
            if file.mode & 0o7222 and path != _SENTINEL:
                yield f"{name}/{path!r}: has the mode {file.mode & 0o7777:o} in storage"


def expected_status(target: str, path: str, size: int) -> str:
    """Return how a (file, target) must end."""
    if target == "catalog":
        if not re.search(r"7\.fits$|_(never|sick|crash)\.fits$", path):
            return "IGNORED"
        if path.endswith("_never.fits"):
            return "INVALID"
        if path.endswith(("_sick.fits", "_crash.fits")):
            return "FAILURE"
    return "SUCCESS" if size else "INVALID"


def targets_done(night: Night) -> Iterator[str]:
    """Each (file, target) has ended as it must, and the targets have what they say."""
    sql = (
        "SELECT t.name, f.relpath, f.filename, f.size_bytes, s.status, s.next_try_at, s.claim"
        " FROM ingest_state s JOIN file f ON f.id = s.file_id JOIN target t ON t.id = s.target_id"
        " WHERE f.status = 'STORED'"
    )
    ended: dict[str, dict[str, str]] = defaultdict(dict)
    for target, relpath, filename, size, status, due, claim in night.ask("archive", sql):
        path = joined(relpath, filename)
        ended[target][path] = status
        wanted = expected_status(target, path, size)
        if status != wanted or due is not None or claim is not None:
            how = f"{status} (due {due}, claim {claim})"
            yield f"{path!r}: ended as {how} with {target}, not {wanted}"
    for at, names in TARGETS.items():
        files = night.tree(STORAGE[at]).keys() - {_SENTINEL}
        for target in names:
            for path in files - ended[target].keys():
                yield f"{path!r}: was never offered to {target}"
    yield from _targets_have(night, ended)


def _targets_have(night: Night, ended: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for target, name in _TREES.items():
        at = 1 if target == "guider" else 0
        tree, storage = night.tree(name), night.tree(STORAGE[at])
        done = {path for path, status in ended[target].items() if status == "SUCCESS"}
        for path in done ^ tree.keys():
            yield f"{path!r}: {target} and its tree do not agree about it"
        for path in done & tree.keys() & storage.keys():
            if tree[path].digest != storage[path].digest:
                yield f"{path!r}: has another content in the tree of {target}"
    catalog = night.root / "catalog" / "names"
    listed = set(os.fsdecode(catalog.read_bytes()).split("\0")) if catalog.exists() else set()
    listed.discard("")
    top = f"{night.root / STORAGE[0]}/"
    done = {top + path for path, status in ended["catalog"].items() if status == "SUCCESS"}
    for path in done - listed:
        yield f"{path!r}: the catalog does not list it"
    for path in listed - done:
        yield f"{path!r}: the catalog lists it, and its state is not SUCCESS"


def history_consistent(night: Night) -> Iterator[str]:
    """The last event of each (file, target) is its state, and each change is a possible one."""
    possible = possible_changes()
    sql = "SELECT file_id, target_id, status FROM ingest_event ORDER BY id"
    last: dict[tuple[int, int], str] = {}
    for file_id, target_id, status in night.ask("archive", sql):
        before = last.get((file_id, target_id), "(none)")
        if before != status and (before, status) not in possible:
            yield f"file {file_id}, target {target_id}: {before} cannot become {status}"
        last[file_id, target_id] = status
    for file_id, target_id, status in night.ask(
        "archive", "SELECT file_id, target_id, status FROM ingest_state"
    ):
        told = last.get((file_id, target_id))
        if told != status:
            yield f"file {file_id}, target {target_id}: is {status}, the last event says {told}"


def possible_changes() -> set[tuple[str, str]]:
    """Return which status of an ingest may follow which, as docs/ingests.md says."""
    text = (_DOCS / "ingests.md").read_text()
    return set(re.findall(r"^\| (\(none\)|[A-Z]+) \| ([A-Z]+) \| ", text, re.MULTILINE))


# ---- what nobody may have touched, and what must not be left


def outside_untouched(night: Night) -> Iterator[str]:
    """Nothing outside of the configured directories has changed, or came in."""
    now = picture(night.root / "outside")
    for path in sorted(now.keys() ^ night.before.keys()):
        yield f"{path}: was made or removed outside"
    for path in sorted(now.keys() & night.before.keys()):
        if now[path] != night.before[path]:
            yield f"{path}: was touched outside: {night.before[path]} is {now[path]}"
    secret = {file.digest for _, file in walk(night.root / "outside")}
    for name in ("summit", "archive", "guider", "guider-disk", "home", "tmp"):
        for path, file in night.tree(name).items():
            if file.digest in secret:
                yield f"{name}/{path!r}: has come from outside"
    for name in ("home", "tmp", "summit/spool", "guider/spool"):
        for path in night.tree(name):
            yield f"{name}/{path!r}: was left there"


def links_untouched(night: Night) -> Iterator[str]:
    """Links, FIFOs and the like are where the archiver left them."""
    odd = _odd_paths(night)
    for at, name in BUFFER.items():
        there = {
            path: file for path, file in night.tree(name).items() if not stat.S_ISREG(file.mode)
        }
        expected = {path for way, path in odd if way == at}
        for path in expected ^ there.keys():
            yield f"{name}/{path!r}: a link or a FIFO is not where the archiver left it"


def no_leftovers(night: Night) -> Iterator[str]:
    """No file, row or directory of a pass is left."""
    yield from unfinished(night)
    for name in ("summit", "archive", "guider", "guider-disk"):
        for path in night.tree(name):
            if ".dbb~" in path:
                yield f"{name}/{path!r}: was left by a pass"
    for top, directories, names in os.walk(night.root / "archive/staging"):
        for each in [*directories, *names]:
            yield f"{os.path.join(top, each)}: was left in staging"
    for site, table in (("archive", "ingest_claim"),):
        if count := night.ask(site, f"SELECT count(*) FROM {table}")[0][0]:
            yield f"{count} rows of {table} are left"
    for site in ("summit", "archive"):
        sql = "SELECT script, name, id FROM run WHERE finished IS NULL AND outcome = 'running'"
        newest = "SELECT script, name, max(id) FROM run GROUP BY script, name"
        last = {(script, name): number for script, name, number in night.ask(site, newest)}
        for script, name, number in night.ask(site, sql):
            if last[script, name] == number:
                yield f"{site}: {script} {name} is recorded as at work, and is not"


# ---- what passes said


def exits_documented(night: Night) -> Iterator[str]:
    """Exit codes and output are as documented, and no traceback is among them."""
    for entry in night.entries("pass"):
        said, code = entry["said"], entry["code"]
        command = f"{' '.join(entry['command'])} (pass {entry['number']})"
        if "signal" in entry["hits"]:
            said = _EARLY.sub("", said)
        if "Traceback" in said or code == 70:
            yield f"{command}: a fault of its own, code {code}: {said[-2000:]}"
        elif code not in _codes(night, entry):
            yield f"{command}: ended with {code}: {said[-500:]}"
        if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", said):
            yield f"{command}: control characters: {said!r}"
        if entry["by_hand"] or entry["command"][0] == "dbb":
            continue
        early = ("", "interrupted") if "signal" in entry["hits"] else ()
        lines = [line for line in said.splitlines() if line not in early]
        if wrong := [line for line in lines if not _LABELLED.match(line)]:
            yield f"{command}: is no message of a pass: {wrong[0]!r}"
    yield from (entry["text"] for entry in night.entries("violation"))
    for entry in night.entries("restoring"):
        if entry["code"] not in (0, 1):
            yield f"{entry['command']}: ended with {entry['code']}: {entry['said'][-500:]}"


def _codes(night: Night, entry: Mapping[str, Any]) -> set[int]:
    """Return the exit codes that a script may have."""
    codes = {0, 1, 75}
    if night.forgetful(entry["site"], entry["began"], entry["t"]):
        codes.add(78)  # a person must let the user in
    if entry["command"][:2] == ["dbb", "status"]:
        codes |= {2, 3}
    if entry["by_hand"]:
        codes |= {64, 78}
    # A pass whose lease runs out while it changes files is killed by the kernel: if it was stopped
    # for long, or if libfaketime moves the time of that with the clock.
    if set(entry["hits"]) & {"killed", "ended", "stopped", "clock"}:
        codes.add(-9)
    if "signal" in entry["hits"]:
        # A signal may come before Python, or the script, has set up what to do then.
        codes |= {-15, -2, -1, 75, 130, 143, 129}
    return codes


def messages_paired(night: Night) -> Iterator[str]:
    """A trouble is told once when it begins and once when it ends.

    A pass that was hit may not have remembered what it said; so may one whose state directory could
    not be written, and one that was made by hand says everything.
    """
    told: dict[tuple[str, str], dict[str, bool]] = defaultdict(dict)
    counts: dict[tuple[str, str, str], int] = {}
    over_at: dict[tuple[str, str], float] = {}
    passes = {entry["number"]: entry for entry in night.entries("pass")}
    for entry in night.entries("line", "pass"):
        by = passes.get(entry["number"])
        if not by or by["command"][0] in ("dbb", "dbb-report"):
            continue
        doubtful = bool(by["hits"]) or by["by_hand"] or night.forgetful(entry["site"], entry["t"])
        if entry["what"] == "pass":
            failed = entry["code"] in (1, 75, 78) and not doubtful
            # What it met may have been over when this one's end was seen.
            known_then = told[_who(entry)] or over_at.get(_who(entry), 0) >= entry["began"]
            if failed and not known_then:
                yield f"{entry['command']}: ended with {entry['code']}, and nobody was told why"
            continue
        label, _, text = entry["text"].partition(": ")
        if not _LABELLED.match(entry["text"]):
            continue
        known = told[entry["site"], label]
        over = text.startswith("is over: ")
        text, count = _without_count(text.removeprefix("is over: "))
        if over:
            over_at[entry["site"], label] = entry["t"]
            if text not in known and not doubtful and not any(known.values()):
                yield f"{label} (pass {entry['number']}): told the end only: {text}"
            known.pop(text, None)
        else:
            before = counts.get((entry["site"], label, text), 0) if text in known else 0
            if known.get(text) is False and not doubtful and not count >= 2 * before > 0:
                yield f"{label} (pass {entry['number']}): told twice that it began: {text}"
            known[text] = False
            counts[entry["site"], label, text] = max(count, before)
        if doubtful:
            known.update(dict.fromkeys(known, True))
    for (_, label), known in told.items():
        for text, doubtful in known.items():
            if not doubtful and not _LASTING.search(text):
                yield f"{label}: never told that it is over: {text}"


def _without_count(text: str) -> tuple[str, int]:
    """Return what a message says without the number that may grow, and that number."""
    found = _COUNTED.search(text)
    if found is None:
        return text, 0
    what = "files wait for a person" if "person" in found[0] else "held files are not"
    return text[: found.start()] + what, int(found[1])


def _who(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Return the site and the label of a pass."""
    script, name = entry["command"][:2]
    kind = script.removeprefix("dbb-").replace("ingester", "target")
    return entry["site"], f"{kind}.{name}"


def alerts_paired(night: Night) -> Iterator[str]:
    """An outage of a site is told once when it begins and once when it is over.

    Where a pass was hit, or could not remember, within the seconds before, it may be told again.
    """
    hit = defaultdict(list)
    for entry in night.entries("pass"):
        if entry["hits"]:
            hit[entry["site"]].append((entry["began"], entry["t"]))
    for site in ("summit", "archive"):
        path, known = night.root / "alerts" / site, dict[tuple[str, str], float]()
        for message in path.read_text(errors="replace").split("\0") if path.exists() else ():
            at = float(message.partition("\n")[0] or 0)
            for what, text, by in _ALERT.findall(message):
                since = known.pop((text, by), None)
                if what == "BEGINS":
                    known[text, by] = at
                    doubtful = since is not None and (
                        any(begin <= at and end >= since for begin, end in hit[site])
                        or night.forgetful(site, since, at)
                    )
                    if since is not None and not doubtful:
                        yield f"alerts of {site}: told twice that it began: {text}, {by}"


CHECKS: tuple[Callable[[Night], Iterable[str]], ...] = (
    *(versions_once, contents_known, quarantine_whole, holding_complete, purged_after_ingest),
    *(storage_as_recorded, targets_done, history_consistent, outside_untouched, links_untouched),
    *(no_leftovers, exits_documented, messages_paired, alerts_paired),
)


def check(night: Night) -> Iterator[str]:
    """Yield all that is wrong, with the name of what was looked at."""
    for one in CHECKS:
        name = one.__name__.replace("_", " ")
        for wrong in one(night):
            yield f"{name}: {wrong}"
