"""The lines of crontab.example, run by cron, carry files to both targets and print nothing."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.scripts import CRON_ENVIRONMENT, TOP
from tests.support.site import Site, tree
from tests.support.ssh import SshServer

CRON = shutil.which("cron") or ("/usr/sbin/cron" if Path("/usr/sbin/cron").exists() else None)

#: Seconds until all must have arrived: cron begins at the next full minute.
PATIENCE = 150


@pytest.fixture
def backend() -> str:
    return "sqlite"


@pytest.fixture
def site(tmp_path: Path, database_url: str, ssh_server: SshServer, fits_files: list[Path]) -> Site:
    """Return the site that crontab.example is about, its buffer full of FITS files."""
    made = Site(tmp_path / "site", database_url, ssh_server)
    register = made.root / "register"
    register.write_text(f'#!/bin/sh\nbasename "$1" >>{made.root}/catalog\n')
    register.chmod(0o755)
    by_night = made.root / "by-night"
    by_night.mkdir()
    made.write(
        targets={
            "catalog": {"plugin": "command", "config": {"command": f"{register} {{file}}"}},
            "by-night": {"plugin": "link", "config": {"root": by_night}},
        },
        handoff={"min_free": 0},
        finder={"min_free": 0},
    )
    assert made.run("dbb", "init").code == 0
    for n, path in enumerate(fits_files):
        made.put(f"2026-11-{n % 3 + 22}/{path.name}", path.read_bytes())
    return made


def crontab(site: Site, **settings: str) -> str:
    """Return crontab.example with other settings; the lines of the jobs stay as they are."""
    scripts = Path(sys.executable).parent
    assert (scripts / "dbb-handoff").exists(), "dbbbatch is not installed beside this Python"
    values = {"PATH": f"{scripts}:/usr/bin:/bin", "DBB_CONFIG": str(site.config), **settings}
    text = (TOP / "crontab.example").read_text()
    for name, value in values.items():
        text, count = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
        assert count == 1
    for directory in ("/backup/", "/var/www/html/", "/var/lib/prometheus/node-exporter/"):
        text = text.replace(directory, f"{site.root}/")
    return text


def jobs(text: str) -> list[str]:
    """Return the commands that cron starts every minute."""
    return [line.split(None, 5)[5] for line in text.splitlines() if line.startswith("* ")]


def wait_until_all_arrived(
    site: Site, sent: dict[str, bytes], fault: Callable[[], str], killed: bool = False
) -> None:
    """Wait until both targets have every file; fail at once if `fault` says why they never will.

    A file that was in hand when its pass was killed is registered once more.
    """
    by_night, catalog = site.root / "by-night", site.root / "catalog"
    deadline = time.monotonic() + PATIENCE
    while True:
        listed = catalog.read_text().split() if catalog.exists() else []
        linked = list(by_night.rglob("*.fits"))
        if len(set(listed)) >= len(sent) and len(linked) >= len(sent) and not tree(site.buffer):
            break
        assert not fault(), fault()
        assert time.monotonic() < deadline, (len(listed), len(linked), len(sent))
        time.sleep(0.1)
    listed = sorted(set(listed) if killed else listed)
    assert listed == sorted(Path(rel).name for rel in sent)
    assert tree(site.holding) == sent
    assert tree(site.storage) == sent


@pytest.mark.promise
def test_its_command_lines_in_crons_environment(site: Site) -> None:
    text = crontab(site)
    settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    sent = tree(site.buffer)
    variables = [f"{name}={value}" for name, value in {**CRON_ENVIRONMENT, **settings}.items()]
    running = [
        subprocess.Popen(
            ["env", "-i", *variables, "/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
        )
        for command in jobs(text)
    ]
    assert len(running) >= 4
    try:
        wait_until_all_arrived(site, sent, lambda: _ended_badly(running))
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGTERM)
        said = [process.communicate(timeout=60)[0].decode() for process in running]
    assert said == [""] * len(running)


def _ended_badly(running: list["subprocess.Popen[bytes]"]) -> str:
    ended = [process for process in running if process.poll() is not None]
    return "\n".join(f"{p.args}: ended with {p.returncode}" for p in ended if p.returncode)


#: Times that the lines of every minute are started, seconds between two of them, and the files.
ROUNDS = 9
BETWEEN = 3.0
BACKLOG = 240


class SideBySide:
    """The jobs of a crontab, started again and again whatever is still at work."""

    def __init__(self, text: str, output: Path) -> None:
        self._text = text
        self._output = output
        settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
        values = {**CRON_ENVIRONMENT, **settings}
        self._variables = [f"{name}={value}" for name, value in values.items()]
        self._started: list[tuple[str, subprocess.Popen[bytes], Path]] = []
        self._killed: set[int] = set()
        output.mkdir()

    def start(self, command: str) -> None:
        said = self._output / f"{len(self._started)}"
        with said.open("wb") as file:
            process = subprocess.Popen(
                ["env", "-i", *self._variables, "/bin/sh", "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )
        self._started.append((command, process, said))

    def kill_oldest(self, script: str) -> None:
        """Kill what cron would know of the longest-lived pass of a script: its process group."""
        for command, process, _ in self._started:
            if command.startswith(script) and process.poll() is None:
                self._killed.add(process.pid)
                os.killpg(process.pid, signal.SIGKILL)
                return

    def end(self) -> list[str]:
        """End all; give what was not as it should be."""
        ended_here = set()
        for _, process, _ in self._started:
            if process.poll() is None:
                ended_here.add(process.pid)
                os.killpg(process.pid, signal.SIGTERM)
        wrong = []
        for command, process, said in self._started:
            code, printed = process.wait(timeout=60), said.read_text()
            codes = {0}
            if process.pid in ended_here:
                codes = {0, 75, -signal.SIGTERM}
            elif process.pid in self._killed:
                codes = {-signal.SIGKILL}
            if code not in codes or printed:
                wrong.append(f"{command}: ended with {code} and printed: {printed}")
        return wrong

    def fault(self) -> str:
        return "\n".join(
            f"{command}: ended with {process.returncode}: {said.read_text()}"
            for command, process, said in self._started
            if process.poll() not in (None, 0, -signal.SIGKILL)
        )


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_its_lines_beside_each_other_while_work_outlasts_their_interval(
    site: Site, tmp_path: Path, backend: str
) -> None:
    slow = site.root / "slow"
    slow.write_text('#!/bin/sh\nsleep 2\nexec "$@"\n')
    register = site.root / "register"
    register.write_text(f'#!/bin/sh\nsleep 0.1\nbasename "$1" >>{site.root}/catalog\n')
    for script in (slow, register):
        script.chmod(0o755)
    site.write(
        targets={
            "catalog": {"plugin": "command", "config": {"command": f"{register} {{file}}"}},
            "by-night": {"plugin": "link", "config": {"root": site.root / "by-night"}},
        },
        # Small batches, so that work is left when a pass is killed.
        handoff={"min_free": 0, "batch_files": 30, "streams": 1},
        endpoint={"transfer": f"{slow} {site.ssh.rsync if site.ssh else ''}"},
        finder={"min_free": 0, "batch_files": 20},
    )
    for n in range(BACKLOG):
        site.put(f"2026-11-{n % 5 + 10}/{n:04}.fits", f"{n} ".encode() * 900)
    sent = tree(site.buffer)
    text = crontab(site)
    lines = [line for line in text.splitlines() if re.match(r"[\d*]+ [\d* ]+ ", line)]
    every_minute = jobs(text)
    others = [line.split(None, 5)[5].replace("\\%", "%") for line in lines if line[0] != "*"]
    others = [command for command in others if "dbb-report" not in command]  # it makes a mail
    assert (len(every_minute), len(others)) == (4, 3)
    if backend == "postgresql":  # the backup is of an SQLite database
        others = [command for command in others if "dbb backup" not in command]
    running = SideBySide(text, tmp_path / "said")
    wrong = None
    try:
        for number in range(ROUNDS):
            for command in every_minute:
                running.start(command)
            if number < len(others):
                running.start(others[number])
            time.sleep(BETWEEN)
            if number % 2:
                running.kill_oldest(("dbb-handoff", "dbb-finder", "dbb-ingester")[number // 2 % 3])
        wait_until_all_arrived(site, sent, running.fault, killed=True)
    finally:
        wrong = running.end()
    assert wrong == []


@pytest.fixture
def cron(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Yield a function that starts a real cron daemon with one crontab and nothing else to do.

    It lives in mount and process namespaces of its own, where the system's crontabs are hidden; all
    its jobs end with it. The function gives the directory where what jobs print is kept.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can start a cron daemon")
    if not CRON:
        pytest.skip("no cron here (package cron)")
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("namespaces are not allowed here")
    started: list[subprocess.Popen[bytes]] = []
    printed = tmp_path / "printed"
    printed.mkdir()
    shell = tmp_path / "shell"
    shell.write_text(f'#!/bin/sh\nexec /bin/sh "$@" >{printed}/$$ 2>&1\n')
    shell.chmod(0o755)
    table = tmp_path / "crontab"

    def start(text: str) -> Path:
        table.write_text(text.replace("SHELL=/bin/sh", f"SHELL={shell}"))
        script = f"""
            set -e
            mount -t tmpfs none /run
            mount -t tmpfs none /etc/cron.d
            test ! -e /etc/crontab || mount --bind /dev/null /etc/crontab
            mkdir -p /var/spool/cron
            mount -t tmpfs none /var/spool/cron
            install -d -m 1730 /var/spool/cron/crontabs
            install -m 600 {table} /var/spool/cron/crontabs/root
            exec {CRON} -f
        """
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        started.append(
            subprocess.Popen(
                [*command, "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=(tmp_path / "cron.log").open("wb"),
                stderr=subprocess.STDOUT,
            )
        )
        return printed

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.promise
def test_a_real_cron_daemon(site: Site, cron: Callable[[str], Path], tmp_path: Path) -> None:
    sent = tree(site.buffer)
    printed = cron(crontab(site))
    wait_until_all_arrived(site, sent, lambda: (tmp_path / "cron.log").read_text())
    outputs = {path.name: path.read_text() for path in printed.iterdir()}
    assert len(outputs) >= 4
    assert set(outputs.values()) == {""}


def test_the_backup_is_silent_and_has_the_day_in_its_name(
    tmp_path: Path, database_url: str
) -> None:
    site = Site(tmp_path / "site", database_url).write()
    (line,) = [line for line in crontab(site).splitlines() if "dbb backup" in line]
    # What cron makes of it: after five fields the command, in which it takes \% for %.
    command = line.split(None, 5)[5].replace("\\%", "%")
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["env", "-i", f"PATH={path}", f"DBB_CONFIG={site.config}", "/bin/sh", "-c", command],
        capture_output=True,
        check=True,
    )
    assert done.stdout + done.stderr == b""
    (made,) = site.root.glob("dbb-*.sqlite")
    assert re.fullmatch(r"dbb-\d{4}-\d\d-\d\d\.sqlite", made.name)
