"""The troubles that an operator must hear of: each begins, is met by one pass, and ends.

Each `TroubleCase` is tried on a small site of its own that was well: what people and programs see
must name it after one pass, and no longer after one more.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbbbatch.config.sections import sqlite_path
from dbbbatch.files.lock import Lock
from dbbbatch.report.health import Level
from tests.support.database import Databases
from tests.support.disks import SmallDisk, small_disk
from tests.support.postgres import Postgres
from tests.support.scripts import Ran
from tests.support.site import SENTINEL, Site
from tests.support.ssh import SshServer, missing

#: Seconds by which what is remembered is made older.
_FOUR_DAYS = 4 * 86400.0


@dataclass
class Ground:
    """What a trouble may need beside the site.

    Attributes
    ----------
    site : `Site`
    ssh : `SshServer` or `None`
        The site's own, which may be stopped.
    disk : `SmallDisk` or `None`
        On which a part of the site lies.
    postgres : `Postgres` or `None`
        The server of its database.
    """

    site: Site
    ssh: SshServer | None = None
    postgres: Postgres | None = None
    disk: SmallDisk | None = None


@dataclass(frozen=True, kw_only=True)
class TroubleCase:
    """A trouble, and what must be seen of it.

    Attributes
    ----------
    name : `str`
    ground : callable
        Takes a directory and `Databases`; a context with the `Ground`, that was not written to.
    makes : callable
        Takes the `Ground`; a context in which the trouble lasts.
    script : `str`
        The pass that meets it, and that shows that it is over.
    code : `int` or `None`
        The exit code of the pass that meets it; `None` if no pass comes.
    label : `str`
        The component that is in trouble; '' for the whole site.
    what : `str`
        As `Trouble.what` has it.
    shows : `str`
        A regular expression that is found in what people see.
    level : `Level`
    keys : mapping
        Arguments of `Site.write`.
    """

    name: str
    makes: Callable[[Ground], AbstractContextManager[None]]
    script: str
    code: int | None
    label: str
    what: str
    shows: str
    level: Level
    ground: Callable[[Path, Databases], AbstractContextManager[Ground]]
    keys: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the name, as the identifier of a test."""
        return self.name.replace(" ", "-")

    @contextmanager
    def prepared(self, directory: Path, databases: Databases) -> Iterator[Ground]:
        """Make a site on which all passes were well once."""
        with self.ground(directory, databases) as ground:
            site = ground.site.write(**self.keys)
            site.put("night/first.fits")
            for script in ("dbb-handoff", "dbb-finder", "dbb-ingester", "dbb-janitor"):
                ran = site.run(script)
                assert ran == Ran(0, "", ""), f"{script}: {ran}"
            yield ground

    def meet(self, site: Site) -> Ran | None:
        """Run the pass that meets the trouble, if there is one, with a new file for it."""
        if self.code is None:
            return None
        ran = self.end(site)
        assert ran.code == self.code, f"{self.name}: {ran}"
        return ran

    def end(self, site: Site) -> Ran:
        """Run the pass that shows that the trouble is over."""
        where = site.far_buffer if self.script == "dbb-finder" else site.buffer
        site.put(f"night/{time.monotonic_ns()}.fits", where=where)
        if self.script == "dbb-ingester":
            for before in ("dbb-handoff", "dbb-finder"):
                assert site.run(before) == Ran(0, "", "")
        return site.run(self.script)


@contextmanager
def _plain(directory: Path, databases: Databases) -> Iterator[Ground]:
    with databases.fresh("sqlite", directory) as url:
        yield Ground(Site(directory / "site", url))


@contextmanager
def _over_ssh(directory: Path, databases: Databases) -> Iterator[Ground]:
    import pytest

    if what := missing():
        pytest.skip(what)
    (directory / "ssh").mkdir()
    server = SshServer(directory / "ssh")
    server.start()
    try:
        with databases.fresh("sqlite", directory) as url:
            yield Ground(Site(directory / "site", url, server), ssh=server)
    finally:
        server.stop()


@contextmanager
def _on_postgresql(directory: Path, databases: Databases) -> Iterator[Ground]:
    with databases.fresh("postgresql", directory) as url:
        yield Ground(Site(directory / "site", url), postgres=databases.postgres)


@contextmanager
def _state_on_a_disk(directory: Path, databases: Databases) -> Iterator[Ground]:
    with databases.fresh("sqlite", directory) as url:
        site = Site(directory / "site", url)
        shutil.rmtree(site.state)
        with small_disk(site.state, 64 << 20) as disk:
            yield Ground(site, disk=disk)


@contextmanager
def _storage_on_a_disk(directory: Path, databases: Databases) -> Iterator[Ground]:
    with databases.fresh("sqlite", directory) as url:
        site = Site(directory / "site", url)
        shutil.rmtree(site.storage)
        with small_disk(site.storage, 16 << 20) as disk:
            (site.storage / SENTINEL).touch()
            yield Ground(site, disk=disk)


@contextmanager
def _keys(ground: Ground, **keys: Any) -> Iterator[None]:
    """Let the configuration be another one for a while."""
    before = ground.site.config.read_bytes()
    ground.site.write(**keys)
    yield
    ground.site.config.write_bytes(before)


@contextmanager
def _network_down(ground: Ground) -> Iterator[None]:
    assert ground.ssh is not None
    ground.ssh.stop()
    yield
    ground.ssh.start()


@contextmanager
def _wrong_host_key(ground: Ground) -> Iterator[None]:
    assert ground.ssh is not None
    known = ground.ssh.directory / "known_hosts"
    right = known.read_text()
    other = (ground.ssh.directory / "user_key.pub").read_text()
    known.write_text(f"{right.split(' ')[0]} {other}")
    yield
    known.write_text(right)


@contextmanager
def _disk_full(ground: Ground) -> Iterator[None]:
    assert ground.disk is not None
    ground.disk.fill(blocks=4)
    yield
    ground.disk.make_room()


@contextmanager
def _away(path: Path) -> Iterator[None]:
    """Let a directory or file not be where it is expected."""
    beside = path.with_name(f"{path.name}.away")
    path.rename(beside)
    yield
    beside.rename(path)


@contextmanager
def _no_plugin(ground: Ground) -> Iterator[None]:
    """Name a plugin of an installed package that cannot be imported."""
    packages = ground.site.root / "packages"
    about = packages / "broken_plugin-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[dbbbatch.targets]\nbroken = broken_plugin:Broken\n")
    (packages / "broken_plugin.py").write_text("import a_module_that_is_not_installed\n")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(packages), before)))
    sys.path.insert(0, str(packages))
    try:
        with _keys(ground, targets={"a": {"plugin": "broken"}}):
            yield
    finally:
        sys.path.remove(str(packages))
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


@contextmanager
def _lock_not_writable(ground: Ground) -> Iterator[None]:
    """Put something in the place of a lock that even root cannot write."""
    lock = ground.site.state / "locks" / "handoff.latiss.lock"
    lock.unlink()
    lock.mkdir()
    yield
    lock.rmdir()


@contextmanager
def _cron_dead(ground: Ground) -> Iterator[None]:
    """Let all that is remembered of passes be four days older."""
    connection = sqlite3.connect(sqlite_path(ground.site.database_url))
    for column in ("started", "finished"):
        connection.execute(
            f"UPDATE run SET {column} = strftime('%Y-%m-%d %H:%M:%f000', {column}, '-4 days')"
            f" WHERE {column} IS NOT NULL AND script = 'finder'"
        )
    connection.commit()
    connection.close()
    memory = ground.site.state / "passes" / "finder.latiss.json"
    found = json.loads(memory.read_text())
    for key in ("started", "finished", "last_ok"):
        found[key] -= _FOUR_DAYS
    memory.write_text(json.dumps(found))
    yield


@contextmanager
def _pass_hangs(ground: Ground) -> Iterator[None]:
    """Hold a lock, since two days as it seems."""
    directory = ground.site.state / "locks"
    with Lock(directory, "handoff.latiss"):
        path = directory / "handoff.latiss.lock"
        holder = json.loads(path.read_text())
        holder["since"] -= 2 * 86400
        holder["uptime"] -= 2 * 86400
        path.write_text(json.dumps(holder))
        yield


@contextmanager
def _file_fails(ground: Ground) -> Iterator[None]:
    """Let a target refuse each file, until all are tried again."""
    (ground.site.root / "refuses").touch()
    yield
    (ground.site.root / "refuses").unlink()
    assert ground.site.run("dbb", "retry", "target.a").code == 0


@contextmanager
def _database_down(ground: Ground) -> Iterator[None]:
    assert ground.postgres is not None
    with ground.postgres.down():
        yield


#: A command that refuses files while there is a file `refuses` beside the configuration.
_REFUSING = (
    "sh -c 'test ! -e \"${{1%/archive/*}}/refuses\" || {{ echo no detector 99; exit 1; }}' - {file}"
)


def _target(plugin: str, **config: Any) -> dict[str, Any]:
    """Return the keys of a site with a plugin."""
    return {"targets": {"a": {"plugin": plugin, "config": config}}}


def _putting_off() -> dict[str, Any]:
    keys = _target("command", command="sh -c 'exit 75' {file}")
    keys["targets"]["a"]["retry_wait"] = 0
    return keys


CASES = [
    TroubleCase(
        name="network down",
        ground=_over_ssh,
        makes=_network_down,
        script="dbb-handoff",
        code=75,
        label="handoff.latiss",
        what="try again later",
        shows="[Cc]onnection refused",
        level=Level.WARNING,
    ),
    TroubleCase(
        name="wrong host key",
        ground=_over_ssh,
        makes=_wrong_host_key,
        script="dbb-handoff",
        code=75,
        label="handoff.latiss",
        what="try again later",
        shows="[Hh]ost key",
        level=Level.WARNING,
    ),
    TroubleCase(
        name="far end full",
        ground=_over_ssh,
        makes=lambda ground: _keys(ground, handoff={"min_free": "900 TiB"}),
        script="dbb-handoff",
        code=75,
        label="handoff.latiss",
        what="try again later",
        shows="900 TiB|min_free",
        level=Level.WARNING,
    ),
    TroubleCase(
        name="near end full",
        ground=_state_on_a_disk,
        makes=_disk_full,
        script="dbb-handoff",
        code=75,
        label="",
        what="no room",
        shows="could not be recorded|less than",
        level=Level.WARNING,
    ),
    TroubleCase(
        name="storage gone",
        ground=_plain,
        makes=lambda ground: _away(ground.site.storage),
        script="dbb-finder",
        code=75,
        label="finder.latiss",
        what="try again later",
        shows="storage area is not there",
        level=Level.WARNING,
    ),
    TroubleCase(
        name="storage full",
        ground=_storage_on_a_disk,
        keys={"finder": {"min_free": "1 MiB"}},
        makes=_disk_full,
        script="dbb-finder",
        code=75,
        label="finder.latiss",
        what="no room",
        shows="free, less than 1.0 MB",
        level=Level.WARNING,
    ),
    TroubleCase(
        name="target at 75",
        ground=_plain,
        makes=lambda ground: _keys(ground, **_target("link", root=f"{ground.site.root}/tree")),
        script="dbb-ingester",
        code=75,
        label="target.a",
        what="try again later",
        shows="/tree: .*is not there",
        level=Level.WARNING,
    ),
    TroubleCase(
        name="files put off by a target",
        ground=_plain,
        makes=lambda ground: _keys(ground, **_putting_off()),
        script="dbb-ingester",
        code=0,
        label="target.a",
        what="put off",
        shows="exit code 75",
        level=Level.WARNING,
    ),
    TroubleCase(
        name="target at 78",
        ground=_plain,
        makes=lambda ground: _keys(ground, **_target("command", command="/no/such/program {file}")),
        script="dbb-ingester",
        code=78,
        label="target.a",
        what="configuration",
        shows="/no/such/program",
        level=Level.CRITICAL,
    ),
    TroubleCase(
        name="plugin cannot be imported",
        ground=_plain,
        makes=_no_plugin,
        script="dbb-ingester",
        code=78,
        label="target.a",
        what="configuration",
        shows="cannot be imported.*a_module_that_is_not_installed",
        level=Level.CRITICAL,
    ),
    TroubleCase(
        name="database away",
        ground=_on_postgresql,
        keys={"database": {"patience": "1s"}},
        makes=_database_down,
        script="dbb-handoff",
        code=75,
        label="",
        what="database away",
        shows="database is busy or away",
        level=Level.WARNING,
    ),
    TroubleCase(
        name="lock not writable",
        ground=_plain,
        makes=_lock_not_writable,
        script="dbb-handoff",
        code=78,
        label="handoff.latiss",
        what="lock",
        shows=r"locks/handoff\.latiss\.lock",
        level=Level.CRITICAL,
    ),
    TroubleCase(
        name="cron dead",
        ground=_plain,
        keys={"finder": {"expect": "5m"}},
        makes=_cron_dead,
        script="dbb-finder",
        code=None,
        label="finder.latiss",
        what="overdue",
        shows="has not succeeded since",
        level=Level.CRITICAL,
    ),
    TroubleCase(
        name="pass hung",
        ground=_plain,
        makes=_pass_hangs,
        script="dbb-handoff",
        code=0,
        label="handoff.latiss",
        what="hangs",
        shows=rf"pid {os.getpid()}",
        level=Level.CRITICAL,
    ),
    TroubleCase(
        name="file failing",
        ground=_plain,
        keys=_target("command", command=_REFUSING),
        makes=_file_fails,
        script="dbb-ingester",
        code=1,
        label="target.a",
        what="failing",
        shows="no detector 99",
        level=Level.WARNING,
    ),
]
