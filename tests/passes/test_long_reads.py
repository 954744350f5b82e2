"""A file that takes hours to read hears a signal, and --max-time; it is charged to nobody."""

import datetime
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.database import connect
from dbbbatch.database.models.finder import Remembered
from dbbbatch.errors import Interrupted
from dbbbatch.files import checksum, place
from dbbbatch.files.tree import outside
from dbbbatch.passes.backfill import BackfillWork
from dbbbatch.passes.finder.rsync_logs import RsyncWork
from tests.support.finding import Finding
from tests.support.handing import make_pass, rows
from tests.support.site import Site, tree

#: Hours of reading, and no room on the disk.
HUGE = 8 << 40

Run = Callable[..., int]


def grow(path: Path) -> Path:
    os.truncate(path, HUGE)
    return path


def signalled(run: Run, **options: Any) -> int:
    """Make a pass that is told to end as soon as it reads a file."""
    real, told = checksum.stream, []

    def stream(*arguments: Any) -> dict[str, str]:
        if not told:
            told.append(threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)))
            told[0].start()
        return real(*arguments)

    checksum.stream = stream  # type: ignore[assignment]
    try:
        return run(**options)
    finally:
        checksum.stream = real
        for timer in told:
            timer.join()


def limited(run: Run, **options: Any) -> int:
    """Make a pass that may take a second."""
    return run(max_time=1.0, **options)


WAYS = [pytest.param(signalled, 75, id="signal"), pytest.param(limited, 0, id="max-time")]
ends = pytest.mark.parametrize(("how", "code"), WAYS)


@ends
def test_a_handoff_reads_no_further(site: Site, how: Any, code: int) -> None:
    site.write(handoff={"min_free": 0})
    grow(site.put("huge"))

    def run(**options: Any) -> int:
        return make_pass(site, **options)

    assert how(run) == code
    assert rows(site, "status, attempts, error") == [("FOUND", 0, None)]


@pytest.fixture
def finding(settings: Any, tmp_path: Path) -> Iterator[Finding]:
    made = Finding(settings, tmp_path)
    yield made
    connect.disconnect()


def remembered(finding: Finding) -> int:
    connect.connect(finding.settings.database)
    return int(Remembered.select().count())


@pytest.mark.parametrize(("limit", "code"), [({}, 75), ({"max_time": 1.0}, 0)])
def test_a_finder_reads_no_further(
    finding: Finding, monkeypatch: pytest.MonkeyPatch, limit: dict[str, float], code: int
) -> None:
    finding.put("1/a")
    huge = grow(finding.put("2/b"))
    if not limit:
        told = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
        told.start()
    monkeypatch.setattr("dbbbatch.passes.runner.PassContext.must_have_room", lambda *_: None)
    assert finding.run(**limit) == code
    assert huge.exists()
    # What was read before it is stored.
    assert list(tree(finding.storage)) == ["1/a"]
    assert remembered(finding) == 0


def test_a_copy_to_another_file_system_goes_no_further(
    settings: Any,
    tmp_path: Path,
    other_file_system: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finding = Finding(settings, tmp_path, source=other_file_system)
    finding.put("a", b"x" * (1 << 20))
    real = place.write_block

    def write(descriptor: int, block: memoryview) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        # The handler runs in the main thread, as soon as that one gets its turn.
        while not checksum._must_end():
            time.sleep(0.01)
        real(descriptor, block)

    monkeypatch.setattr(place, "write_block", write)
    assert finding.run() == 75
    assert os.listdir(finding.storage) == [".dbb-storage"]
    assert remembered(finding) == 0
    monkeypatch.undo()
    assert finding.run() == 0
    assert (finding.storage / "a").stat().st_size == 1 << 20


def test_what_was_copied_of_a_file_that_is_not_read_to_its_end_goes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * (1 << 20))
    blocks = iter([False, False, True])
    with checksum.heeding(lambda: next(blocks)), pytest.raises(Interrupted):
        place.copy_into(outside(str(tmp_path / "a")), outside(str(tmp_path / "b")))
    assert os.listdir(tmp_path) == ["a"]
    place.copy_into(outside(str(tmp_path / "a")), outside(str(tmp_path / "b")))


@ends
def test_a_backfill_reads_no_further(finding: Finding, how: Any, code: int) -> None:
    finding.put("1/a", where=finding.storage)
    grow(finding.put("2/b", where=finding.storage))
    finding._work = BackfillWork
    assert how(finding.run) == code
    connect.connect(finding.settings.database)
    assert connect.execute("SELECT relpath, filename FROM file").fetchall() == [("1", "a")]


@pytest.fixture
def by_logs(settings: Any, tmp_path: Path) -> Finding:
    """Return a finder that reads rsync's logs, and a log that names a, b and c in this order."""
    made = Finding(
        settings,
        tmp_path,
        work=RsyncWork,
        search="rsync-logs",
        standard="none",
        delay=0,
        retry_wait=0,
    )
    log = made.source / f"{datetime.datetime.now(datetime.UTC):%Y%m%d}" / "rsync.log"
    log.parent.mkdir()
    log.write_text("".join(f"<f+++++++++ {name}\n" for name in "abc"))
    return made


@ends
def test_a_finder_by_rsyncs_logs_records_what_it_read_before(
    by_logs: Finding, how: Any, code: int
) -> None:
    stored = [by_logs.put(name, where=by_logs.storage) for name in "abc"]
    grow(stored[1])
    assert how(by_logs.run) == code
    assert by_logs.rows("SELECT filename FROM file") == [("a",)]
    assert by_logs.rows("SELECT filename FROM finder_left") == []
    os.truncate(stored[1], 1)
    assert by_logs.run() == 0
    assert by_logs.rows("SELECT filename FROM file ORDER BY id") == [("a",), ("b",), ("c",)]


def test_a_finder_by_rsyncs_logs_goes_on_in_its_second_batch(by_logs: Finding) -> None:
    by_logs.change(batch_files=1)
    stored = [by_logs.put(name, where=by_logs.storage) for name in "abc"]
    grow(stored[1])
    assert limited(by_logs.run) == 0
    line = len("<f+++++++++ a\n")
    assert by_logs.rows("SELECT position FROM rsync_log") == [(line,)]


@ends
def test_what_rsyncs_logs_await_and_is_not_read_stays_awaited(
    by_logs: Finding, how: Any, code: int
) -> None:
    assert by_logs.run() == 0
    stored = [by_logs.put(name, where=by_logs.storage) for name in "abc"]
    grow(stored[1])
    assert how(by_logs.run) == code
    assert by_logs.rows("SELECT filename FROM file") == [("a",)]
    left = by_logs.rows("SELECT filename, tries FROM finder_left ORDER BY filename")
    assert left == [("b", 1), ("c", 1)]


def test_a_recovery_keeps_what_it_read_before(
    settings: Any, tmp_path: Path, other_file_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = Finding(settings, tmp_path, source=other_file_system)
    for name in "ab":
        finding.put(name)

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    # Both are in storage; as if a copy had other numbers than its row, both are read again.
    with monkeypatch.context() as patched:
        patched.setattr("dbbbatch.areas.storage.store._record_stored", killed)
        with pytest.raises(Killed):
            finding.run()
    connect.connect(finding.settings.database)
    connect.execute("UPDATE file SET inode = 1")
    real, read = checksum.compute, []

    def compute(path: str, *arguments: Any, **named: Any) -> Any:
        read.append(path)
        if len(read) == 2:
            raise Interrupted("interrupted while a file was read")
        return real(path, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(checksum, "compute", compute)
        finding.run(max_time=3600)
    connect.connect(finding.settings.database)
    assert connect.execute("SELECT status FROM file ORDER BY id").fetchall() == [
        ("STORED",),
        ("ARRIVING",),
    ]
