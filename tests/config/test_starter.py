"""`dbb config new`: a first configuration for each role, which passes its own check."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from dbbbatch.config import starter
from dbbbatch.errors import UsageError
from tests.docs.test_documentation import parse
from tests.support.scripts import TOP, Ran, run_script

#: An ssh that reaches a directory of this machine.
SSH = 'for last; do :; done; exec sh -c "$last"'


def new(root: Path, role: str, *options: str) -> Ran:
    """Write a configuration whose directories are all below ``root``."""
    given = []
    for question in starter.QUESTIONS:
        if role in question.roles and question.default.startswith("/"):
            given += [f"--{question.name}", f"{root}{question.default}"]
    output = ("-o", str(root / "dbb.toml"))
    return run_script("dbb", "config", "new", role, *output, *given, *options)


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(line)
    if words[0] == "dbb":
        words[:1] = [sys.executable, str(TOP / "bin" / "dbb")]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("role", starter.ROLES)
def test_what_it_writes_passes_its_check_after_the_steps_that_it_prints(
    role: str, tmp_path: Path, program: Callable[[str, str], Path]
) -> None:
    program("ssh", SSH)
    program("crontab", "true")
    ran = new(tmp_path, role, *(("--host", "far", "--user", "dbb") if role == "handoff" else ()))
    assert (ran.code, ran.err) == (0, "")
    *steps, last = [line.strip() for line in ran.out.splitlines()[1:]]
    assert last.startswith("(crontab -l ")
    for name in ("buffer", "staging"):
        (tmp_path / "data/endpoint" / name).mkdir(parents=True)
    for step in steps:
        done = shell(step, tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), step
    assert done.stdout.splitlines()[-1].endswith(" well")


def test_lines_are_in_the_crontab_once_however_often_they_are_pasted(
    tmp_path: Path, program: Callable[[str, str], Path]
) -> None:
    installed = tmp_path / "installed"
    installed.write_text("0 4 * * * other\n")
    take = f't=$(cat); printf "%s\\n" "$t" >{installed}'
    taken = f'if [ "$1" = - ]; then {take}; else cat {installed}; fi'
    program("crontab", taken)
    paste = new(tmp_path, "endpoint").out.splitlines()[-1]
    for _ in range(2):
        assert subprocess.run(paste, shell=True, cwd=tmp_path, check=False).returncode == 0
    lines = installed.read_text().splitlines()
    assert lines[0] == "0 4 * * * other"
    assert sum("dbb-finder" in line for line in lines) == 1


@pytest.mark.parametrize("role", starter.ROLES)
def test_the_crontab_starts_commands_that_exist(role: str) -> None:
    answers = {"name": "latiss", "plugin": "null"}
    for line in starter.crontab(role, answers, "/etc/dbb/dbb.toml", "/opt/dbb/bin").splitlines():
        if line and "=" not in line and "another disk" not in line:
            found = parse(line.removeprefix("# ").split(None, 5)[5])
            assert found is not None
            assert found[0].startswith("dbb")


def test_it_has_every_key_of_its_sections_and_no_other_section(tmp_path: Path) -> None:
    assert new(tmp_path, "endpoint", "--name", "latiss", "--plugin", "link").code == 0
    text = (tmp_path / "dbb.toml").read_text()
    tables = tomllib.loads(text)
    assert list(tables) == ["site", "database", "alert", "report", "finder", "target"]
    assert tables["finder"]["latiss"]["storage"] == f"{tmp_path}/data/storage"
    assert "# settle = 0" in text
    assert (tmp_path / "dbb.crontab").read_text().count("dbb-ingester link ") == 1


@pytest.mark.parametrize("name", ["dbb.toml", "dbb.crontab"])
def test_no_file_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    ran = new(tmp_path, "light")
    assert ran.code == 64
    assert f"{tmp_path / name}: is there already" in ran.err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


@pytest.mark.parametrize(
    ("role", "options", "told"),
    [
        ("handoff", (), "--host: must be given"),
        ("light", ("--host", "x"), "--host: is not for the role light"),
        ("light", ("--storage", "relative"), "storage: expected an absolute path"),
        ("light", ("--holding", "/data/buffer/holding", "--buffer", "/data/buffer"), "buffer"),
        ("light", ("--plugin", "no-such"), "unknown plugin"),
        ("endpoint", ("--database", "postgresql://me:secret@h/d"), "no password here"),
        ("endpoint", ("--database", "mysql://h/d"), "expected sqlite:"),
        ("light", ("--name", "a b"), "a name may hold only"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_written(
    tmp_path: Path, role: str, options: tuple[str, ...], told: str
) -> None:
    ran = new(tmp_path, role, *options)
    assert ran.code in (64, 78)
    assert told in ran.err
    assert "secret" not in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_person_is_asked_for_what_no_option_says() -> None:
    asked = []

    def ask(question: starter.Asked) -> str:
        asked.append(question.name)
        return question.default or "answered"

    answers = starter.answered("handoff", {"site": "summit"}, ask)
    assert "site" not in asked
    assert asked[0] == "name"
    assert (answers["site"], answers["host"]) == ("summit", "answered")
    with pytest.raises(UsageError, match="--host: must be given"):
        starter.answered("handoff", {}, None)
