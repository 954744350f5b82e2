"""The handoff and the versions of a file: only what was sent is held, and what is odd goes on."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.areas.endpoint import session, transfer
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import HandoffFile, HandoffRow
from dbbbatch.database.models.transfer import TransferBatch
from dbbbatch.files import place
from dbbbatch.files.identity import Version
from dbbbatch.files.tree import Tree
from dbbbatch.passes.handoff import delivery, failures, holding, scanning
from tests.passes.handoff.test_handoff_faults import TOOL, _as_nobody, _own
from tests.passes.test_janitor import configure, janitor, store
from tests.support.handing import REFUSING, change, make_pass, rows, statuses, wait_over
from tests.support.scripts import TOP
from tests.support.site import Site, tree

pytestmark = pytest.mark.promise

KEYS: dict[str, Any] = {"min_free": 0, "streams": 1}
WHEN = 1_000_000_000
Program = Callable[[str, str], Path]
OLD, NEW = b"old content", b"new content"


class Killed(BaseException):
    """The pass ends here and now."""


@pytest.fixture
def site(by_each_way: None, site: Site) -> Site:
    return site.write(handoff=KEYS)


def put_at(site: Site, rel: str, content: bytes, when: float = WHEN) -> Path:
    """Write a file with this time of modification, under its name at once, as an archiver does."""
    path = site.put(f"{rel}.new", content)
    os.utime(path, (when, when))
    return path.rename(site.buffer / rel)


def away(*arguments: Any, **more: Any) -> Any:
    raise session.Away("the endpoint cannot be reached")


def killed(*arguments: Any, **more: Any) -> Any:
    raise Killed


def goes_on(site: Site, rel: str, content: bytes) -> None:
    """The endpoint's finder takes what is there, and the new version is delivered and held."""
    shutil.rmtree(site.far_buffer)
    site.far_buffer.mkdir()
    wait_over(site)
    assert make_pass(site) == 0
    assert tree(site.far_buffer) == {rel: content}
    assert content in tree(site.holding).values()
    assert tree(site.buffer) == {}


# ---- a new version of the same size and time -----------------------------------------------------


@pytest.fixture
def cut_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return a site of which a file was verified at the far end, and not yet placed."""
    put_at(site, "a", OLD)
    with monkeypatch.context() as patched:
        patched.setattr(session.Session, "place_files", away)
        assert make_pass(site) == 75
    return site


def test_a_version_that_came_after_a_batch_was_cut_off_is_not_taken_for_the_one_sent(
    cut_off: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = cut_off
    put_at(site, "a", NEW)
    with monkeypatch.context() as patched:
        patched.setattr(session.Session, "_connect", away)
        assert make_pass(site) == 75  # the scan is recorded
    make_pass(site)
    assert (tree(site.buffer), tree(site.holding)) == ({"a": NEW}, {})
    assert statuses(site) == {"a": "FOUND"}
    goes_on(site, "a", NEW)


def test_a_version_that_no_scan_saw_before_the_recovery_is_sent(cut_off: Site) -> None:
    put_at(cut_off, "a", NEW)
    make_pass(cut_off)
    assert (tree(cut_off.buffer), tree(cut_off.holding)) == ({"a": NEW}, {})
    goes_on(cut_off, "a", NEW)


def test_a_version_that_was_sent_is_recovered_beside_one_that_is_new(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_at(site, "a", OLD)
    put_at(site, "b", OLD)
    with monkeypatch.context() as patched:
        patched.setattr(session.Session, "place_files", away)
        make_pass(site)
    put_at(site, "a", NEW)
    with monkeypatch.context() as patched:
        patched.setattr(session.Session, "_connect", away)
        make_pass(site)
    make_pass(site)
    assert tree(site.holding) == {"b": OLD}
    assert statuses(site) == {"a": "FOUND", "b": "HELD"}


def replaced_in_flight(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a scan see a new version of `a` while the old one is under way."""
    real = delivery.Delivery.record

    class Everything:
        def matches(self, rel: str) -> bool:
            return True

        def warn(self, *arguments: Any, **more: Any) -> None: ...

    def record(self: delivery.Delivery, *arguments: Any) -> None:
        put_at(site, "a", NEW)
        with Tree(str(site.buffer)) as buffer:
            for chunk in scanning.scanned(Everything(), site.settings().handoff["latiss"], buffer):  # type: ignore[arg-type]
                connect.write(lambda chunk=chunk: HandoffFile.found("summit", "latiss", chunk))
        real(self, *arguments)

    monkeypatch.setattr(delivery.Delivery, "record", record)


@pytest.mark.parametrize("kill", [False, True])
def test_a_version_that_a_scan_saw_in_flight_is_not_taken_for_the_one_sent(
    site: Site, monkeypatch: pytest.MonkeyPatch, kill: bool
) -> None:
    put_at(site, "a", OLD)
    with monkeypatch.context() as patched:
        replaced_in_flight(site, patched)
        if kill:
            patched.setattr(holding.Originals, "hold", killed)
            with pytest.raises(Killed):
                make_pass(site)
        else:
            make_pass(site)
    make_pass(site)
    assert (tree(site.buffer), tree(site.holding)) == ({"a": NEW}, {})
    assert statuses(site) == {"a": "FOUND"}
    goes_on(site, "a", NEW)


# ---- a person's decision -------------------------------------------------------------------------


def test_a_file_that_is_ignored_in_flight_stays_in_the_buffer(site: Site, program: Program) -> None:
    put_at(site, "junk", OLD)
    put_at(site, "good", OLD)
    ours = f"{sys.executable} {TOP}/bin/dbb -c {site.config}"
    ignore = f"{ours} ignore handoff.latiss --match junk >&2"
    program("tool", f'{ignore}; exec cp -p "$@"')
    site.write(handoff=KEYS, endpoint=TOOL)
    for _ in range(2):
        assert make_pass(site) == 0
        assert statuses(site) == {"junk": "IGNORED", "good": "HELD"}
        assert (set(tree(site.buffer)), set(tree(site.holding))) == ({"junk"}, {"good"})


# ---- what a kill leaves in holding ---------------------------------------------------------------


def write_in_place(site: Site, rel: str, content: bytes, when: float) -> Path:
    """Write over a file, as no archiver should."""
    path = site.put(rel, content)
    os.utime(path, (when, when))
    return path


def killed_while_holding(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    rel: str,
    write: Callable[..., Path] = put_at,
) -> None:
    """Let the writer replace a file as it is moved to holding, and end the pass right after."""
    real = place.place_versioned
    pending = [killed]

    def place_versioned(source: str, *arguments: str) -> str:
        if not pending:
            raise Killed
        pending.pop()
        write(site, rel, NEW, WHEN + 1)
        return real(source, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(place, "place_versioned", place_versioned)
        with pytest.raises(Killed):
            make_pass(site)
    assert NEW in tree(site.holding).values()


@pytest.mark.parametrize("write", [put_at, write_in_place])
def test_a_version_that_was_held_by_mistake_is_put_back_after_a_kill(
    site: Site, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Path]
) -> None:
    (site.buffer / "night").mkdir()
    put_at(site, "night/a", OLD)
    killed_while_holding(site, monkeypatch, "night/a", write)
    make_pass(site)
    assert tree(site.holding) == {}
    assert tree(site.buffer) == {"night/a": NEW}
    goes_on(site, "night/a", NEW)


def test_what_is_put_back_overwrites_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    put_at(site, "a", OLD)
    killed_while_holding(site, monkeypatch, "a")
    put_at(site, "a", b"the third", WHEN + 2)
    make_pass(site)
    kept = {*tree(site.holding).values(), *tree(site.buffer).values()}
    assert kept | {*tree(site.far_buffer).values()} >= {OLD, NEW, b"the third"}
    assert statuses(site)["a"] != "HELD"


def test_held_versions_are_not_put_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    put_at(site, "a", b"before that", WHEN - 1)
    make_pass(site)
    (site.far_buffer / "a").unlink()
    put_at(site, "a", OLD)
    killed_while_holding(site, monkeypatch, "a")
    assert tree(site.holding) == {"a": b"before that", "a.~1~": NEW}
    make_pass(site)
    assert tree(site.holding) == {"a": b"before that"}
    assert tree(site.buffer) == {"a": NEW}
    goes_on(site, "a", NEW)


def test_what_lay_in_holding_before_the_delivery_is_not_put_back(site: Site) -> None:
    put_at(site, "a", OLD)
    site.put("a", b"of an operator", site.holding)
    make_pass(site)
    change(site, "UPDATE handoff_file SET status = 'DELIVERED', delivered_at = '2999-01-01'")
    (site.holding / "a.~1~").unlink()
    assert make_pass(site) == 0
    assert tree(site.holding) == {"a": b"of an operator"}
    assert statuses(site) == {"a": "VANISHED"}


def test_a_version_of_a_long_name_is_put_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "n" * 255
    site.put(name, OLD)
    site.put(name, b"of an operator", site.holding)
    os.utime(site.buffer / name, (WHEN, WHEN))
    killed_while_holding(site, monkeypatch, name, write_in_place)
    make_pass(site)
    assert tree(site.buffer) == {name: NEW}


def test_what_another_handoff_holds_in_the_same_area_is_not_put_back(site: Site) -> None:
    put_at(site, "a", OLD)
    make_pass(site)
    other = site.root / "summit" / "other"
    other.mkdir()
    text = site.config.read_text()
    ours = text[text.index("[handoff.latiss]") : text.index("[finder.latiss]")]
    theirs = ours.replace("handoff.latiss", "handoff.other").replace(str(site.buffer), str(other))
    theirs = theirs.replace(str(site.quarantine), str(site.quarantine) + "-other")
    site.config.write_text(text + "\n" + theirs)
    change(site, "UPDATE handoff_file SET handoff = 'other'")
    put_at(site, "a", NEW, WHEN + 1)
    change(
        site,
        "INSERT INTO handoff_file (site, handoff, relpath, filename, size_bytes, mtime_ns, inode,"
        " status, discovered_at, delivered_at) VALUES ('summit', 'latiss', '', 'a', 1, 1, 1,"
        " 'DELIVERED', '2000-01-01', '2000-01-01')",
    )
    (site.far_buffer / "a").unlink()
    assert site.run("dbb-handoff", "latiss").code == 0
    assert tree(site.holding) == {"a": OLD, "a.~1~": NEW}
    assert tree(site.buffer) == {}


def test_a_held_file_is_found_after_a_kill_whatever_its_number(site: Site) -> None:
    for number in range(3):
        put_at(site, "a", b"version %d" % number, WHEN + number)
        make_pass(site)
        (site.far_buffer / "a").unlink()
    # Killed before it was recorded; then the janitor purged the others.
    change(
        site,
        "UPDATE handoff_file SET status = 'DELIVERED', held_as = NULL WHERE held_as = 'a.~2~'",
    )
    for name in ("a", "a.~1~"):
        (site.holding / name).unlink()
    make_pass(site)
    assert rows(site, "held_as, status")[-1] == ("a.~2~", "HELD")
    assert tree(site.holding) == {"a.~2~": b"version 2"}
    assert tree(site.buffer) == {}


# ---- what is purged ------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "left"), [(OLD, set()), (NEW, {"a"})])
def test_of_another_inode_only_the_same_content_is_purged(
    site: Site, content: bytes, left: set[str]
) -> None:
    configure(site)
    put_at(site, "a", OLD)
    assert make_pass(site) == 0
    store(site)
    put_at(site, "a", content).rename(site.holding / "a")
    janitor(site)
    assert set(tree(site.holding)) == left


# ---- odd files and directories -------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed")
def test_a_directory_that_cannot_be_entered_holds_up_only_its_own_files(
    site: Site, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put("d/f")
    site.write(handoff={**KEYS, "max_attempts": 1}, endpoint=REFUSING)
    with monkeypatch.context() as patched:
        patched.setattr(failures.Failures, "quarantine", lambda *_: None)
        make_pass(site)
    assert statuses(site) == {"d/f": "QUARANTINED"}
    site.write(handoff=KEYS)
    site.put("good")
    capfd.readouterr()
    os.chmod(site.buffer / "d", 0)
    said = []
    for _ in range(2):
        _own(site, 65534)
        os.chown(site.buffer / "d", 0, 0)
        assert _as_nobody(site) == 0
        said += [line for line in capfd.readouterr().err.splitlines() if "d/f" in line]
    assert statuses(site) == {"d/f": "QUARANTINED", "good": "HELD"}
    assert len(said) == 1
    os.chmod(site.buffer / "d", 0o755)
    _own(site, 65534)
    assert _as_nobody(site) == 0
    assert set(tree(site.quarantine)) == {"d/f", "d/f.reason"}


def test_a_file_that_cannot_be_looked_at_after_its_transfer_stops_only_itself(
    site: Site, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A name that the hexadecimal name of an attempt cannot contain.
    program("tool", 'case "$*" in *wrong*) exit 9;; esac; exec cp -p "$@"')
    site.write(handoff={**KEYS, "batch_files": 1}, endpoint=TOOL)
    put_at(site, "wrong", OLD)
    put_at(site, "good", OLD, WHEN + 1)

    def failing(*arguments: Any) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(transfer, "why_gone", failing)
    assert make_pass(site) == 1
    assert statuses(site) == {"wrong": "FOUND", "good": "HELD"}


@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_a_file_of_the_far_future_goes_all_the_way(site: Site, order: str) -> None:
    site.write(handoff={**KEYS, "order": order}, finder={"min_free": 0})
    path = put_at(site, "weird", OLD, (1 << 33) + 5_000_000_000)
    if path.lstat().st_mtime_ns < 1 << 63:
        pytest.skip("this file system keeps no such times")
    put_at(site, "good", OLD)
    assert make_pass(site) == 0
    assert set(tree(site.holding)) == {"weird", "good"}
    assert statuses(site) == {"weird": "HELD", "good": "HELD"}
    for _ in range(2):
        assert site.run("dbb-finder").code == 0
        assert set(tree(site.storage)) == {"weird", "good"}


@pytest.mark.parametrize("when", [-(1 << 80), -1, 0, 1 << 62, 1 << 80])
def test_every_time_fits_the_tables_and_so_does_its_negative(when: int) -> None:
    class Status:
        st_size = st_ino = 0
        st_mtime_ns = when

    recorded = Version.of_file(Status()).mtime_ns  # type: ignore[arg-type]
    assert abs(recorded) < 1 << 63
    assert recorded == when or abs(when) >= 1 << 63


def test_a_file_of_another_age_is_quarantined_and_released(site: Site) -> None:
    path = put_at(site, "weird", OLD, (1 << 33) + 5_000_000_000)
    if path.lstat().st_mtime_ns < 1 << 63:
        pytest.skip("this file system keeps no such times")
    site.write(handoff={**KEYS, "max_attempts": 1}, endpoint=REFUSING)
    assert make_pass(site) == 1
    assert statuses(site) == {"weird": "QUARANTINED"}
    site.write(handoff=KEYS)
    assert site.run("dbb", "quarantine", "release", "handoff.latiss", "--match", "weird").code == 0
    assert make_pass(site) == 0
    assert statuses(site) == {"weird": "HELD"}


def behind_a_link(site: Site) -> Path:
    """Move a directory of the buffer elsewhere, and put a link to it in its place."""
    elsewhere = site.root / "elsewhere"
    (site.buffer / "night").rename(elsewhere)
    (site.buffer / "night").symlink_to(elsewhere)
    return elsewhere


def test_no_file_is_sent_through_a_directory_that_became_a_link(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.put("night/deep/a", OLD)
    site.write(handoff=KEYS, endpoint=REFUSING)
    make_pass(site)
    wait_over(site)
    site.write(handoff=KEYS)
    elsewhere = behind_a_link(site)
    make_pass(site)
    assert tree(elsewhere) == {"deep/a": OLD}
    assert tree(site.far_buffer) == tree(site.holding) == {}
    assert statuses(site) == {"night/deep/a": "VANISHED"}
    assert "symbolic link" in rows(site, "error")[0]
    (site.buffer / "night").unlink()
    elsewhere.rename(site.buffer / "night")
    assert make_pass(site) == 0
    assert statuses(site) == {"night/deep/a": "HELD"}


def test_no_file_is_held_through_a_directory_that_became_a_link(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.put("night/a", OLD)
    with monkeypatch.context() as patched:
        patched.setattr(holding.Originals, "hold", killed)
        with pytest.raises(Killed):
            make_pass(site)
    elsewhere = behind_a_link(site)
    assert make_pass(site) == 1
    assert (tree(elsewhere), tree(site.holding)) == ({"a": OLD}, {})
    # It is not gone for certain, and would be sent again.
    assert statuses(site) == {"night/a": "DELIVERED"}
    assert f"{site.buffer}/night is no directory, or is reached through" in capsys.readouterr().err
    (site.buffer / "night").unlink()
    elsewhere.rename(site.buffer / "night")
    assert make_pass(site) == 0
    assert statuses(site) == {"night/a": "HELD"}


@pytest.mark.parametrize("where", ["buffer", "holding"])
def test_what_a_kill_left_in_holding_waits_for_a_directory_that_is_a_link(
    site: Site, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    site.put("night/a", OLD)
    with monkeypatch.context() as patched:
        patched.setattr(HandoffFile, "held", killed)
        with pytest.raises(Killed):
            make_pass(site)
    assert (tree(site.buffer), tree(site.holding)) == ({}, {"night/a": OLD})
    top = getattr(site, where)
    elsewhere = site.root / "elsewhere"
    (top / "night").rename(elsewhere)
    (top / "night").symlink_to(elsewhere)
    make_pass(site)
    assert statuses(site) == {"night/a": "HELD" if where == "buffer" else "DELIVERED"}
    (top / "night").unlink()
    elsewhere.rename(top / "night")
    assert make_pass(site) == 0
    assert statuses(site) == {"night/a": "HELD"}


def test_no_file_is_moved_aside_through_a_directory_that_became_a_link(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put("night/a", OLD)
    site.write(handoff={**KEYS, "max_attempts": 1}, endpoint=REFUSING)
    with monkeypatch.context() as patched:
        patched.setattr(failures.Failures, "quarantine", lambda *_: None)
        make_pass(site)
    elsewhere = behind_a_link(site)
    make_pass(site)
    assert (tree(elsewhere), tree(site.quarantine)) == ({"a": OLD}, {})


# ---- what a batch tells --------------------------------------------------------------------------


def test_a_quarantined_file_that_a_person_copies_back_is_sent(site: Site) -> None:
    """Size and time of modification are the same; the inode tells that it is there again."""
    site.write(handoff={**KEYS, "max_attempts": 1}, endpoint=REFUSING)
    put_at(site, "a", OLD)
    make_pass(site)
    assert tree(site.quarantine)["a"] == OLD
    shutil.copy2(site.quarantine / "a", site.buffer / "a")
    site.write(handoff=KEYS)
    assert make_pass(site) == 0
    assert tree(site.far_buffer) == tree(site.holding) == {"a": OLD}


def test_a_batch_of_unknown_outcome_keeps_what_it_told(
    site: Site, monkeypatch: pytest.MonkeyPatch, program: Program
) -> None:
    site.put("a")
    program("tool", "echo connection reset >&2; exit 12")
    site.write(handoff=KEYS, endpoint=TOOL)
    real = session.Session.free_bytes
    looks: list[None] = []

    def free_bytes(self: session.Session) -> int:
        looks.append(None)
        return real(self) if len(looks) == 1 else away()

    columns = "exit_status, transfer_started, transfer_duration, error, status"
    with monkeypatch.context() as patched:
        patched.setattr(session.Session, "free_bytes", free_bytes)
        assert make_pass(site) == 75
    (told,) = rows(site, columns, "transfer_batch")
    assert told[-1] == "OPEN"
    assert told[0] == 12
    assert None not in told
    site.write(handoff=KEYS)
    assert make_pass(site) == 0
    recovered = rows(site, columns, "transfer_batch")[0]
    assert recovered == (*told[:-1], "DONE")


@pytest.mark.usefixtures("database")
def test_of_a_batch_only_the_content_that_it_sent_is_recovered() -> None:
    seen = HandoffRow("", "a", 1, 1, 1, 0, 0)
    changes: list[Callable[[], Any]] = [
        lambda: HandoffFile.found("summit", "latiss", [seen]),
        lambda: HandoffFile.hashed([(1, "blake2b:00", 1)]),
        lambda: TransferBatch.begin(1, "summit", "latiss", "attempt", [1], 1),
    ]
    for each in changes:
        connect.write(each)
    assert [file.checksum for file in HandoffFile.of_batch(1)] == ["blake2b:00"]
    # Replaced, and hashed for another batch while this one cannot be asked about.
    connect.write(lambda: HandoffFile.found("summit", "latiss", [seen._replace(inode=2)]))
    assert HandoffFile.of_batch(1) == []
    connect.write(HandoffFile.hashed, [(1, "blake2b:01", 2)])
    assert HandoffFile.of_batch(1) == []
    assert connect.write(HandoffFile.delivered, [(1, 1, "blake2b:00")]) == set()
    assert connect.write(HandoffFile.delivered, [(1, 2, "blake2b:01")]) == {1}


# ---- a version that comes again ------------------------------------------------------------------


class TestAgain:
    """A version that is delivered once more: one copy of it stays, and the janitor knows it."""

    @pytest.fixture
    def site(self, site: Site) -> Site:
        configure(site)
        put_at(site, "d/a", OLD)
        assert make_pass(site) == 0
        store(site)
        return site

    def send(self, site: Site, content: bytes = OLD, when: float = WHEN) -> None:
        put_at(site, "d/a", content, when)
        assert make_pass(site) == 0

    def one_is_purged(self, site: Site) -> None:
        ((held_as, status),) = rows(site, "held_as, status")
        assert (status, tree(site.holding)) == ("HELD", {f"d/{held_as}": OLD})
        assert janitor(site) == 0
        assert tree(site.holding) == {}

    def test_as_the_archiver_writes_it_again(self, site: Site) -> None:
        for _ in range(3):
            self.send(site)
        self.one_is_purged(site)

    def test_after_the_database_was_lost(self, site: Site) -> None:
        change(site, "DELETE FROM transfer_attempt")
        change(site, "DELETE FROM handoff_file")
        self.send(site)
        self.one_is_purged(site)

    def test_after_the_database_was_lost_with_another_time(self, site: Site) -> None:
        change(site, "DELETE FROM transfer_attempt")
        change(site, "DELETE FROM handoff_file")
        self.send(site, when=WHEN + 1)
        self.one_is_purged(site)

    def test_where_the_copy_has_another_name(self, site: Site) -> None:
        (site.holding / "d" / "a").rename(site.holding / "d" / "a.~3~")
        change(site, "UPDATE handoff_file SET held_as = 'a.~3~'")
        self.send(site)
        self.one_is_purged(site)

    @pytest.mark.parametrize("before", [(place, "sync_file"), (Tree, "sync")])
    def test_and_the_pass_is_killed(
        self, site: Site, monkeypatch: pytest.MonkeyPatch, before: tuple[object, str]
    ) -> None:
        put_at(site, "d/a", OLD)
        with monkeypatch.context() as patched:
            patched.setattr(*before, killed)
            with pytest.raises(Killed):
                make_pass(site)
        assert make_pass(site) == 0
        self.one_is_purged(site)

    def test_and_the_pass_is_killed_before_it_is_recorded(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put_at(site, "d/a", OLD)
        with monkeypatch.context() as patched:
            patched.setattr(HandoffFile, "held", killed)
            with pytest.raises(Killed):
                make_pass(site)
        assert make_pass(site) == 0
        self.one_is_purged(site)

    def test_with_other_content_and_both_stay(self, site: Site) -> None:
        shutil.rmtree(site.far_buffer)
        site.far_buffer.mkdir()
        self.send(site, NEW)
        assert tree(site.holding) == {"d/a": OLD, "d/a.~1~": NEW}

    def test_what_a_row_of_its_own_knows_stays(self, site: Site) -> None:
        for when in (WHEN + 1, WHEN + 2):
            self.send(site, when=when)
        assert len(tree(site.holding)) == 3
        assert janitor(site) == 0
        assert tree(site.holding) == {}

    def test_file_whose_own_name_is_like_a_version_stays(self, site: Site) -> None:
        put_at(site, "d/a.~1~", OLD)
        assert make_pass(site) == 0
        self.send(site)
        assert tree(site.holding) == {"d/a": OLD, "d/a.~1~": OLD}
        assert sorted(rows(site, "held_as, status")) == [("a", "HELD"), ("a.~1~", "HELD")]

    def test_and_is_ignored_on_its_way_and_is_not_taken_for_held(self, site: Site) -> None:
        put_at(site, "d/a", OLD)
        site.write(
            handoff={**KEYS, "max_attempts": 1}, endpoint={"transfer": "false {batch} {dest}"}
        )
        make_pass(site)
        assert site.run("dbb", "ignore", "handoff.latiss", "--reason", "why").code == 0
        assert site.run("dbb", "retry", "handoff.latiss", "--status", "IGNORED").code == 0
        assert rows(site) == ["FOUND"]


def test_a_file_that_grew_before_it_was_sent_has_not_vanished(site: Site) -> None:
    site.put("a", b"begun")
    site.staging.rmdir()
    assert make_pass(site) == 75
    site.put("a", b"begun, and ended")
    site.put("b", b"taken away")
    assert make_pass(site) == 75
    (site.buffer / "b").unlink()
    site.staging.mkdir()
    assert make_pass(site) == 0
    counts = [json.loads(one) for one in rows(site, "counts", "run")]
    total = [sum(one.get(what, 0) for one in counts) for what in ("replaced", "vanished")]
    assert total == [1, 1]
