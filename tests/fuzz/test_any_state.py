"""From any mixture of files and rows, passes lose nothing, stay inside, and come to rest."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbbbatch.database import connect
from dbbbatch.database.models.statuses import (
    BatchStatus,
    FileStatus,
    HandoffStatus,
    IngestStatus,
    WhyRemembered,
)
from dbbbatch.files.temporary import temporary_path
from dbbbatch.passes import runner
from dbbbatch.passes.auditor.work import AuditorWork
from dbbbatch.passes.finder.scan import FinderWork
from dbbbatch.passes.handoff.delivery import attempt_prefix
from dbbbatch.passes.handoff.work import HandoffWork
from dbbbatch.passes.ingester.offer import IngesterWork
from dbbbatch.passes.janitor import JanitorWork
from dbbbatch.targets import pool, worker
from tests.support.fuzz import InThread, fuzzed
from tests.support.site import Site

pytestmark = pytest.mark.promise

WHEN = "2026-11-24 00:00:00.000000"
MTIME = 1_700_000_000 * 10**9
RELS = ["a", "n/b", "n/a c"]
CONTENTS = [b"right", b"other", b""]
PLACES = ["buffer", "holding", "quarantine", "far_buffer", "storage", "storage_quarantine"]


class Laid(NamedTuple):
    """What lies somewhere on the disks before the passes."""

    place: str
    rel: str
    kind: str
    content: bytes


class Row(NamedTuple):
    """A row of a table; `of` is where the file lies whose inode it has."""

    table: str
    rel: str
    status: str
    content: bytes
    of: str
    later: bool
    other: str


laid = st.builds(
    Laid,
    st.sampled_from([*PLACES, "staging"]),
    st.sampled_from([*RELS, *RELS, "a.~1~", "n", "a.reason", "n/"]),
    st.sampled_from(["file", "file", "file", "file", "link", "directory", "temporary", "fifo"]),
    st.sampled_from(CONTENTS),
)
STATUSES = {
    "handoff_file": [*HandoffStatus],
    "file": [*FileStatus],
    "finder_left": [*WhyRemembered],
    "quarantine": ["handoff.latiss", "finder.latiss"],
    "ingest_state": [*IngestStatus],
    "transfer_batch": [*BatchStatus],
}
rows = st.sampled_from(sorted(STATUSES)).flatmap(
    lambda table: st.builds(
        Row,
        st.just(table),
        st.sampled_from([*RELS, *RELS, "../outside/x", "\\x2e", "n//b"]),
        st.sampled_from(STATUSES[table]).map(str),
        st.sampled_from(CONTENTS),
        st.sampled_from(PLACES),
        st.booleans(),
        st.sampled_from(["", "moving", "released", "none"]),
    )
)


class Mixture:
    """A site in which files and rows lie as they were drawn."""

    def __init__(self, root: Path, template: str) -> None:
        shutil.copy(template, root / "dbb.sqlite")
        self.site = Site(root / "site", f"sqlite:///{root}/dbb.sqlite")
        self.site.by_stream = True
        self.site.write(
            handoff={"min_free": 0, "stale_after": 0},
            finder={"min_free": 0, "audit_share": 1.0, "audit_missing": 1.0},
        )
        (self.site.root / "outside").mkdir()
        (self.site.root / "outside/x").write_bytes(b"of somebody else")

    def path(self, place: str, rel: str) -> Path:
        return getattr(self.site, place) / rel

    def lay(self, one: Laid) -> None:
        path = self.path(one.place, one.rel)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path):
                return
            if one.kind == "link":
                path.symlink_to(self.site.root / "outside/x")
            elif one.kind == "fifo":
                os.mkfifo(path)
            elif one.kind == "directory" or one.rel.endswith("/"):
                path.mkdir()
            else:
                if one.kind == "temporary":
                    path = Path(temporary_path(str(path)))
                path.write_bytes(one.content)
                os.utime(path, ns=(MTIME, MTIME))
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            return  # something else is in the way

    def insert(self, row: Row) -> None:
        relpath, _, filename = row.rel.rpartition("/")
        path = self.path(row.of, row.rel)
        inode = os.lstat(path).st_ino if os.path.lexists(path) else 1
        checksum = f"blake2b:{hashlib.blake2b(row.content).hexdigest()}"
        version = {"size_bytes": len(row.content), "mtime_ns": MTIME + row.later, "inode": inode}
        name = {"relpath": relpath, "filename": filename}
        match row.table:
            case "handoff_file":
                more = (
                    {"held_as": filename} if row.status in ("HELD", "IGNORED") and row.other else {}
                )
                more |= {} if row.other == "none" else {"checksum": checksum}
                more |= {"held_at": WHEN, "delivered_at": WHEN} if row.status == "HELD" else {}
                _insert(
                    row.table,
                    site="summit",
                    handoff="latiss",
                    status=row.status,
                    discovered_at=WHEN,
                    **version,
                    **name,
                    **more,
                )
            case "file":
                added = {} if row.other == "none" else {"added_on": WHEN, "verified_at": WHEN}
                _insert(
                    row.table,
                    storage=str(self.site.storage),
                    status=row.status,
                    finder="latiss",
                    checksum=checksum,
                    **added,
                    **version,
                    **name,
                )
            case "finder_left":
                _insert(
                    row.table,
                    site="summit",
                    finder="latiss",
                    verdict=row.status,
                    seen_at=WHEN,
                    **version,
                    **name,
                )
            case "quarantine":
                near = row.status.startswith("handoff")
                root = self.site.quarantine if near else self.site.storage_quarantine
                back = self.site.buffer if near else self.site.far_buffer
                more = {} if row.other == "moving" else {"quarantined_at": WHEN}
                more |= {"released_as": str(back / row.rel)} if row.other == "released" else {}
                _insert(
                    row.table,
                    site="summit",
                    label=row.status,
                    path=f"{root}/{row.rel}",
                    reason="a reason",
                    checksum=checksum,
                    **version,
                    **name,
                    **more,
                )
            case "transfer_batch":
                attempt = f"{attempt_prefix('summit', 'latiss')}{len(row.rel):016d}"
                _insert(
                    row.table,
                    run_id=1,
                    site="summit",
                    handoff="latiss",
                    attempt=attempt,
                    status=row.status,
                    files=1,
                    size_bytes=1,
                    started=WHEN,
                )
                connect.execute(
                    "INSERT INTO transfer_attempt (batch_id, handoff_file_id, checksum)"
                    " SELECT (SELECT max(id) FROM transfer_batch), id, checksum FROM handoff_file"
                    " WHERE true ON CONFLICT DO NOTHING"
                )
                if row.other:
                    arrived = self.site.staging / attempt / "t" / row.rel.replace("..", "x")
                    arrived.parent.mkdir(parents=True, exist_ok=True)
                    arrived.write_bytes(row.content)
                    if row.other == "released":
                        (self.site.staging / attempt / "verified").write_bytes(
                            b"./" + row.rel.encode() + b"\0"
                        )
            case "ingest_state":
                connect.execute(
                    "INSERT INTO ingest_state (file_id, target_id, status, attempts, claim,"
                    " next_try_at, changed_at) SELECT f.id, t.id, ?, ?, ?, ?, ? FROM file f,"
                    " target t WHERE true ON CONFLICT DO NOTHING",
                    [
                        row.status,
                        int(row.later),
                        1 if row.status == "PENDING" else None,
                        WHEN if row.other else None,
                        WHEN,
                    ],
                )

    def passes(self) -> dict[str, int]:
        """Make a pass of each kind; return its exit code."""
        settings = self.site.settings()
        near, far = settings.handoff["latiss"], settings.finder["latiss"]
        works: list[tuple[Any, Any]] = [
            (HandoffWork(near), near),
            (FinderWork(far), far),
            (IngesterWork(settings.target["a"]), settings.target["a"]),
            (JanitorWork(near), near),
            (AuditorWork(far), far),
        ]
        return {
            work.kind: runner.run_pass(work, settings, section, runner.Options())
            for work, section in works
        }

    def disks(self) -> dict[str, bytes]:
        """Return the content of each file below the roots, but not of reasons and lists of ours."""
        return {
            f"{place}/{rel}": content
            for place in PLACES
            for rel, content in _tree(self.path(place, "")).items()
        }

    def states(self) -> list[Any]:
        connect.connect(self.site.settings().database)
        found = []
        for table, status in (
            ("handoff_file", "status"),
            ("file", "status"),
            ("quarantine", "released_at"),
            ("ingest_state", "status"),
            ("transfer_batch", "status"),
        ):
            found += connect.execute(
                f"SELECT '{table}', {status} FROM {table} ORDER BY 1, 2"
            ).fetchall()
        connect.disconnect()
        return [tuple(row) for row in found]


def _insert(table: str, **values: Any) -> None:
    columns, marks = ", ".join(values), ", ".join("?" * len(values))
    connect.execute(
        f"INSERT INTO {table} ({columns}) VALUES ({marks}) ON CONFLICT DO NOTHING",
        list(values.values()),
    )


def _tree(root: Path) -> dict[str, bytes]:
    found = {}
    for top, _, files in os.walk(root):
        for name in files:
            path = Path(top, name)
            if path.is_file() and not path.is_symlink() and name != ".dbb-storage":
                found[os.path.relpath(path, root)] = path.read_bytes()
    return found


def of_files(disks: dict[str, bytes]) -> dict[str, bytes]:
    """Return what is no unfinished file and no reason of ours."""
    return {
        path: content
        for path, content in disks.items()
        if "/.dbb~" not in path and not path.endswith(".reason")
    }


@pytest.mark.parametrize("backend", ["sqlite"])
@fuzzed(12)
@given(on_disk=st.lists(laid, max_size=8), in_tables=st.lists(rows, max_size=7))
def test_passes_lose_nothing_and_come_to_rest(
    database_url: str, backend: str, on_disk: list[Laid], in_tables: list[Row]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        mixture = Mixture(Path(directory), database_url.removeprefix("sqlite:///"))
        for one in on_disk:
            mixture.lay(one)
        connect.connect(mixture.site.settings().database)
        connect.write(
            _insert,
            "target",
            site="summit",
            name="a",
            storage=str(mixture.site.storage),
            plugin="null",
            created_at=WHEN,
        )
        # In an order in which rows can lean on others.
        for row in sorted(in_tables, key=lambda row: list(STATUSES).index(row.table) % 5):
            connect.write(mixture.insert, row)
        connect.disconnect()
        before = mixture.disks()
        with (
            mock.patch.object(pool, "Worker", InThread),
            mock.patch.object(worker, "_started_by", return_value=[]),
        ):
            for _ in range(2):
                codes = mixture.passes()
                crashes = [p.read_text() for p in mixture.site.state.glob("crashes/*")]
                assert not crashes, crashes[0]
                assert set(codes.values()) <= {0, 1, 75}, codes
            rest = mixture.disks(), mixture.states()
            again = mixture.passes()
            assert set(again.values()) <= {0, 1, 75}
            assert (mixture.disks(), mixture.states()) == rest
        after = mixture.disks()
        lost = set(of_files(before).values()) - set(of_files(after).values())
        assert not lost, (before, after)
        for path, content in of_files(before).items():
            assert after.get(path, content) == content, (path, before, after)
        assert (mixture.site.root / "outside/x").read_bytes() == b"of somebody else"
        assert os.listdir(mixture.site.root / "outside") == ["x"]
