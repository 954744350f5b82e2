"""Claims: each file ingested once, whatever dies and whatever is repeated."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from dbbbatch.database import connect
from dbbbatch.database.models.claim import IngestClaim
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.run import Run
from dbbbatch.files import processes
from dbbbatch.passes.ingester import claims
from tests.support.ingesting import Ingesting
from tests.support.scripts import TOP
from tests.support.site import Site


@pytest.fixture
def ingesting(site: Site) -> Any:
    yield Ingesting(site).configure()
    connect.disconnect()


@pytest.mark.promise
def test_each_file_is_ingested_once_though_passes_are_killed(ingesting: Ingesting) -> None:
    ingesting.configure(passes=3, batch_files=5)
    ingesting.run()
    names = [f"{number:03}.fits" for number in range(200)]
    ingesting.store(*names)
    argv = [sys.executable, TOP / "bin" / "dbb-ingester", "-c", ingesting.site.config]
    passes: list[subprocess.Popen[bytes]] = []
    try:
        for wanted in (20, 60, 100, 140):
            while len(passes) < 3:
                passes.append(subprocess.Popen(argv, stderr=subprocess.DEVNULL))
            while done(ingesting) < wanted and any(one.poll() is None for one in passes):
                pass
            for one in passes[:2]:
                one.kill()
                one.wait()
            passes = passes[2:]
    finally:
        for one in passes:
            one.wait()
    assert ingesting.run() == 0
    assert set(ingesting.statuses().values()) == {"SUCCESS"}
    assert done(ingesting) == len(names)
    assert IngestClaim.select().count() == 0


def done(ingesting: Ingesting) -> int:
    found = connect.execute("SELECT count(*) FROM ingest_event WHERE status = 'SUCCESS'")
    return int(found.fetchone()[0])


@pytest.mark.promise
def test_transactions_whose_answer_is_lost_are_written_once(
    ingesting: Ingesting, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingesting.store("1.fits", "2.fits", "3.fits")
    really = connect.write

    def write(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        really(function, *args, **kwargs)
        return really(function, *args, **kwargs)

    monkeypatch.setattr(connect, "write", write)
    assert ingesting.run() == 0
    for name in ("1.fits", "2.fits", "3.fits"):
        assert ingesting.events(name) == ["UNTRIED", "PENDING", "SUCCESS"]


@pytest.mark.promise
def test_files_that_are_ignored_have_a_history_though_the_answer_is_lost(
    ingesting: Ingesting, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingesting.configure(exclude=["fits$"])
    names = [f"{number:02}.fits" for number in range(25)]
    ingesting.store(*names)
    really = connect.write

    def write(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        really(function, *args, **kwargs)
        return really(function, *args, **kwargs)

    monkeypatch.setattr(connect, "write", write)
    assert ingesting.run() == 0
    assert set(ingesting.statuses().values()) == {"IGNORED"}
    for name in names:
        assert ingesting.events(name) == ["UNTRIED", "IGNORED"]


def test_an_earlier_pass_of_this_very_process_is_over() -> None:
    assert not claims.pass_lives(os.getpid(), processes.start_ticks(), 0)


def test_a_living_pass_keeps_its_files_though_the_clock_was_set(ingesting: Ingesting) -> None:
    assert ingesting.run() == 0
    (target,) = connect.execute("SELECT id FROM target").fetchone()
    parent = psutil.Process(os.getppid())
    now = connect.now()
    run = Run.create(
        site="archive",
        script="target",
        name="a",
        host="here",
        pid=parent.pid,
        process_started=parent.create_time() - 3600,
        machine=processes.machine(),
        start_ticks=processes._state_and_ticks(parent.pid)[1],
        version="",
        started=now,
        outcome="running",
    )
    IngestClaim.renew(run.id, target, processes.machine(), 300)
    assert IngestClaim.dead(0, target, processes.machine(), claims.pass_lives) == []
    Run.update(start_ticks=run.start_ticks + 1).where(Run.id == run.id).execute()
    ((holder, why),) = IngestClaim.dead(0, target, processes.machine(), claims.pass_lives)
    assert (holder, why.endswith("ended")) == (run.id, True)


class Killed(BaseException):
    """The pass ends here."""


@pytest.mark.promise
@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_what_a_dead_pass_held_is_taken_over_in_pieces(
    ingesting: Ingesting, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    assert ingesting.run() == 0
    ingesting.lose(2500)
    connect.execute("UPDATE ingest_state SET status = 'PENDING', claim = 999")
    for dead in (998, 999):  # one that has no file any more
        IngestClaim.renew(dead, 1, "another machine", -1)
    pieces: list[int] = []

    def become(
        status: Any, pairs: Any, *more: Any, real: Any = IngestState.become, **x: Any
    ) -> None:
        if pairs:
            pieces.append(len(pairs))
        if pairs and len(pieces) == killed_at:
            raise Killed
        real(status, pairs, *more, **x)

    with monkeypatch.context() as patch:
        patch.setattr(IngestState, "become", become)
        with pytest.raises(Killed):
            ingesting.run()
    connect.connect(ingesting.settings.database)
    assert 999 in holders()
    assert pieces.pop() == min(1000, left := held_by(999))
    assert left == 2500 - sum(pieces)

    killed_at = 0
    monkeypatch.setattr(IngestState, "become", become)
    assert ingesting.run() == 1
    assert pieces == [1000, 1000, 500]
    assert holders() == []
    found = connect.execute(
        "SELECT s.status, s.attempts, count(*), sum(e.taken) FROM ingest_state s JOIN (SELECT"
        " file_id, count(*) AS taken FROM ingest_event WHERE status = 'UNKNOWN' GROUP BY file_id)"
        " e ON e.file_id = s.file_id GROUP BY s.status, s.attempts"
    ).fetchall()
    assert [tuple(row) for row in found] == [("INVALID", 0, 2500, 2500)]


def held_by(run_id: int) -> int:
    found = connect.execute("SELECT count(*) FROM ingest_state WHERE claim = ?", [run_id])
    return int(found.fetchone()[0])


def holders() -> list[int]:
    return [row.run_id for row in IngestClaim.select()]


def test_a_file_whose_claim_was_lost_and_taken_again_is_offered_once(
    ingesting: Ingesting, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ingesting.store("1.fits", "2.fits")
    really = claims.Claims.take

    def lose_and_take(self: claims.Claims, count: int) -> Any:
        files = really(self, count)
        if files:  # as a pass whose clock is ahead, or after this one was stopped for long
            other = self.context.run_id + 1
            IngestClaim.update(expires_at=connect.now()).execute()
            Run.delete().execute()
            assert IngestClaim.take_over(
                other, self._target_id, processes.machine(), claims.pass_lives, 1, 300
            ) == len(ids)
            self._read_clock()
            assert really(self, count) == []
        return files

    monkeypatch.setattr(claims.Claims, "take", lose_and_take)
    assert ingesting.run() == 0
    assert set(ingesting.statuses().values()) == {"SUCCESS"}
    assert done(ingesting) == len(ids)
    assert IngestClaim.select().count() == 0
