"""The test's own SSH servers carry what the handoff needs: commands, scp and rsync."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ssh


@pytest.fixture(params=["sshd", "asyncssh"])
def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ssh.SshServer]:
    if what := ssh.missing():
        pytest.skip(what)
    if request.param == "sshd" and not ssh.SSHD:
        pytest.skip("no sshd here (package openssh-server)")
    if request.param == "asyncssh":
        monkeypatch.setattr(ssh, "SSHD", None)
    made = ssh.SshServer(tmp_path)
    made.start()
    yield made
    made.stop()


def _run(command: str, **more: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, shell=True, capture_output=True, timeout=30, **more)  # type: ignore[call-overload,no-any-return]


def test_a_command_reads_exact_bytes_and_gives_its_exit_code(server: ssh.SshServer) -> None:
    content = bytes(range(256)) * 4000
    done = _run(f"ssh {server.options} {server.host} 'b2sum; exit 3'", input=content)
    assert done.returncode == 3
    assert done.stdout == _run("b2sum", input=content).stdout


def test_scp_carries_a_file(server: ssh.SshServer, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100_000)
    done = _run(f"scp -Bpq {server.options} {source} {server.host}:{tmp_path}/copy")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


@pytest.mark.skipif(not ssh.shutil.which("rsync"), reason="no rsync here")
def test_rsync_carries_a_tree(server: ssh.SshServer, tmp_path: Path) -> None:
    for n in range(50):
        (tmp_path / "tree" / str(n % 3)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / str(n % 3) / str(n)).write_bytes(b"x" * n * 1000)
    done = _run(
        f"rsync -a -e 'ssh {server.options}' {tmp_path}/tree/ {server.host}:{tmp_path}/copy/"
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(list((tmp_path / "copy").rglob("*"))) == 53


def test_connections_are_counted(server: ssh.SshServer) -> None:
    before = server.connections()
    for _ in range(2):
        _run(f"ssh {server.options} {server.host} true")
    assert server.connections() == before + 2


def test_a_stopped_server_can_be_started_again(server: ssh.SshServer) -> None:
    server.stop()
    assert _run(f"ssh {server.options} {server.host} true").returncode == 255
    server.start()
    assert _run(f"ssh {server.options} {server.host} true").returncode == 0
