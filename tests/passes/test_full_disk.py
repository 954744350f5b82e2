"""Disks that are really full: nothing is lost or blamed, one line says where, room is the cure."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.areas.endpoint import session as sessions
from dbbbatch.areas.endpoint import transfer_command
from dbbbatch.areas.reasons import is_reason
from dbbbatch.areas.storage import store as store_module
from dbbbatch.config import load
from dbbbatch.errors import TryLater
from dbbbatch.files import place, temporary
from dbbbatch.files.tree import Tree
from dbbbatch.passes import runner
from dbbbatch.passes.finder.scan import FinderWork
from dbbbatch.passes.handoff import failures
from dbbbatch.process import run as programs
from tests.support import finding
from tests.support.disks import BLOCK, SmallDisk, small_disk
from tests.support.finding import Finding
from tests.support.handing import REFUSING, Arriving, make_pass, rows, statuses, wait_over
from tests.support.site import Site, tree

pytestmark = pytest.mark.promise

only_sqlite = pytest.mark.parametrize("backend", ["sqlite"])

KEYS: dict[str, Any] = {"min_free": 0, "streams": 1}

#: Large ones: a million bytes have room for two of them.
LARGE = {f"night {n}/{n}.fits": random.Random(n).randbytes(400_000) for n in range(5)}

#: Small ones: each takes a block, so that there may be room for their bytes, but not for them.
SMALL = {f"night {n % 2}/{n}.fits": b"small %d" % n for n in range(12)}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 4 << 20) as made:
        yield made


def one_line(capsys: pytest.CaptureFixture[str], *parts: object) -> None:
    """See that one line was said since the last time, and what is in it."""
    (line,) = capsys.readouterr().err.splitlines()
    for part in parts:
        assert str(part) in line


def whole(directory: Path, sent: dict[str, bytes]) -> bool:
    """Return whether each file of a directory is one that was sent, with all that is in it."""
    return tree(directory).items() <= sent.items()


# ---- the far end of a handoff --------------------------------------------------------------------


@pytest.fixture(params=["cp", "rsync over ssh"])
def far(request: pytest.FixtureRequest, tmp_path: Path, database_url: str, disk: SmallDisk) -> Site:
    """Return a site whose endpoint has its staging and buffer on the small disk."""
    ssh = None if request.param == "cp" else request.getfixturevalue("ssh_server")
    return at_the_far_end(Site(tmp_path / "site", database_url, ssh), disk)


def at_the_far_end(site: Site, disk: SmallDisk) -> Site:
    site.staging, site.far_buffer = disk.path / "staging", disk.path / "buffer"
    site.staging.mkdir()
    site.far_buffer.mkdir()
    return site.write(handoff=KEYS)


def nothing_is_lost(site: Site, sent: dict[str, bytes]) -> None:
    """Each file is in the buffer still, or it is whole at the endpoint; no file is blamed."""
    assert whole(site.far_buffer, sent)
    assert tree(site.buffer) | tree(site.holding) == sent
    assert tree(site.holding).items() <= tree(site.far_buffer).items()
    assert tree(site.quarantine) == {}
    assert set(rows(site, "attempts, next_try_at")) == {(0, None)}


def everything_arrives(site: Site, sent: dict[str, bytes]) -> None:
    """One pass brings every file to its end, and leaves nothing."""
    assert make_pass(site) == 0
    assert tree(site.far_buffer) == tree(site.holding) == sent
    assert tree(site.buffer) == {}
    assert os.listdir(site.staging) == []
    assert set(statuses(site).values()) == {"HELD"}


@only_sqlite
@pytest.mark.parametrize("what", ["bytes", "names"])
def test_a_far_end_that_has_no_room_at_all(
    far: Site, disk: SmallDisk, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    far.put_all(SMALL)
    disk.fill() if what == "bytes" else disk.fill_names()
    assert make_pass(far) == 75
    one_line(capsys, far.staging)
    assert tree(far.far_buffer) == {}
    nothing_is_lost(far, SMALL)
    assert make_pass(far) == 75
    assert capsys.readouterr().err == ""  # said once
    disk.make_room()
    everything_arrives(far, SMALL)


@only_sqlite
def test_a_far_end_that_fills_while_files_are_sent(
    far: Site, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    far.put_all(LARGE)
    real = programs.run

    def run(argv: Any, **more: Any) -> programs.Finished:
        monkeypatch.undo()
        disk.fill(1_000_000 // BLOCK)
        return real(argv, **more)

    monkeypatch.setattr(transfer_command.run, "run", run)
    assert make_pass(far) == 75
    one_line(capsys, far.staging)
    assert 0 < len(tree(far.far_buffer)) < len(LARGE)  # what had room is delivered
    nothing_is_lost(far, LARGE)
    disk.make_room()
    everything_arrives(far, LARGE)


@only_sqlite
@pytest.mark.parametrize("blocks", [3, 9])
def test_files_that_need_more_room_than_they_have_bytes(
    far: Site, disk: SmallDisk, blocks: int, capsys: pytest.CaptureFixture[str]
) -> None:
    far.put_all(SMALL)
    disk.fill(blocks)
    assert make_pass(far) == 75
    one_line(capsys, far.staging)
    nothing_is_lost(far, SMALL)
    disk.make_room()
    everything_arrives(far, SMALL)


@only_sqlite
@pytest.mark.parametrize("names", [7, 13])
def test_a_far_end_where_few_more_files_can_be_made(
    far: Site, disk: SmallDisk, names: int, capsys: pytest.CaptureFixture[str]
) -> None:
    far.put_all(SMALL)
    disk.fill_names(names)
    assert make_pass(far) == 75
    one_line(capsys, disk.path)
    nothing_is_lost(far, SMALL)
    disk.make_room()
    everything_arrives(far, SMALL)


@only_sqlite
def test_one_file_for_which_few_more_can_be_made_is_not_blamed(site: Site, disk: SmallDisk) -> None:
    at_the_far_end(site, disk)
    sent = {}
    codes = set()
    for names in range(7, 14):
        sent[f"{names}"] = b"content"
        site.put_all({f"{names}": b"content"})
        disk.fill_names(names)
        codes.add(make_pass(site))
        nothing_is_lost(site, sent)
        disk.make_room()
        everything_arrives(site, sent)
    assert codes == {0, 75}


@pytest.fixture
def place_there(disk: SmallDisk) -> sessions.EndpointAddress:
    """Return a far end on the small disk, to be talked to without a handoff."""
    for name in ("staging", "buffer"):
        (disk.path / name).mkdir()
    return sessions.EndpointAddress(f"{disk.path}/buffer", f"{disk.path}/staging", None, {})


def expected(names: list[bytes], content: bytes = b"data") -> list[Arriving]:
    digest = hashlib.blake2b(content).hexdigest()
    return [Arriving(name, len(content), digest) for name in names]


def arrive(disk: SmallDisk, attempt: str, names: list[bytes], content: bytes = b"data") -> None:
    for name in names:
        (disk.path / "staging" / attempt / "t" / os.fsdecode(name)).write_bytes(content)


@pytest.mark.parametrize("blocks", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("names", [[b"refused"], [b"a", b"refused", b"z"]])
def test_what_a_full_buffer_refuses_is_never_told_as_placed(
    place_there: sessions.EndpointAddress,
    disk: SmallDisk,
    names: list[bytes],
    blocks: int,
    program: Callable[[str, str], Path],
) -> None:
    # A directory that can hold no more names refuses one while there are blocks for our notes.
    refused = disk.path / "buffer" / "refused"
    refuse = f"rm {refused} && echo No space left on device >&2 && exit 1"
    program("cp", f'{shutil.which("cp")} "$@" && if [ -e {refused} ]; then {refuse}; fi')
    others = {os.fsdecode(name): b"data" for name in names if name != b"refused"}
    with sessions.Session(place_there) as session:
        session.begin("attempt", names)
        arrive(disk, "attempt", names)
        assert session.verify("attempt", expected(names), 10) == expected(names)
        disk.fill(blocks)
        with suppress(sessions.Refused):
            assert set(session.place_files("attempt").kept) == {b"refused"}
    assert tree(disk.path / "buffer") == others


def test_what_arrived_at_a_full_disk_is_never_told_as_missing(
    place_there: sessions.EndpointAddress, disk: SmallDisk
) -> None:
    names = [b"%d" % n for n in range(60)]
    refusals = 0
    for blocks in range(6):
        attempt = f"attempt-{blocks}"
        with sessions.Session(place_there) as session:
            session.begin(attempt, names)
            arrive(disk, attempt, names)
            # What the last answer took is not there for the next one if somebody else is faster;
            # by another question that has been answered nobody reads it any more.
            session.free_bytes()
            (disk.path / "staging" / attempt / "answer").unlink()
            disk.fill(blocks)
            try:
                assert session.verify(attempt, expected(names), 10) == expected(names)
            except sessions.Refused:
                refusals += 1
            session.clean(attempt)
        disk.make_room()
    assert 0 < refusals < 6


def test_what_a_full_disk_has_already_is_never_told_as_other_content(
    place_there: sessions.EndpointAddress, disk: SmallDisk
) -> None:
    names = [b"%d" % n for n in range(60)]
    for name in names:
        (disk.path / "buffer" / os.fsdecode(name)).write_bytes(b"data")
    taken = {file.raw: file.digest for file in expected(names)}
    refusals = 0
    for blocks in range(9):
        attempt = f"attempt-{blocks}"
        disk.fill(blocks)
        with sessions.Session(place_there) as session:
            try:
                assert session.begin(attempt, names)[1] == taken
            except sessions.Refused:
                refusals += 1
            session.clean(attempt)
        disk.make_room()
    assert 0 < refusals < 9


@only_sqlite
def test_a_far_end_with_less_room_than_it_must_keep(
    far: Site, disk: SmallDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    far.put_all(SMALL)
    disk.fill(2 * 256)
    far.write(handoff={**KEYS, "min_free": "3 MiB"})
    assert make_pass(far) == 75
    one_line(capsys, far.staging, "min_free", "2.1 MB free")
    assert os.listdir(far.staging) == os.listdir(far.far_buffer) == []
    assert rows(far, "id", "transfer_batch") == []
    nothing_is_lost(far, SMALL)
    disk.make_room()
    everything_arrives(far, SMALL)


# ---- the near end of a handoff -------------------------------------------------------------------


@pytest.fixture
def near(site: Site, disk: SmallDisk) -> Site:
    """Return a site whose buffer, holding and quarantine are on the small disk."""
    for area in ("buffer", "holding", "quarantine"):
        setattr(site, area, disk.path / area)
        (disk.path / area).mkdir()
    return site.write(handoff=KEYS)


def test_a_full_near_end_is_emptied(
    near: Site, disk: SmallDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    # Moving originals to holding needs no block; to wait for room would be to wait forever.
    near.put_all(LARGE)
    disk.fill()
    everything_arrives(near, LARGE)
    assert capsys.readouterr().err == ""


def test_a_near_end_where_no_directory_can_be_made(
    near: Site, disk: SmallDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    near.put_all(SMALL)
    disk.fill()
    disk.fill_names()
    assert make_pass(near) == 75
    one_line(capsys, near.holding, "No space left on device")
    assert tree(near.buffer) | tree(near.holding) == tree(near.far_buffer) == SMALL
    assert set(statuses(near).values()) == {"DELIVERED"}
    assert make_pass(near) == 75
    assert capsys.readouterr().err == ""
    disk.make_room()
    # They are not sent again.
    near.write(handoff=KEYS, endpoint={"transfer": "false {batch} {dest}"})
    everything_arrives(near, SMALL)


def test_a_quarantine_at_the_near_end_where_no_directory_can_be_made(
    near: Site,
    disk: SmallDisk,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    near.put_all(SMALL)
    near.write(handoff={**KEYS, "max_attempts": 1}, endpoint=REFUSING)
    with monkeypatch.context() as patched:
        patched.setattr(failures.Failures, "quarantine", lambda *_: None)
        make_pass(near)
    capsys.readouterr()
    disk.fill()
    disk.fill_names()
    assert make_pass(near) == 75
    one_line(capsys, near.quarantine, "No space left on device")
    assert tree(near.buffer) == SMALL
    disk.make_room()
    for _ in SMALL:
        wait_over(near)
        assert make_pass(near) in (0, 1, 75)
        assert tree(near.buffer).items() | _aside(near.quarantine).items() == SMALL.items()
    assert _aside(near.quarantine) == SMALL
    assert rows(near, "count(*)", "quarantine") == [len(SMALL)]


def _aside(quarantine: Path) -> dict[str, bytes]:
    found = tree(quarantine).items()
    with Tree(str(quarantine)) as aside:
        return {rel: content for rel, content in found if not is_reason(aside.entry(rel))}


@only_sqlite
@pytest.mark.parametrize("what", ["bytes", "names"])
def test_a_state_directory_without_room(
    site: Site, disk: SmallDisk, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site.state = disk.path / "state"
    (site.state / "locks").mkdir(parents=True)
    site.write(handoff=KEYS)
    site.put_all(SMALL)
    disk.fill() if what == "bytes" else disk.fill_names()
    assert make_pass(site) == 75
    # There is no room either for remembering what was said, which is the second line.
    first, second = capsys.readouterr().err.splitlines()
    assert f"{site.state}/locks/handoff.latiss.lock: No space left on device" in first
    assert "cannot remember what was said" in second
    assert tree(site.buffer) == SMALL


@only_sqlite
def test_a_lock_that_could_not_be_written_is_not_kept(
    site: Site, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.state = disk.path / "state"
    (site.state / "locks").mkdir(parents=True)
    site.write(handoff=KEYS)
    site.put_all(SMALL)
    monkeypatch.setattr(place, "RESERVE", 0)
    disk.fill()
    assert make_pass(site) == 75
    disk.make_room()
    everything_arrives(site, SMALL)


# ---- the database --------------------------------------------------------------------------------

#: Enough for many blocks of a database.
MANY = {f"night/{'x' * 200} {n}": b"%d" % n for n in range(150)}


@pytest.fixture(params=["handoff", "finder"])
def script(request: pytest.FixtureRequest) -> str:
    return request.param


def on_a_disk(site: Site, disk: SmallDisk, script: str) -> Site:
    """Put the database of a site on a small disk, and files where a script takes them."""
    shutil.copy(site.root.parent / "dbb.sqlite", disk.path / "dbb.sqlite")
    site.database_url = f"sqlite:///{disk.path}/dbb.sqlite"
    keys = {"min_free": 0, "batch_files": 50}
    site.write(handoff={**keys, "streams": 1}, finder=keys)
    for rel, content in MANY.items():
        site.put(rel, content, where=site.buffer if script == "handoff" else site.far_buffer)
    return site


def run(site: Site, script: str) -> int:
    settings = site.settings()
    if script == "handoff":
        return make_pass(site)
    section = settings.finder[site.name]
    return runner.run_pass(FinderWork(section), settings, section, runner.Options())


def all_is_recorded(site: Site, script: str) -> None:
    """One pass brings everything to its end, on the disk and in the table."""
    assert run(site, script) == 0
    if script == "handoff":
        assert tree(site.buffer) == {}
        assert tree(site.holding) == tree(site.far_buffer) == MANY
        assert rows(site, "status, count(*)") == [("HELD", len(MANY))]
    else:
        assert tree(site.far_buffer) == {}
        assert tree(site.storage) == MANY
        assert rows(site, "status, count(*)", "file") == [("STORED", len(MANY))]


@only_sqlite
def test_a_database_with_little_room_is_not_filled(site: Site, tmp_path: Path, script: str) -> None:
    with small_disk(tmp_path / "disk", place.RESERVE + (8 << 20)) as disk:
        on_a_disk(site, disk, script)
        before = _all_files(site)
        disk.fill((4 << 20) // BLOCK)
        ran = site.run(f"dbb-{script}")
        assert (ran.code, ran.out) == (75, "")
        assert len(ran.err.splitlines()) == 1
        assert f"{disk.path}: only" in ran.err
        assert _all_files(site) == before
        disk.make_room()
        all_is_recorded(site, script)


@only_sqlite
@pytest.mark.parametrize("blocks", [0, 4, 8, 32, 96])
def test_a_database_that_has_no_room_left(
    site: Site,
    disk: SmallDisk,
    script: str,
    blocks: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The pass is under way when somebody else takes the rest.
    monkeypatch.setattr(place, "RESERVE", 0)
    on_a_disk(site, disk, script)
    disk.fill(blocks)
    assert run(site, script) == 75
    one_line(capsys, "the disk is full")
    assert not (site.state / "crashes").exists()
    found = _all_files(site)
    assert {rel: found.get(rel) for rel in MANY} == MANY
    disk.make_room()
    all_is_recorded(site, script)


@only_sqlite
def test_a_full_disk_of_ours_is_said_once_and_when_it_is_over(
    site: Site,
    disk: SmallDisk,
    script: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(place, "RESERVE", 0)
    site.state = disk.path / "state"
    on_a_disk(site, disk, script)
    assert run(site, script) == 0
    disk.fill()
    for number in range(4):
        site.put(f"new/{number}", where=site.buffer if script == "handoff" else site.far_buffer)
        assert run(site, script) == 75
    one_line(capsys, "the disk is full")
    disk.make_room()
    assert run(site, script) == run(site, script) == 0
    one_line(capsys, "is over: ", "the disk is full")


def _all_files(site: Site) -> dict[str, bytes]:
    """Return the files where a handoff or a finder may have them, wherever that is."""
    areas = (site.buffer, site.holding, site.far_buffer, site.storage)
    return {rel: content for area in areas for rel, content in tree(area).items()}


# ---- storage and its quarantine ------------------------------------------------------------------


@pytest.fixture
def storing(settings: load.Settings, disk: SmallDisk, tmp_path: Path) -> Finding:
    """Return a finder with storage on the small disk, and a target that waits for its files."""
    made = Finding(settings, disk.path, tmp_path / "source", min_free=0, retry_wait=0)
    made.add_target()
    return made


def put_all(storing: Finding, files: dict[str, bytes]) -> None:
    for rel, content in files.items():
        storing.put(rel, content)


def nothing_is_stored_by_halves(storing: Finding, files: dict[str, bytes]) -> dict[str, bytes]:
    """What storage has is whole and recorded, the rest is in the source; give what storage has."""
    stored: dict[str, bytes] = finding.tree(storing.storage)
    final = {
        rel: content for rel, content in stored.items() if temporary.TEMPORARY_PREFIX not in rel
    }
    assert final.items() <= files.items()
    assert finding.tree(storing.source) | final == files
    recorded = {f"{relpath}/{filename}" for relpath, filename, _ in storing.rows()}
    assert recorded == set(final)
    return stored


def everything_is_stored(storing: Finding, files: dict[str, bytes]) -> None:
    """One pass stores all, and leaves nothing in the source and no copy half-done."""
    assert storing.run() == 0
    assert finding.tree(storing.storage) == files
    assert finding.tree(storing.source) == {}
    assert storing.rows("SELECT status, count(*) FROM file GROUP BY status") == [
        ("STORED", len(files))
    ]
    assert storing.rows("SELECT count(*) FROM ingest_state") == [(len(files),)]
    assert storing.rows("SELECT * FROM finder_left") == []


@pytest.fixture
def fills(monkeypatch: pytest.MonkeyPatch, disk: SmallDisk) -> Callable[[int, int], None]:
    """Fill the small disk, except so many blocks, when so many copies have been made."""
    real = place.copy_beside

    def set_up(copies: int, blocks: int) -> None:
        remaining = [copies]

        def copy_beside(*arguments: Any, **more: Any) -> dict[str, str]:
            if not remaining[0]:
                disk.fill(blocks)
            remaining[0] -= 1
            return real(*arguments, **more)

        monkeypatch.setattr(place, "copy_beside", copy_beside)

    return set_up


def test_storage_that_fills_while_a_file_is_copied(
    storing: Finding,
    disk: SmallDisk,
    fills: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put_all(storing, LARGE)
    fills(2, 50)
    assert storing.run() == 75
    one_line(capsys, storing.storage, "No space left on device")
    nothing_is_stored_by_halves(storing, LARGE)
    assert finding.tree(storing.source) == LARGE
    monkeypatch.undo()
    disk.make_room()
    everything_is_stored(storing, LARGE)


def test_what_had_room_is_stored_though_what_follows_has_none(
    storing: Finding,
    disk: SmallDisk,
    fills: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    storing.change(batch_files=1)
    put_all(storing, LARGE)
    fills(2, 50)
    assert storing.run() == 75
    one_line(capsys, storing.storage)
    assert len(nothing_is_stored_by_halves(storing, LARGE)) == 2
    monkeypatch.undo()
    disk.make_room()
    everything_is_stored(storing, LARGE)


@pytest.mark.parametrize("blocks", [0, 5])
def test_files_that_need_more_room_in_storage_than_they_have_bytes(
    storing: Finding, disk: SmallDisk, blocks: int, capsys: pytest.CaptureFixture[str]
) -> None:
    put_all(storing, SMALL)
    disk.fill(blocks)
    assert storing.run() == 75
    one_line(capsys, storing.storage)
    nothing_is_stored_by_halves(storing, SMALL)
    disk.make_room()
    everything_is_stored(storing, SMALL)


@pytest.mark.parametrize("names", [0, 5])
def test_storage_where_few_more_files_can_be_made(
    storing: Finding, disk: SmallDisk, names: int, capsys: pytest.CaptureFixture[str]
) -> None:
    put_all(storing, SMALL)
    disk.fill_names(names)
    assert storing.run() == 75
    one_line(capsys, storing.storage)
    nothing_is_stored_by_halves(storing, SMALL)
    disk.make_room()
    everything_is_stored(storing, SMALL)


@only_sqlite
@pytest.mark.parametrize("batch_files", [1, 1000])
def test_copies_for_which_there_was_no_room_do_not_keep_storage_full(
    storing: Finding, disk: SmallDisk, batch_files: int
) -> None:
    storing.change(batch_files=batch_files)
    put_all(storing, SMALL)
    disk.fill(5)
    before = place.free_bytes(str(disk.path))
    assert storing.run() == 75
    stored = nothing_is_stored_by_halves(storing, SMALL)
    assert not any(temporary.TEMPORARY_PREFIX in rel for rel in stored)
    assert place.free_bytes(str(disk.path)) == before - len(stored) * BLOCK


@only_sqlite
def test_copies_that_were_made_ahead_do_not_keep_storage_full(
    storing: Finding, monkeypatch: pytest.MonkeyPatch
) -> None:
    # While a batch is stored the next one is copied; no row tells of these copies yet.
    def full(*arguments: Any) -> None:
        raise TryLater("the disk is full")

    storing.change(batch_files=1)
    put_all(storing, SMALL)
    with monkeypatch.context() as patched:
        patched.setattr(store_module, "store", full)
        assert storing.run() == 75
    assert finding.tree(storing.storage) == {}
    everything_is_stored(storing, SMALL)


@pytest.mark.parametrize("room", ["none at all", "none to spare"])
def test_a_full_quarantine_on_another_disk_leaves_the_file_in_the_source(
    settings: load.Settings,
    tmp_path: Path,
    room: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with small_disk(tmp_path / "disk", place.RESERVE + (4 << 20)) as disk:
        made = Finding(settings, tmp_path, min_free=0)
        made.quarantine = disk.path / "quarantine"
        made.quarantine.mkdir()
        made.change(quarantine=str(made.quarantine))
        made.put("night/a", b"first")
        assert made.run() == 0
        made.put("night/a", b"other")
        made.put("night/b", b"new")
        made.change(batch_files=1)
        if room == "none at all":
            monkeypatch.setattr(place, "RESERVE", 0)
            disk.fill()
        else:
            disk.fill(place.RESERVE // 2 // BLOCK)
        for _ in range(2):
            assert made.run() == 75
            assert finding.tree(made.source) == {"night/a": b"other"}
            assert finding.tree(made.storage) == {"night/a": b"first", "night/b": b"new"}
            assert finding.tree(made.quarantine) == {}
            assert made.rows("SELECT * FROM quarantine") == []
        one_line(capsys, made.quarantine, "No space left on device")
        disk.make_room()
        assert made.run() == 1
        assert finding.tree(made.source) == {}
        assert finding.tree(made.storage) == {"night/a": b"first", "night/b": b"new"}
        assert finding.tree(made.quarantine) == {"night/a": b"other"}
        assert made.rows("SELECT filename, reason FROM quarantine") == [
            ("a", "storage holds other content under this name")
        ]
