"""Workers contain whatever a plugin does; only the file in hand is charged with it."""

import os
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
from dbbbatch.targets.plugin import Misconfigured, NotReady, Outcome, Plugin, StoredFile
from dbbbatch.targets.pool import WorkerPool
from dbbbatch.targets.verdict import Kind
from tests.targets.conftest import MakeCrew, open_when_read, tell, until

Stored = Callable[..., list[StoredFile]]

QUICK = 1.0


def kinds(crew: WorkerPool) -> list[str]:
    verdicts = tell(crew)
    return [verdicts[number].kind.value for number in sorted(verdicts)]


def workers() -> list[psutil.Process]:
    """Give the plugin processes of this process, which has servers of other tests as well."""
    alive = (p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE)
    return [p for p in alive if "dbbbatch.targets.child" in " ".join(p.cmdline())]


class TestOutcomes:
    def test_each_result_is_told(self, make_crew: MakeCrew, stored: Stored) -> None:
        crew = make_crew()
        crew.offer(stored("done", "already", "later", "failed", "never", "partly"))
        assert kinds(crew) == ["done", "already", "later", "failed", "never", "partly"]

    def test_version_of_the_plugin_is_told(self, make_crew: MakeCrew, stored: Stored) -> None:
        crew = make_crew()
        crew.offer(stored("done"))
        assert tell(crew)[1].version == "7.0"

    def test_parts_and_checksums_are_told(self, make_crew: MakeCrew, stored: Stored) -> None:
        crew = make_crew()
        crew.offer(stored("partly", "sum"))
        verdicts = tell(crew)
        assert verdicts[1].parts_done == {"first"}
        assert verdicts[2].checksums == {"md5": "00"}

    def test_duration_is_that_of_the_file(self, make_crew: MakeCrew, stored: Stored) -> None:
        before = time.monotonic()
        crew = make_crew()
        crew.offer(stored("done", "already"))
        verdicts = tell(crew)
        first, second = verdicts[1], verdicts[2]
        assert before < first.begun <= first.begun + first.seconds <= second.begun

    def test_files_of_later_batches_go_to_the_same_process(
        self, make_crew: MakeCrew, stored: Stored
    ) -> None:
        crew = make_crew()
        crew.offer(stored("done"))
        tell(crew)
        (first,) = workers()
        crew.offer(stored("done"))
        tell(crew)
        assert workers() == [first]

    def test_several_workers_share_the_batches(
        self, make_crew: MakeCrew, stored: Stored, storage: Path
    ) -> None:
        crew = make_crew(workers=2)
        files = stored("done", "already", "failed")
        crew.offer(files[:1])
        assert crew.free
        crew.offer(files[1:2])
        assert not crew.free
        assert kinds(crew) == ["done", "already"]

    def test_no_process_is_started_before_there_is_a_file(self, make_crew: MakeCrew) -> None:
        make_crew()
        assert workers() == []


class TestFilesThatAreNotOffered:
    def test_file_that_is_gone_is_missing(self, make_crew: MakeCrew, stored: Stored) -> None:
        files = stored("done", "raise")
        os.unlink(files[1].path)
        crew = make_crew()
        crew.offer(files)
        assert kinds(crew) == ["done", "missing"]

    def test_empty_file_is_empty(self, make_crew: MakeCrew, stored: Stored, storage: Path) -> None:
        (storage / "empty").touch()
        crew = make_crew()
        crew.offer([StoredFile(1, str(storage / "empty"), "", "empty", 0)])
        assert kinds(crew) == ["empty"]

    def test_file_of_another_size_is_altered(self, make_crew: MakeCrew, stored: Stored) -> None:
        (file,) = stored("done")
        Path(file.path).write_bytes(b"")
        crew = make_crew()
        crew.offer([file])
        assert kinds(crew) == ["altered"]

    def test_directory_is_altered(self, make_crew: MakeCrew, storage: Path) -> None:
        crew = make_crew()
        crew.offer([StoredFile(1, str(storage), "", "storage", 4)])
        assert kinds(crew) == ["altered"]

    def test_failure_of_a_file_that_went_is_missing(
        self, make_crew: MakeCrew, stored: Stored, tmp_path: Path
    ) -> None:
        (file,) = stored("gone")
        crew = make_crew(
            "command",
            command=f"{sys.executable} -c 'import os, sys; "
            "os.unlink(sys.argv[1]); sys.exit(1)' {file}",
        )
        crew.offer([file])
        assert kinds(crew) == ["missing"]


CULPRITS = [
    ("segfault", "SIGSEGV"),
    ("exit", "SystemExit: 3"),
    ("vanish", "exit code 4"),
    ("hang", "no outcome within 1 s"),
]


@pytest.mark.promise
class TestContained:
    @pytest.mark.parametrize(("culprit", "reason"), CULPRITS)
    def test_only_the_file_in_hand_is_unknown(
        self, make_crew: MakeCrew, stored: Stored, culprit: str, reason: str
    ) -> None:
        crew = make_crew(timeout=QUICK)
        crew.offer(stored("done.1", culprit, "done.2", "done.3"))
        verdicts = tell(crew)
        assert [verdicts[n].kind for n in (1, 2, 3, 4)] == [
            Kind.DONE,
            Kind.UNKNOWN,
            Kind.DONE,
            Kind.DONE,
        ]
        assert reason in verdicts[2].message

    @pytest.mark.parametrize(("culprit", "reason"), CULPRITS)
    def test_culprit_in_a_batch_that_is_told_at_its_end_is_found(
        self, make_crew: MakeCrew, stored: Stored, culprit: str, reason: str
    ) -> None:
        names = [f"done.{number}" for number in range(24)]
        crew = make_crew("whole", timeout=QUICK)
        crew.offer(stored(*names[:12], culprit, *names[12:]))
        verdicts = tell(crew)
        assert [n for n, v in verdicts.items() if v.kind is Kind.UNKNOWN] == [13]
        assert reason in verdicts[13].message
        assert sum(v.kind is Kind.DONE for v in verdicts.values()) == 24

    def test_memory_beyond_the_limit(self, make_crew: MakeCrew, stored: Stored) -> None:
        crew = make_crew(memory_limit=1 << 29)
        crew.offer(stored("done", "memory", "already"))
        verdicts = tell(crew)
        assert [verdicts[n].kind.value for n in (1, 2, 3)] == ["done", "unknown", "already"]
        assert "memory_limit" in verdicts[2].message

    def test_exception_costs_the_file_in_hand(self, make_crew: MakeCrew, stored: Stored) -> None:
        crew = make_crew()
        crew.offer(stored("done", "raise", "already"))
        verdicts = tell(crew)
        assert [verdicts[n].kind.value for n in (1, 2, 3)] == ["done", "failed", "already"]
        assert verdicts[2].message == "RuntimeError: it went wrong; from OSError: deep down"

    def test_exception_in_a_whole_batch_costs_the_culprit(
        self, make_crew: MakeCrew, stored: Stored
    ) -> None:
        crew = make_crew("whole")
        crew.offer(stored("done", "raise", "already"))
        assert kinds(crew) == ["done", "failed", "already"]

    def test_output_does_no_harm(self, make_crew: MakeCrew, stored: Stored) -> None:
        crew = make_crew()
        crew.offer(stored("shout", "done"))
        assert kinds(crew) == ["done", "done"]

    def test_last_words_are_part_of_the_reason(self, make_crew: MakeCrew, stored: Stored) -> None:
        crew = make_crew()
        crew.offer(stored("segfault"))
        assert "naughty.py" in tell(crew)[1].message

    def test_programs_of_a_hanging_plugin_are_ended(
        self, make_crew: MakeCrew, stored: Stored, tmp_path: Path
    ) -> None:
        journal = tmp_path / "journal"
        crew = make_crew(timeout=QUICK, journal=str(journal))
        crew.offer(stored("orphan"))
        assert kinds(crew) == ["unknown"]
        program = int(journal.read_text().split()[-1])
        until(lambda: ended(program))

    def test_plugin_that_dies_between_batches_is_started_again(
        self, make_crew: MakeCrew, stored: Stored
    ) -> None:
        crew = make_crew()
        crew.offer(stored("done"))
        tell(crew)
        (child,) = workers()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        crew.offer(stored("done"))
        assert kinds(crew) == ["done"]


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
        make_crew: MakeCrew,
        stored: Stored,
        start: str,
        error: type[Exception],
        words: str,
    ) -> None:
        crew = make_crew(start=start)
        crew.offer(stored("done", "already"))
        with pytest.raises(error, match=words):
            tell(crew)
        assert crew.unoffered == [1, 2]
        assert not crew.busy

    def test_host_that_can_start_no_process_stops_everything(
        self, make_crew: MakeCrew, stored: Stored, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*arguments: object, **more: object) -> None:
            raise BlockingIOError(11, "Resource temporarily unavailable")

        monkeypatch.setattr(subprocess, "Popen", refuse)
        crew = make_crew()
        crew.offer(stored("done"))
        with pytest.raises(NotReady, match="temporarily unavailable"):
            tell(crew)
        assert crew.unoffered == [1]

    def test_plugin_that_gives_up_leaves_the_rest_unoffered(
        self, make_crew: MakeCrew, stored: Stored
    ) -> None:
        crew = make_crew()
        crew.offer(stored("done", "notready", "already"))
        assert [verdict.number for verdict in crew.collect(60.0)] == [1]
        with pytest.raises(NotReady):
            tell(crew)
        assert crew.unoffered == [2, 3]


class TestStop:
    def test_nothing_is_begun_after_the_file_in_hand(
        self, make_crew: MakeCrew, stored: Stored, tmp_path: Path
    ) -> None:
        os.mkfifo(tmp_path / "fifo")
        crew = make_crew("command", command=f"cat {tmp_path}/fifo {{file}}")
        crew.offer(stored("done.1", "done.2", "done.3"))
        writer = open_when_read(tmp_path / "fifo", meanwhile=lambda: crew.collect(0.01))
        crew.stop()
        os.close(writer)
        verdicts = tell(crew)
        assert list(verdicts) == [1]
        assert crew.unoffered == [2, 3]

    @pytest.mark.parametrize("plugin", ["naughty", "whole"])
    def test_a_file_that_takes_hours_to_read_is_left(
        self, make_crew: MakeCrew, stored: Stored, tmp_path: Path, plugin: str
    ) -> None:
        journal = tmp_path / "journal"
        crew = make_crew(plugin, journal=str(journal))
        huge = [replace(file, size_bytes=8 << 40) for file in stored("read.1", "read.2")]
        for file in huge:
            os.truncate(file.path, file.size_bytes)
        crew.offer(huge)
        while not journal.exists():
            crew.collect(0.01)
        crew.stop()
        assert tell(crew) == {}
        assert crew.unoffered == [1, 2]

    def test_a_batch_is_not_begun_once_that_is_heard(self, stored: Stored) -> None:
        """Also where files that are missing were told first."""
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
            made._plugin = Whole(None, None)  # type: ignore[arg-type]
            made._timeout = 60.0
            ours.sendall(messages.frame(messages.STOP))
            made._ingest([child.pack(file) for file in files])
            said = list(messages.Frames().feed(ours.recv(1 << 20)))
        assert [message[:3] for message in said] == [
            (messages.OUTCOME, 1, "missing"),
            (messages.END, True),
        ]
        assert asked == []

    def test_half_a_message_does_not_put_off_the_time_limit(
        self, make_crew: MakeCrew, stored: Stored
    ) -> None:
        crew = make_crew("naughty", timeout=QUICK)
        crew.offer(stored("mumble"))
        (verdict,) = tell(crew).values()
        assert (verdict.kind, "no outcome within" in verdict.message) == (Kind.UNKNOWN, True)

    def test_what_is_no_message_of_ours_ends_the_plugin(
        self, make_crew: MakeCrew, stored: Stored
    ) -> None:
        crew = make_crew("naughty")
        crew.offer(stored("babble"))
        (verdict,) = tell(crew).values()
        assert (verdict.kind, "killed" in verdict.message) == (Kind.UNKNOWN, True)

    def test_output_without_end_does_not_put_off_the_time_limit(
        self, make_crew: MakeCrew, stored: Stored
    ) -> None:
        crew = make_crew("naughty", timeout=QUICK)
        crew.offer(stored("chatter"))
        (verdict,) = tell(crew).values()
        assert (verdict.kind, "no outcome within" in verdict.message) == (Kind.UNKNOWN, True)
        assert len(verdict.message) < 2000

    def test_interrupt_ends_at_once_and_says_what_was_in_hand(
        self, make_crew: MakeCrew, stored: Stored, tmp_path: Path
    ) -> None:
        journal = tmp_path / "journal"
        crew = make_crew(journal=str(journal))
        crew.offer(stored("done", "hang", "already"))
        assert [verdict.number for verdict in crew.collect(60.0)] == [1]
        crew.interrupt()
        assert tell(crew) == {}
        assert crew.interrupted == [2, 3]


@pytest.mark.promise
class TestParent:
    PARENT = """
import logging, sys
from dbbbatch.targets.base import Context, StoredFile
from dbbbatch.targets.crew import Crew
from dbbbatch.targets.worker import Launch
path, journal = sys.argv[1:]
context = Context("a", "here", "/", "/", 600.0)
crew = Crew(Launch("naughty", {"journal": journal}, context), 1, logging.getLogger())
crew.offer([StoredFile(1, path, "", "orphan", 4)])
crew.collect(600.0)
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
        self, make_crew: MakeCrew, stored: Stored, tmp_path: Path
    ) -> None:
        with open(tmp_path / "lock", "w") as lock:
            os.set_inheritable(lock.fileno(), True)
            crew = make_crew()
            crew.offer(stored("done"))
            tell(crew)
            (child,) = workers()
            held = {os.readlink(path) for path in Path(f"/proc/{child.pid}/fd").iterdir()}
        assert str(tmp_path / "lock") not in held


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
