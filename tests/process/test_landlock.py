"""What a process may still do behind the wall, whatever it is told."""

import subprocess
import sys
from pathlib import Path

import pytest

from dbbbatch.process import landlock
from tests.support.scripts import TOP

pytestmark = [
    pytest.mark.promise,
    pytest.mark.skipif(not landlock.abi(), reason="this kernel has no landlock"),
]

#: Tries a statement behind the wall, in a directory `in` beside one `out`; prints how it ends.
TRY = """
import os, socket, sys
from dbbbatch.process import landlock
landlock.restrict_writing([os.open("in", os.O_RDONLY)])
try:
    exec(sys.argv[1])
except OSError as error:
    print(type(error).__name__)
else:
    print("done")
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("in", "out"):
        (tmp_path / name / "d").mkdir(parents=True)
        (tmp_path / name / "file").write_text("old")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    return tmp_path


def tried(directory: Path, statement: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", TRY, statement],
        cwd=directory,
        env={"PYTHONPATH": f"{TOP}:{':'.join(sys.path)}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ran.stdout.strip()


@pytest.mark.parametrize(
    "statement",
    [
        "open('in/new', 'w').write('x')",
        "open('in/file', 'w').write('x')",
        "os.mkdir('in/e')",
        "os.rename('in/file', 'in/d/file')",
        "os.remove('in/file')",
        "os.rmdir('in/d')",
        "open('out/file').read()",
        "os.execv('/bin/echo', ['echo', 'done'])",
    ],
)
def test_what_is_allowed(directory: Path, statement: str) -> None:
    assert tried(directory, statement) == "done"


@pytest.mark.parametrize(
    "statement",
    [
        "open('out/new', 'w')",
        "open('out/file', 'a')",
        "open('in/link/new', 'w')",
        "os.mkdir('out/e')",
        "os.remove('out/file')",
        "os.rmdir('out/d')",
        "os.rename('in/file', 'out/stolen')",
        "os.rename('out/file', 'in/stolen')",
        "os.link('out/file', 'in/stolen')",
        "os.symlink('/etc', 'in/etc')",
        "os.mkfifo('in/fifo')",
        "os.chdir('in/link'); open('new', 'w')",
        "os.execv('/bin/sh', ['sh', '-c', 'echo x 2>&1 >out/new || echo PermissionError; :'])",
    ],
)
def test_what_is_refused(directory: Path, statement: str) -> None:
    before = sorted(map(str, directory.rglob("*")))
    assert tried(directory, statement).splitlines()[-1] in {"PermissionError", "OSError"}
    assert sorted(map(str, directory.rglob("*"))) == before
    assert (directory / "out" / "file").read_text() == "old"


@pytest.mark.skipif(landlock.abi() < 4, reason="this kernel's landlock knows no TCP")
def test_no_connection_is_made(directory: Path) -> None:
    assert tried(directory, "socket.create_connection(('127.0.0.1', 9))") == "PermissionError"
