"""The checker of a simulated night finds whatever is wrong."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.night import checker, faults
from tests.support.scripts import TOP

_NIGHT = "2026-11-21"


class Ended:
    """What is left of a small night in which all went well, until a test spoils it.

    Each file went through the handoff, and was rewritten once: what came second is in quarantine.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.journal: list[dict[str, Any]] = []
        self.databases = {}
        for site in ("summit", "archive"):
            connection = sqlite3.connect(":memory:", isolation_level=None)
            for path in sorted((TOP / "sql" / "sqlite").glob("*.sql")):
                connection.executescript(path.read_text())
            self.databases[site] = connection
        for name in (
            *checker.BUFFER.values(),
            *checker.STORAGE.values(),
            *checker.QUARANTINE.values(),
            *("summit/holding", "summit/quarantine", "archive/buffer", "archive/staging"),
            *("archive/by-night", "guider-disk/by-copy", "outside", "alerts", "catalog"),
            *("home", "tmp", "summit/spool", "guider/spool"),
        ):
            (root / name).mkdir(parents=True)
        self.put("outside/secret.fits", b"PRIVATE")
        self.number = 0
        for at, names in checker.TARGETS.items():
            (root / checker.STORAGE[at] / ".dbb-storage").touch()
            for name in names:
                self.insert("archive", "target", site="archive", name=name, storage="", plugin="",
                            created_at="")  # fmt: skip
        self.targets = dict(self.ask("archive", "SELECT name, id FROM target"))
        for at in (0, 1):
            self.arrive(at, f"{_NIGHT}/AT_O_000017.fits", b"first")
            self.arrive(at, f"{_NIGHT}/AT_O_000018.fits", b"one")
        self.set_aside(f"{_NIGHT}/AT_O_000017.fits", b"second")
        self.run("dbb-handoff", "latiss", said="")
        self.before = checker.picture(root / "outside")

    def put(self, name: str, content: bytes, mode: int = 0o444) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        return path

    def insert(self, at: str, table: str, /, **values: Any) -> int:
        marks = ", ".join("?" * len(values))
        sql = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})"
        return self.databases[at].execute(sql, list(values.values())).lastrowid or 0

    def ask(self, site: str, sql: str) -> list[tuple[Any, ...]]:
        return self.databases[site].execute(sql).fetchall()

    def tell(self, what: str, **values: Any) -> None:
        self.number += 1
        self.journal.append({"t": float(self.number), "what": what, **values})

    def written(self, at: int, path: str, content: bytes) -> str:
        digest = hashlib.blake2b(content).hexdigest()
        self.tell("placed", at=at, path=path, digest=digest, size=len(content), kind="plain")
        return digest

    def arrive(self, at: int, path: str, content: bytes) -> None:
        """Let a version be sent, held, stored and ingested."""
        digest = self.written(at, path, content)
        self.put(f"{checker.STORAGE[at]}/{path}", content)
        relpath, filename = os.path.split(path)
        if at == 0:
            self.hold(path, content, digest)
        file = self.insert(
            "archive", "file", storage=str(self.root / checker.STORAGE[at]), relpath=relpath,
            filename=filename, size_bytes=len(content), checksum=f"blake2b:{digest}",
            status="STORED", finder="latiss",
        )  # fmt: skip
        for target in checker.TARGETS[at]:
            status = checker.expected_status(target, path, len(content))
            self.insert("archive", "ingest_state", file_id=file, target_id=self.targets[target],
                        status=status, changed_at="")  # fmt: skip
            steps = ["UNTRIED", "PENDING", status] if status != "IGNORED" else ["UNTRIED", status]
            for step in steps:
                self.number += 1
                self.insert("archive", "ingest_event", file_id=file, run_id=1, number=self.number,
                            target_id=self.targets[target], status=step, start_time="")  # fmt: skip
        if at == 0:
            self.put(f"archive/by-night/{path}", content)
            if path.endswith("7.fits"):
                with (self.root / "catalog" / "names").open("a") as names:
                    names.write(f"{self.root}/archive/storage/{path}\0")
        else:
            self.put(f"guider-disk/by-copy/{path}", content)

    def hold(self, path: str, content: bytes, digest: str, suffix: str = "") -> None:
        relpath, filename = os.path.split(path)
        self.put(f"summit/holding/{path}{suffix}", content)
        self.number += 1
        self.insert(
            "summit", "handoff_file", site="summit", handoff="latiss", relpath=relpath,
            filename=filename, size_bytes=len(content), mtime_ns=self.number, inode=1,
            checksum=f"blake2b:{digest}", status="HELD", held_as=filename + suffix,
            discovered_at="",
        )  # fmt: skip

    def set_aside(self, path: str, content: bytes, again: bool = False) -> None:
        """Let a second version be held here and in quarantine there; or, again, the first."""
        digest = hashlib.blake2b(content).hexdigest() if again else self.written(0, path, content)
        self.hold(path, content, digest, ".~1~")
        where = self.put(f"archive/quarantine/{path}", content)
        self.put(f"archive/quarantine/{path}.reason", b"other content")
        relpath, filename = os.path.split(path)
        self.insert(
            "archive", "quarantine", site="archive", label="finder.latiss", relpath=relpath,
            filename=filename, path=str(where), size_bytes=1, mtime_ns=1, inode=1,
            checksum=f"blake2b:{digest}", reason="other content", quarantined_at="x",
        )  # fmt: skip

    def run(self, *command: str, said: str, code: int = 0, **more: Any) -> None:
        """Let a script have run."""
        self.number += 1
        number = self.number
        for line in said.splitlines():
            self.tell("line", number=number, site="summit", text=line)
        values = {"began": float(number), "hits": [], "by_hand": False, "site": "summit", **more}
        self.tell("pass", number=number, command=list(command), code=code, said=said, **values)

    def change(self, site: str, sql: str) -> None:
        assert self.databases[site].execute(sql).rowcount == 1

    def wrong(self) -> list[str]:
        return list(checker.check(checker.Night(self.root, self.ask, self.journal, self.before)))


@pytest.fixture
def ended(tmp_path: Path) -> Iterator[Ended]:
    made = Ended(tmp_path)
    yield made
    for connection in made.databases.values():
        connection.close()


def test_a_night_that_ended_well(ended: Ended) -> None:
    assert ended.wrong() == []


FILE = f"{_NIGHT}/AT_O_000017.fits"
_WHERE = f"WHERE filename = 'AT_O_000017.fits' AND relpath = '{_NIGHT}'"


def _stored(ended: Ended) -> Path:
    return ended.root / "archive/storage" / FILE


def _say_twice(ended: Ended) -> None:
    for _ in range(2):
        ended.run("dbb-handoff", "latiss", said="handoff.latiss: the endpoint is away\n")


def _say_the_end_only(ended: Ended) -> None:
    ended.run("dbb-handoff", "latiss", said="handoff.latiss: is over: the endpoint is away\n")


def _alert_twice(ended: Ended) -> None:
    ended.put("alerts/summit", b"1.5\nx\n\nBEGINS: it is away\n  met by a\n\n\0" * 2)


def _rewrite_outside(ended: Ended) -> None:
    (path := ended.root / "outside/secret.fits").chmod(0o644)
    path.write_bytes(b"EVITARP")


def _lose_a_version(ended: Ended) -> None:
    ended.written(1, f"{_NIGHT}/never-seen.fits", b"lost")


def _store_twice(ended: Ended) -> None:
    ended.set_aside(f"{_NIGHT}/AT_O_000018.fits", b"one", again=True)


def _quarantine_for_nothing(ended: Ended) -> None:
    ended.set_aside(f"{_NIGHT}/alone.fits", b"alone")


def _corrupt(ended: Ended) -> None:
    _stored(ended).chmod(0o644)
    _stored(ended).write_bytes(b"torn!")
    _stored(ended).chmod(0o444)


def _replace(ended: Ended) -> None:
    ended.change("archive", f"DELETE FROM quarantine {_WHERE}")


def _target(name: str, change: str) -> str:
    return (
        f"UPDATE ingest_state SET {change} WHERE target_id = (SELECT id FROM target WHERE name ="
        f" '{name}') AND file_id = (SELECT min(id) FROM file {_WHERE})"
    )


_Plant = Callable[[Ended], object]

#: What is done to a night that ended well, and what must be found.
PLANTED: dict[str, tuple[_Plant, str]] = {
    "a version is lost": (_lose_a_version, "versions once: .*is lost"),
    "a version is there twice": (_store_twice, "versions once: .*is there 2 times"),
    "a good file is in quarantine": (
        _quarantine_for_nothing,
        "versions once: .*without a cause of its own",
    ),
    "no reason": (
        lambda e: e.change("archive", f"UPDATE quarantine SET reason = '' {_WHERE}"),
        "versions once: .*without a reason",
    ),
    "no file with the reason": (
        lambda e: (e.root / f"archive/quarantine/{FILE}.reason").unlink(),
        "quarantine whole: .*no file with its reason",
    ),
    "no row of a quarantine": (_replace, "quarantine whole: .*without a row"),
    "gone from quarantine": (
        lambda e: (e.root / "archive/quarantine" / FILE).unlink(),
        "quarantine whole: .*is not in the quarantine",
    ),
    "torn in storage": (_corrupt, "contents known: .*no version of that name"),
    "not as the table says": (_corrupt, "storage as recorded: .*has not the content"),
    "gone from storage": (
        lambda e: _stored(e).unlink(),
        "storage as recorded: .*STORED in the table, and not there",
    ),
    "stored without a row": (
        lambda e: e.put("guider-disk/storage/x/AT_O_1.fits", b"one"),
        "storage as recorded: .*without a row",
    ),
    "still arriving": (
        lambda e: e.change(
            "archive", f"UPDATE file SET status = 'ARRIVING' {_WHERE} AND id < 2"
        ),
        "storage as recorded: .*is ARRIVING",
    ),
    "writable in storage": (lambda e: _stored(e).chmod(0o644), "storage as recorded: .*mode 644"),
    "set-id in storage": (lambda e: _stored(e).chmod(0o4444), "storage as recorded: .*mode 4444"),
    "gone from holding": (
        lambda e: (e.root / "summit/holding" / FILE).unlink(),
        "holding complete: .*is not in the holding area",
    ),
    "another content in holding": (
        lambda e: (e.root / f"summit/holding/{FILE}.~1~").replace(e.root / "summit/holding" / FILE),
        "holding complete: .*another content",
    ),
    "held without a row": (
        lambda e: e.change("summit", f"DELETE FROM handoff_file {_WHERE} AND held_as LIKE '%~'"),
        "holding complete: .*without a row",
    ),
    "neither held nor purged": (
        lambda e: e.change(
            "summit", f"UPDATE handoff_file SET status = 'VANISHED' {_WHERE} AND held_as LIKE '%~'"
        ),
        "holding complete: .*neither held",
    ),
    "purged and not stored": (
        lambda e: e.change(
            "summit", f"UPDATE handoff_file SET status = 'PURGED' {_WHERE} AND held_as LIKE '%~'"
        ),
        "holding complete: .*purged, and is not stored",
    ),
    "purged and not ingested": (
        lambda e: [
            e.change("summit", "UPDATE handoff_file SET status = 'PURGED' WHERE id = 1"),
            e.change("archive", _target("null", "status = 'FAILURE'")),
        ],
        "purged after ingest: .*null does not have it",
    ),
    "not ingested": (
        lambda e: e.change("archive", _target("by-night", "status = 'FAILURE'")),
        "targets done: .*ended as FAILURE",
    ),
    "claimed for ever": (
        lambda e: e.change("archive", _target("null", "claim = 7")),
        "targets done: .*claim 7",
    ),
    "never offered": (
        lambda e: e.databases["archive"].execute("DELETE FROM ingest_state WHERE file_id = 1"),
        "targets done: .*never offered to null",
    ),
    "not in the tree": (
        lambda e: (e.root / "archive/by-night" / FILE).unlink(),
        "targets done: .*by-night and its tree do not agree",
    ),
    "another content in the tree": (
        lambda e: [
            (e.root / "guider-disk/by-copy" / FILE).unlink(),
            e.put(f"guider-disk/by-copy/{FILE}", b"other"),
        ],
        "targets done: .*another content in the tree",
    ),
    "not in the catalog": (
        lambda e: (e.root / "catalog/names").write_text(""),
        "targets done: .*the catalog does not list it",
    ),
    "in the catalog for nothing": (
        lambda e: e.put("catalog/names", b"/x\0", 0o644),
        "targets done: .*the catalog lists it",
    ),
    "a state without its event": (
        lambda e: e.change("archive", "DELETE FROM ingest_event WHERE id = 3"),
        "history consistent: .*the last event says PENDING",
    ),
    "an impossible change": (
        lambda e: e.change("archive", "DELETE FROM ingest_event WHERE id = 2"),
        "history consistent: .*UNTRIED cannot become SUCCESS",
    ),
    "changed outside": (_rewrite_outside, "outside untouched: .*was touched"),
    "made outside": (
        lambda e: e.put("outside/new", b""),
        "outside untouched: .*was made or removed",
    ),
    "brought in from outside": (
        lambda e: e.put("archive/staging/x", b"PRIVATE"),
        "outside untouched: .*has come from outside",
    ),
    "left in a temporary directory": (
        lambda e: e.put("tmp/x", b""),
        "outside untouched: .*was left there",
    ),
    "a link was taken": (
        lambda e: e.tell("odd", at=0, path="x/link", kind="link"),
        "links untouched: .*not where the archiver left it",
    ),
    "a temporary file is left": (
        lambda e: e.put("archive/storage/.dbb~x.1", b"one"),
        "no leftovers: .*was left by a pass",
    ),
    "something in staging": (
        lambda e: (e.root / "archive/staging/0001").mkdir(),
        "no leftovers: .*was left in staging",
    ),
    "a file still in the buffer": (
        lambda e: e.put("summit/buffer/x.fits", b"one"),
        "no leftovers: 1 files in summit/buffer",
    ),
    "an open batch": (
        lambda e: e.insert(
            "summit", "transfer_batch", run_id=1, site="summit", handoff="latiss", attempt="1",
            status="OPEN", files=1, size_bytes=1, started="",
        ),
        "no leftovers: 1 open batches",
    ),
    "a claim": (
        lambda e: e.insert(
            "archive", "ingest_claim", run_id=1, target_id=1, machine="", expires_at=""
        ),
        "no leftovers: 1 rows of ingest_claim",
    ),
    "at work for ever": (
        lambda e: e.insert(
            "summit", "run", site="summit", script="handoff", name="latiss", host="", pid=1,
            process_started=0, version="", started="", outcome="running",
        ),
        "no leftovers: .*recorded as at work",
    ),
    "a traceback": (
        lambda e: e.run("dbb-handoff", "latiss", said="Traceback (most\n", code=1),
        "exits documented: .*a fault of its own",
    ),
    "code 70": (
        lambda e: e.run("dbb-handoff", "latiss", said="handoff.latiss: unforeseen\n", code=70),
        "exits documented: .*a fault of its own",
    ),
    "an undocumented code": (
        lambda e: e.run("dbb-handoff", "latiss", said="", code=2),
        "exits documented: .*ended with 2",
    ),
    "killed by nobody": (
        lambda e: e.run("dbb-handoff", "latiss", said="", code=-9),
        "exits documented: .*ended with -9",
    ),
    "a line without its speaker": (
        lambda e: e.run("dbb-handoff", "latiss", said="warning: hello\n"),
        "exits documented: .*no message of a pass",
    ),
    "a control character": (
        lambda e: e.run("dbb-handoff", "latiss", said="handoff.latiss: \x1b[2J\n"),
        "exits documented: .*control characters",
    ),
    "told twice": (_say_twice, "messages paired: .*told twice"),
    "told the end only": (_say_the_end_only, "messages paired: .*told the end only"),
    "never told the end": (
        lambda e: e.run("dbb-handoff", "latiss", said="handoff.latiss: the endpoint is away\n"),
        "messages paired: .*never told that it is over",
    ),
    "told nobody": (
        lambda e: e.run("dbb-handoff", "latiss", said="", code=75),
        "messages paired: .*nobody was told why",
    ),
    "an alert twice": (_alert_twice, "alerts paired: .*told twice"),
    "what the night itself saw": (
        lambda e: e.tell("violation", text="made where nothing is mounted"),
        "exits documented: made where nothing is mounted",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_the_checker_finds(ended: Ended, name: str) -> None:
    plant, expected = PLANTED[name]
    plant(ended)
    found = ended.wrong()

    assert any(re.match(expected, each, re.DOTALL) for each in found), found


def test_a_fault_excuses_only_what_it_causes(ended: Ended) -> None:
    ended.run("dbb-handoff", "latiss", said="", code=-9, hits=["killed"])
    line = "handoff.latiss: the endpoint is away\n"
    ended.run("dbb-handoff", "latiss", said=line, hits=["stopped"])
    ended.run("dbb-handoff", "latiss", said=line)
    ended.run("dbb-handoff", "latiss", said=line.replace(": ", ": is over: "))
    assert ended.wrong() == []
    ended.run("dbb-handoff", "latiss", said=line.replace(": ", ": is over: "))
    assert len(ended.wrong()) == 1


def test_a_restored_database_does_not_know_what_was_purged_since(ended: Ended) -> None:
    (ended.root / "summit/holding" / FILE).unlink()
    ended.tell("restoring", site="archive", command=["dbb", "init"], code=0, said="")
    assert len(ended.wrong()) == 1
    ended.tell("restoring", site="summit", command=["dbb", "init"], code=0, said="")
    assert ended.wrong() == []
    _stored(ended).unlink()
    assert any("is not in the holding area" in each for each in ended.wrong())


def test_a_restored_database_does_not_know_what_was_sent_and_purged_since(ended: Ended) -> None:
    (ended.root / "summit/holding" / FILE).unlink()
    ended.change("summit", f"DELETE FROM handoff_file {_WHERE} AND held_as NOT LIKE '%~'")
    ended.tell("restoring", site="archive", command=["dbb", "init"], code=0, said="")
    assert any("neither held" in each for each in ended.wrong())
    ended.tell("restoring", site="summit", command=["dbb", "init"], code=0, said="")
    assert ended.wrong() == []
    _stored(ended).unlink()
    assert any("neither held" in each for each in ended.wrong())


def test_a_count_is_told_again_when_it_has_doubled(ended: Ended) -> None:
    for files in ("1 file waits", "2 files wait", "4 files wait"):
        ended.run("dbb-handoff", "latiss", said=f"handoff.latiss: {files} for a person; …\n")
    assert ended.wrong() == []
    ended.run("dbb-handoff", "latiss", said="handoff.latiss: 7 files wait for a person; …\n")
    assert len(ended.wrong()) == 1


def test_a_trouble_that_ended_while_a_pass_was_at_work_is_why_it_failed(ended: Ended) -> None:
    line = "target.null: the disk is full\n"
    ended.run("dbb-ingester", "null", said=line, code=75)
    ended.run("dbb-ingester", "null", said=line.replace(": ", ": is over: "))
    ended.run("dbb-ingester", "null", said="", code=75, began=0)
    assert ended.wrong() == []


def test_a_signal_before_the_script_has_begun_excuses_what_python_says(ended: Ended) -> None:
    said = (
        "Traceback (most recent call last):\n"
        '  File "/opt/dbb/bin/dbb", line 5, in <module>\n    import signal\n'
        '  File "/usr/lib/python3.11/signal.py", line 3, in <module>\nKeyboardInterrupt\n'
    )
    ended.run("dbb", "status", said=said, code=-2, hits=["signal"])
    assert ended.wrong() == []
    ended.run("dbb", "status", said=said, code=-2)
    assert len(ended.wrong()) == 1


def test_an_archiver_that_pauses_for_too_long_answers_for_the_second_half(ended: Ended) -> None:
    path = f"{_NIGHT}/halves.fits"
    ended.written(1, path, b"firstsecond")
    assert len(ended.wrong()) == 1
    ended.tell("half", at=1, path=path, digest="", size=5, kind="halves")
    assert ended.wrong() == []


def test_each_fault_can_be_done() -> None:
    for name in faults.WEIGHTS:
        assert hasattr(faults.Agent, "_" + name.replace(" ", "_").lower())


@pytest.mark.parametrize(
    ("text", "name"),
    [("a.fits", b"a.fits"), (r"a\xFFb", b"a\xffb"), (r"a\\xFF", rb"a\xFF"), ("é", "é".encode())],
)
def test_names_of_tables_are_understood(text: str, name: bytes) -> None:
    assert os.fsencode(checker.decoded(text)) == name
