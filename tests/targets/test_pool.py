"""Workers contain whatever a plugin does; only the file that caused it is charged."""

import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from dbbbatch.targets import child, messages
from dbbbatch.targets.plugin import (
    Context,
    Misconfigured,
    NotReady,
    Outcome,
    Plugin,
    Result,
    StoredFile,
)
from dbbbatch.targets.pool import WorkerPool
from tests.targets.conftest import MakePool, open_when_read, outcomes_of, until

Stored = Callable[..., list[StoredFile]]

QUICK = 1.0


def results(pool: WorkerPool) -> list[str]:
    outcomes = outcomes_of(pool)
    return [outcomes[number].result.value for number in sorted(outcomes)]


def workers() -> list[psutil.Process]:
    """Return the plugin processes of this process, which has servers of other tests as well."""
    alive = (p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE)
    return [p for p in alive if "dbbbatch.targets.child" in " ".join(p.cmdline())]


class TestOutcomes:
    def test_each_result_is_collected(self, make_pool: MakePool, stored: Stored) -> None:
        pool = make_pool()
        pool.offer(stored("done", "already", "later", "failed", "never", "partly"))
        assert results(pool) == ["done", "already", "later", "failed", "never", "partly"]

    def test_version_of_the_plugin_is_in_the_outcome(
        self, make_pool: MakePool, stored: Stored
    ) -> None:
        pool = make_pool()
        pool.offer(stored("done"))
        assert outcomes_of(pool)[1].version == "7.0"

    def test_parts_and_checksums_are_in_the_outcome(
        self, make_pool: MakePool, stored: Stored
    ) -> None:
        pool = make_pool()
        pool.offer(stored("partly", "sum"))
        outcomes = outcomes_of(pool)
        assert outcomes[1].parts_done == {"first"}
        assert outcomes[2].checksums == {"md5": "00"}

    def test_duration_is_that_of_the_file(self, make_pool: MakePool, stored: Stored) -> None:
        before = time.monotonic()
        pool = make_pool()
        pool.offer(stored("done", "already"))
        outcomes = outcomes_of(pool)
        first, second = outcomes[1], outcomes[2]
        assert before < first.started <= first.started + first.seconds <= second.started

    def test_files_of_later_batches_go_to_the_same_process(
        self, make_pool: MakePool, stored: Stored
    ) -> None:
        pool = make_pool()
        pool.offer(stored("done"))
        outcomes_of(pool)
        (first,) = workers()
        pool.offer(stored("done"))
        outcomes_of(pool)
        assert workers() == [first]

    def test_several_workers_share_the_batches(
        self, make_pool: MakePool, stored: Stored, storage: Path
    ) -> None:
        pool = make_pool(workers=2)
        files = stored("done", "already", "failed")
        pool.offer(files[:1])
        assert pool.free
        pool.offer(files[1:2])
        assert not pool.free
        assert results(pool) == ["done", "already"]

    def test_no_process_is_started_before_there_is_a_file(self, make_pool: MakePool) -> None:
        make_pool()
        assert workers() == []


class TestFilesThatAreNotOffered:
    def test_file_that_is_gone_is_missing(self, make_pool: MakePool, stored: Stored) -> None:
        files = stored("done", "raise")
        os.unlink(files[1].path)
        pool = make_pool()
        pool.offer(files)
        assert results(pool) == ["done", "missing"]

    def test_empty_file_is_empty(self, make_pool: MakePool, stored: Stored, storage: Path) -> None:
        (storage / "empty").touch()
        pool = make_pool()
        pool.offer([StoredFile(1, str(storage / "empty"), "", "empty", 0)])
        assert results(pool) == ["empty"]

    def test_file_of_another_size_is_altered(self, make_pool: MakePool, stored: Stored) -> None:
        (file,) = stored("done")
        Path(file.path).write_bytes(b"")
        pool = make_pool()
        pool.offer([file])
        assert results(pool) == ["altered"]

    def test_directory_is_altered(self, make_pool: MakePool, storage: Path) -> None:
        (storage / "night").mkdir()
        pool = make_pool()
        pool.offer([StoredFile(1, str(storage / "night"), "", "night", 4)])
        assert results(pool) == ["altered"]

    @pytest.mark.promise
    def test_link_is_altered_and_what_lies_behind_one_is_missing(
        self, make_pool: MakePool, storage: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "private").mkdir()
        (tmp_path / "private" / "x").write_bytes(b"data")
        (storage / "x").symlink_to(tmp_path / "private" / "x")
        (storage / "night").symlink_to(tmp_path / "private")
        pool = make_pool()
        for rel, result in (("x", "altered"), ("night/x", "missing")):
            relpath, _, filename = rel.rpartition("/")
            pool.offer([StoredFile(1, str(storage / rel), relpath, filename, 4)])
            assert results(pool) == [result]

    def test_failure_of_a_file_that_went_is_missing(
        self, make_pool: MakePool, stored: Stored, tmp_path: Path
    ) -> None:
        (file,) = stored("gone")
        pool = make_pool(
            "command",
            command=f"{sys.executable} -c 'import os, sys; "
            "os.unlink(sys.argv[1]); sys.exit(1)' {file}",
        )
        pool.offer([file])
        outcome = outcomes_of(pool)[1]
        assert outcome.result is Result.MISSING
        assert outcome.message == "not in the storage area: exit code 1"


CULPRITS = [
    ("segfault", "SIGSEGV"),
    ("exit", "SystemExit: 3"),
    ("vanish", "exit code 4"),
    ("hang", "no outcome within 1 s"),
]


@pytest.mark.promise
class TestContained:
    @pytest.mark.parametrize(("culprit", "reason"), CULPRITS)
    def test_only_the_present_file_is_unknown(
        self, make_pool: MakePool, stored: Stored, culprit: str, reason: str
    ) -> None:
        pool = make_pool(timeout=QUICK)
        pool.offer(stored("done.1", culprit, "done.2", "done.3"))
        outcomes = outcomes_of(pool)
        assert [outcomes[n].result for n in (1, 2, 3, 4)] == [
            Result.DONE,
            Result.UNKNOWN,
            Result.DONE,
            Result.DONE,
        ]
        assert reason in outcomes[2].message

    @pytest.mark.parametrize(("culprit", "reason"), CULPRITS)
    def test_culprit_in_a_batch_whose_outcomes_come_at_its_end_is_found(
        self, make_pool: MakePool, stored: Stored, culprit: str, reason: str
    ) -> None:
        names = [f"done.{number}" for number in range(24)]
        pool = make_pool("whole", timeout=QUICK)
        pool.offer(stored(*names[:12], culprit, *names[12:]))
        outcomes = outcomes_of(pool)
        assert [n for n, v in outcomes.items() if v.result is Result.UNKNOWN] == [13]
        assert reason in outcomes[13].message
        assert sum(v.result is Result.DONE for v in outcomes.values()) == 24

    def test_memory_beyond_the_limit(self, make_pool: MakePool, stored: Stored) -> None:
        pool = make_pool(memory_limit=1 << 29)
        pool.offer(stored("done", "memory", "already"))
        outcomes = outcomes_of(pool)
        assert [outcomes[n].result.value for n in (1, 2, 3)] == ["done", "unknown", "already"]
        assert "memory_limit" in outcomes[2].message

    def test_exception_costs_the_present_file(self, make_pool: MakePool, stored: Stored) -> None:
        pool = make_pool()
        pool.offer(stored("done", "raise", "already"))
        outcomes = outcomes_of(pool)
        assert [outcomes[n].result.value for n in (1, 2, 3)] == ["done", "failed", "already"]
        assert outcomes[2].message == "RuntimeError: it went wrong; from OSError: deep down"

    def test_exception_in_a_whole_batch_costs_the_culprit(
        self, make_pool: MakePool, stored: Stored
    ) -> None:
        pool = make_pool("whole")
        pool.offer(stored("done", "raise", "already"))
        assert results(pool) == ["done", "failed", "already"]

    def test_output_does_no_harm(self, make_pool: MakePool, stored: Stored) -> None:
        pool = make_pool()
        pool.offer(stored("shout", "done"))
        assert results(pool) == ["done", "done"]

    def test_last_words_are_part_of_the_reason(self, make_pool: MakePool, stored: Stored) -> None:
        pool = make_pool()
        pool.offer(stored("segfault"))
        assert "naughty.py" in outcomes_of(pool)[1].message

    def test_programs_of_a_hanging_plugin_are_ended(
        self, make_pool: MakePool, stored: Stored, tmp_path: Path
    ) -> None:
        journal = tmp_path / "journal"
        pool = make_pool(timeout=QUICK, journal=str(journal))
        pool.offer(stored("orphan"))
        assert results(pool) == ["unknown"]
        program = int(journal.read_text().split()[-1])
        until(lambda: ended(program))

    def test_plugin_that_dies_between_batches_is_started_again(
        self, make_pool: MakePool, stored: Stored
    ) -> None:
        pool = make_pool()
        pool.offer(stored("done"))
        outcomes_of(pool)
        (child,) = workers()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        pool.offer(stored("done"))
        assert results(pool) == ["done"]


class TestStart:
    @pytest.mark.parametrize(
        ("start", "error", "words"),
        [
            ("notready", NotReady, "being moved"),
            ("misconfigured", Misconfigured, "wrong password"),
            ("import", Misconfigured, "No module named 'lsst'"),
            ("raise", NotReady, "it went wrong"),
            ("segfault", NotReady, "SIGSEGV"),
            ("exit", NotReady, "SystemExit"),
        ],
    )
    def test_plugin_that_cannot_start_stops_everything(
        self,
        make_pool: MakePool,
        stored: Stored,
        start: str,
        error: type[Exception],
        words: str,
    ) -> None:
        pool = make_pool(start=start)
        pool.offer(stored("done", "already"))
        with pytest.raises(error, match=words):
            outcomes_of(pool)
        assert pool.unoffered == [1, 2]
        assert not pool.busy

    def test_host_that_can_start_no_process_stops_everything(
        self, make_pool: MakePool, stored: Stored, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*arguments: object, **more: object) -> None:
            raise BlockingIOError(11, "Resource temporarily unavailable")

        monkeypatch.setattr(subprocess, "Popen", refuse)
        pool = make_pool()
        pool.offer(stored("done"))
        with pytest.raises(NotReady, match="temporarily unavailable"):
            outcomes_of(pool)
        assert pool.unoffered == [1]

    def test_plugin_that_gives_up_leaves_the_rest_unoffered(
        self, make_pool: MakePool, stored: Stored
    ) -> None:
        pool = make_pool()
        pool.offer(stored("done", "notready", "already"))
        assert [outcome.number for outcome in pool.collect(60.0)] == [1]
        with pytest.raises(NotReady):
            outcomes_of(pool)
        assert pool.unoffered == [2, 3]


class TestStop:
    def test_nothing_is_begun_after_the_present_file(
        self, make_pool: MakePool, stored: Stored, tmp_path: Path
    ) -> None:
        os.mkfifo(tmp_path / "fifo")
        pool = make_pool("command", command=f"cat {tmp_path}/fifo {{file}}")
        pool.offer(stored("done.1", "done.2", "done.3"))
        writer = open_when_read(tmp_path / "fifo", meanwhile=lambda: pool.collect(0.01))
        pool.stop()
        os.close(writer)
        outcomes = outcomes_of(pool)
        assert list(outcomes) == [1]
        assert pool.unoffered == [2, 3]

    @pytest.mark.parametrize("plugin", ["naughty", "whole"])
    def test_a_file_that_takes_hours_to_read_is_left(
        self, make_pool: MakePool, stored: Stored, tmp_path: Path, plugin: str
    ) -> None:
        journal = tmp_path / "journal"
        pool = make_pool(plugin, journal=str(journal))
        huge = [replace(file, size_bytes=8 << 40) for file in stored("read.1", "read.2")]
        for file in huge:
            os.truncate(file.path, file.size_bytes)
        pool.offer(huge)
        while not journal.exists():
            pool.collect(0.01)
        pool.stop()
        assert outcomes_of(pool) == {}
        assert pool.unoffered == [1, 2]

    def test_a_batch_is_not_begun_once_that_is_heard(self, stored: Stored, storage: Path) -> None:
        """Also if files that are missing were reported first."""
        asked = []

        class Whole(Plugin):
            def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
                asked.extend(files)
                yield from ()

        files = stored("gone", "here")
        os.unlink(files[0].path)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            made = child._Child(theirs)
            made._plugin = Whole(None, Context("a", "here", str(storage), "/", 60.0))
            made._timeout = 60.0
            ours.sendall(messages.frame(messages.STOP))
            # Not by itself: its watchdog, left on, would end the process of the tests.
            made._guarded(made._ingest, pickle.dumps(files))
            said = list(messages.Frames().feed(ours.recv(1 << 20)))
        assert [message[:3] for message in said] == [
            (messages.OUTCOME, 1, "missing"),
            (messages.END, True),
        ]
        assert asked == []

    def test_half_a_message_does_not_put_off_the_time_limit(
        self, make_pool: MakePool, stored: Stored
    ) -> None:
        pool = make_pool("naughty", timeout=QUICK)
        pool.offer(stored("mumble"))
        (outcome,) = outcomes_of(pool).values()
        assert (outcome.result, "no outcome within" in outcome.message) == (Result.UNKNOWN, True)

    def test_what_is_no_message_of_ours_ends_the_plugin(
        self, make_pool: MakePool, stored: Stored
    ) -> None:
        pool = make_pool("naughty")
        pool.offer(stored("babble"))
        (outcome,) = outcomes_of(pool).values()
        assert (outcome.result, "killed" in outcome.message) == (Result.UNKNOWN, True)

    def test_output_without_end_does_not_put_off_the_time_limit(
        self, make_pool: MakePool, stored: Stored
    ) -> None:
        pool = make_pool("naughty", timeout=QUICK)
        pool.offer(stored("chatter"))
        (outcome,) = outcomes_of(pool).values()
        assert (outcome.result, "no outcome within" in outcome.message) == (Result.UNKNOWN, True)
        assert len(outcome.message) < 2000

    def test_interrupt_ends_at_once_and_names_the_files_begun(
        self, make_pool: MakePool, stored: Stored, tmp_path: Path
    ) -> None:
        journal = tmp_path / "journal"
        pool = make_pool(journal=str(journal))
        pool.offer(stored("done", "hang", "already"))
        assert [outcome.number for outcome in pool.collect(60.0)] == [1]
        pool.interrupt()
        assert outcomes_of(pool) == {}
        assert pool.interrupted == [2, 3]


@pytest.mark.promise
class TestParent:
    PARENT = """
import logging, sys
from dbbbatch.targets.plugin import Context, StoredFile
from dbbbatch.targets.pool import WorkerPool
from dbbbatch.targets.worker import Launch
path, journal = sys.argv[1:]
context = Context("a", "here", "/", "/", 600.0)
pool = WorkerPool(Launch("naughty", {"journal": journal}, context), 1, logging.getLogger())
pool.offer([StoredFile(1, path, "", "orphan", 4)])
pool.collect(600.0)
"""

    def test_worker_and_its_programs_end_when_the_pass_is_killed(
        self, naughty: None, stored: Stored, tmp_path: Path
    ) -> None:
        journal = tmp_path / "journal"
        (file,) = stored("orphan")
        pass_ = subprocess.Popen(
            [sys.executable, "-c", self.PARENT, file.path, str(journal)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        try:
            until(lambda: journal.exists() and len(journal.read_text().split()) == 2)
            family = psutil.Process(pass_.pid).children(recursive=True)
            assert len(family) == 2
        finally:
            pass_.kill()
            pass_.wait()
        until(lambda: all(ended(process.pid) for process in family))

    def test_worker_inherits_no_descriptor(
        self, make_pool: MakePool, stored: Stored, tmp_path: Path
    ) -> None:
        with open(tmp_path / "lock", "w") as lock:
            os.set_inheritable(lock.fileno(), True)
            pool = make_pool()
            pool.offer(stored("done"))
            outcomes_of(pool)
            (child,) = workers()
            held = {os.readlink(path) for path in Path(f"/proc/{child.pid}/fd").iterdir()}
        assert str(tmp_path / "lock") not in held


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
