"""Two hosts with one crontab: the one that works is killed, stopped, or loses the database.

Set DBB_LEASE_EVENTS to how often that happens, and DBB_LEASE_SEED to another choice of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests.killing import picture
from tests.support.database import Databases
from tests.support.preloaded import Started
from tests.support.relay import Relay
from tests.support.scripts import CRON_ENVIRONMENT, TOP
from tests.support.site import Site, tree

pytestmark = pytest.mark.promise

#: How often, and with what; as in crontab.example, but a minute is shorter.
CRONTAB = {
    "handoff": (3.0, ["--linger", "2.5"]),
    "finder": (3.0, ["--linger", "2.5"]),
    "janitor": (5.0, ["--linger", "2"]),
    "auditor": (5.0, ["--linger", "2", "--share", "1"]),
}
EVENTS = ["kill", "stop", "cut", "silence"]
#: What passes may say on stderr: the database was away, or a held file is not in storage yet.
SAID = re.compile(r"is over: |the database is busy or away|past purge_after")
LEASE = 4
PATIENCE = 6
COUNT = int(os.environ.get("DBB_LEASE_EVENTS") or len(EVENTS))


class Host:
    """A host: what it has alone, and its cron."""

    def __init__(self, site: Site, name: str, socket: str) -> None:
        self.relay = Relay(socket)
        self.state = site.root / name
        self.state.mkdir()
        self.log = site.root / f"{name}.log"
        self.config = site.root / f"{name}.toml"
        database = psycopg.conninfo.conninfo_to_dict(site.database_url)["dbname"]
        url = f"postgresql://postgres@127.0.0.1:{self.relay.port}/{database}"
        text = site.config.read_text().replace(site.database_url, url)
        self.config.write_text(text.replace(str(site.state), str(self.state)))
        self.ends: Counter[int] = Counter()
        self._on = threading.Event()
        self._on.set()
        self._over = threading.Event()
        self._starting = threading.Lock()
        self._running: dict[str, int] = {}
        self._stopped: list[psutil.Process] = []
        self._crons = [threading.Thread(target=self._cron, args=(kind,)) for kind in CRONTAB]
        for cron in self._crons:
            cron.start()

    def lock(self, label: str) -> str:
        """Return what tells a lock of this host from others: the end of a lease's holder."""
        status = (self.state / "locks" / f"{label}.lock").stat()
        return f"{status.st_dev}:{status.st_ino}"

    def die(self) -> None:
        """End all that runs, and start no more."""
        self._befalls(signal.SIGKILL, whole=True)

    def freeze(self, whole: bool) -> None:
        """Stop the passes, or all that runs, and start no more."""
        self._stopped = self._befalls(signal.SIGSTOP, whole)

    def recover(self) -> None:
        """Continue as if nothing had been."""
        send(self._stopped, signal.SIGCONT)
        self._stopped = []
        self.relay.mend()
        self._on.set()

    def _befalls(self, number: int, whole: bool) -> list[psutil.Process]:
        with self._starting:
            self._on.clear()
            found = []
            for pid in list(self._running.values()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    found.append(psutil.Process(pid))
                    found += found[-1].children(recursive=True) if whole else []
            send(found, number)
        return found

    def end(self) -> None:
        """Start no more, and wait for what runs."""
        self._over.set()
        self._on.set()
        for cron in self._crons:
            cron.join()

    def run(self, kind: str, *arguments: str) -> int:
        command = [sys.executable, TOP / "bin" / f"dbb-{kind}", *arguments]
        environment = {**os.environ, **CRON_ENVIRONMENT, "DBB_CONFIG": str(self.config)}
        started = None
        while started is None:
            self._on.wait()
            with self._starting:
                if self._on.is_set():
                    started = Started(command, environment, self.log)
                    self._running[kind] = started.pid
        code = started.wait()
        self._running.pop(kind, None)
        return code

    def _cron(self, kind: str) -> None:
        every, arguments = CRONTAB[kind]
        while not self._over.is_set():
            began = time.monotonic()
            self.ends[self.run(kind, "latiss", *arguments)] += 1
            self._over.wait(max(0.1, began + every - time.monotonic()))


def send(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


class Archiver:
    """Puts files into the buffer until it ends; keeps the digests of what it wrote."""

    def __init__(self, site: Site) -> None:
        self.written: dict[str, str] = {}
        self._site = site
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _write(self) -> None:
        for number in range(10**6):
            if self._over.wait(0.2):
                return
            rel = f"{number // 50}/{number}.fits"
            content = f"{number} ".encode() * (100_000 if number % 10 == 0 else 20)
            self.written[rel] = hashlib.sha256(content).hexdigest()
            path = self._site.put(f".new-{number}", content)
            target = self._site.buffer / rel
            target.parent.mkdir(exist_ok=True)
            path.rename(target)


@pytest.fixture
def site(tmp_path: Path, databases: Databases) -> Iterator[Site]:
    with databases.fresh("postgresql", tmp_path) as url:
        made = Site(tmp_path / "site", url)
        confirm = [sys.executable, TOP / "bin" / "dbb", "-c", made.config, "confirm"]
        made.write(
            database={"lease": f"{LEASE}s", "patience": f"{PATIENCE}s"},
            handoff={"purge_after": 0, "min_free": 0, "retry_wait": 1, "exclude": [r"\.new-"]},
            endpoint={"confirm": " ".join(map(str, confirm))},
            finder={"audit_rate": 0, "retry_wait": 1, "max_attempts": 100, "min_free": 0},
            targets={},
        )
        # Here, since what runs the scripts ends with the thread that first asked for one.
        assert made.run("dbb", "init").code == 0
        yield made


@pytest.fixture
def hosts(site: Site, databases: Databases) -> Iterator[list[Host]]:
    socket = f"{databases.postgres.socket}/.s.PGSQL.5432"
    made = [Host(site, name, socket) for name in ("one", "two")]
    yield made
    for host in made:
        host.recover()
        host.end()
        host.relay.close()


def holder(url: str, label: str) -> str | None:
    """Return the lock that has a lease, if one has it now."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT holder FROM component_lease WHERE label = %s"
            " AND expires_at > clock_timestamp() AT TIME ZONE 'UTC'",
            [label],
        ).fetchone()
    return row[0].rpartition(" ")[2] if row else None


def wait_for(found: Any, seconds: float, what: str) -> Any:
    end = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < end, what
        time.sleep(0.05)
    return answer


def befall(host: Host, event: str, whole: bool) -> None:
    {
        "kill": host.die,
        "stop": lambda: host.freeze(whole),
        "cut": host.relay.cut,
        "silence": host.relay.silence,
    }[event]()


@pytest.mark.timeout(600 + 100 * COUNT)
def test_a_host_takes_over_and_nothing_is_lost_doubled_or_stuck(
    site: Site, hosts: list[Host], record_property: Any
) -> None:
    chance = random.Random(os.environ.get("DBB_LEASE_SEED", "1"))
    archiver = Archiver(site)
    slowest: Counter[str] = Counter()
    try:
        for number in range(COUNT):
            label = f"{[*CRONTAB][number % len(CRONTAB)]}.latiss"
            event = EVENTS[(number + number // len(EVENTS)) % len(EVENTS)]
            was = wait_for(lambda of=label: holder(site.database_url, of), 60, f"nobody: {label}")
            host = next(one for one in hosts if one.lock(label) == was)
            time.sleep(chance.uniform(0, 1))
            began = time.monotonic()
            befall(host, event, whole=chance.random() < 0.5)
            wait_for(
                lambda of=label, old=was: holder(site.database_url, of) not in (None, old),
                60,
                f"{label} is stuck after {event}",
            )
            slowest[event] = max(slowest[event], time.monotonic() - began)
            time.sleep(chance.uniform(0, 2))
            host.recover()
    finally:
        for one in hosts:
            one.recover()
        archiver.end()
    said = {event: f"{seconds:.1f} s" for event, seconds in slowest.items()}
    ends = {host.state.name: dict(host.ends) for host in hosts}
    record_property("kill points", f"{COUNT} events; slowest take-over: {said}; ends: {ends}")
    settle(site, hosts)
    found = {
        name: hashlib.sha256(content).hexdigest() for name, content in tree(site.storage).items()
    }
    assert found == archiver.written
    check_tables(site, archiver.written)
    logs = [line for host in hosts for line in host.log.read_text().splitlines()]
    assert not [line for line in logs if not SAID.search(line)]


def settle(site: Site, hosts: list[Host]) -> None:
    """Let one host finish, and see that it can."""
    for host in hosts:
        host.end()
    wait_for(
        lambda: not any(holder(site.database_url, f"{kind}.latiss") for kind in CRONTAB), 60, "held"
    )
    for _ in range(4):
        codes = {kind: hosts[0].run(kind, "latiss") for kind in ("handoff", "finder", "janitor")}
        if not any(tree(where) for where in (site.buffer, site.far_buffer, site.holding)):
            break
    assert set(codes.values()) == {0}
    assert hosts[0].run("auditor", "latiss", "--share", "1") == 0
    for where in (site.buffer, site.far_buffer, site.holding, site.staging):
        assert tree(where) == {}, where
    for where in (site.quarantine, site.storage_quarantine):
        assert tree(where) == {}, where


def check_tables(site: Site, written: dict[str, str]) -> None:
    queries = {table: picture.TABLES[table] for table in ("handoff_file", "file")}
    found = picture.tables(site.database_url, site.root, queries)
    rows = Counter(
        (about.split()[0], row["status"], f"{row['relpath']}/{row['filename']}")
        for about, row in found.items()
    )
    expected = [("handoff_file", "PURGED", name) for name in written]
    expected += [("file", "STORED", name) for name in written]
    assert rows == Counter(expected)
