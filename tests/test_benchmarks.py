"""What the benchmarks measure with: processor time of all processes, and a line that delays."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ssh
from tests.support.scripts import TOP

#: Processor seconds that a burner must be found to take; the kernel counts in ticks of 10 ms.
BURNT = 0.5

BURN = f"import time\nwhile time.process_time() < {BURNT + 0.1}: pass\n"

#: Prints what a command cost others than the process that measures.
MEASURE = f"""
import subprocess, sys, time
sys.path.insert(0, {str(TOP / "benchmarks")!r})
import measure
from pathlib import Path
from tests.support import ssh

measure.adopt_orphans()
{{before}}
own = time.process_time()
cost = measure.cost({{command}})
print(cost.cpu - (time.process_time() - own))
{{after}}
"""


def cpu(command: list[str] | str, before: str = "", after: str = "") -> float:
    """Measure a command, or what the program calls so; with statements before and after it."""
    program = MEASURE.format(command=command, before=before, after=after)
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=TOP, capture_output=True, text=True, check=False
    )
    assert not ran.returncode, ran.stderr
    return float(ran.stdout)


@pytest.fixture
def burner(tmp_path: Path) -> Path:
    path = tmp_path / "burner"
    path.write_text(f"#!{sys.executable} -S\n{BURN}")
    path.chmod(0o755)
    return path


class TestProcessorTime:
    """`measure.cost`."""

    def test_a_child_of_a_child_counts(self, burner: Path) -> None:
        assert cpu(["sh", "-c", f"{burner}; true"]) >= BURNT

    def test_an_orphan_that_goes_on_counts(self, burner: Path) -> None:
        assert cpu(["sh", "-c", f"setsid {burner} & exit"]) >= BURNT

    def test_one_that_was_killed_counts(self, burner: Path) -> None:
        burner.write_text(burner.read_text() + "import os; os.kill(os.getpid(), 9)\n")
        assert cpu(["sh", "-c", f"{burner}; true"]) >= BURNT

    def test_what_a_server_does_for_the_command_counts(self, burner: Path, tmp_path: Path) -> None:
        if what := ssh.missing():
            pytest.skip(what)
        begin = f"""server = ssh.SshServer(Path({str(tmp_path)!r}))
server.start()
command = ["ssh", *server.options.split(), "-l", server.user, server.host, {str(burner)!r}]"""
        assert cpu("command", begin, "server.stop()") >= BURNT

    def test_what_is_left_out_does_not_count(self, burner: Path) -> None:
        # The command ends after the burner, which is a zombie until it is waited for.
        wait = "while [ $(cut -d' ' -f3 /proc/$0/stat) != Z ]; do sleep 0.1; done"
        begin = f"""burner = subprocess.Popen([{str(burner)!r}])
measure.left_out.add(burner.pid)
command = ["sh", "-c", {wait!r}, str(burner.pid)]"""
        assert cpu("command", begin, "burner.wait()") < BURNT


class TestDelayedLine:
    """`benchmarks/delayed_line.py`."""

    DELAY = 0.1

    @pytest.fixture
    def ends(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        """Both ends of a connection over the line."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            command = [sys.executable, TOP / "benchmarks" / "delayed_line.py"]
            command += [str(server.getsockname()[1]), str(self.DELAY)]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as line:
                try:
                    assert line.stdout
                    port = int(line.stdout.readline())
                    with socket.create_connection(("127.0.0.1", port), timeout=60) as near:
                        server.settimeout(60)
                        far, _ = server.accept()
                        with far:
                            far.settimeout(60)
                            yield near, far
                finally:
                    line.kill()

    def test_all_bytes_arrive_in_both_directions_and_one_may_end_first(
        self, ends: tuple[socket.socket, socket.socket]
    ) -> None:
        near, far = ends
        content = bytes(range(256)) * 4096
        near.sendall(content)
        near.shutdown(socket.SHUT_WR)
        assert received(far) == content
        far.sendall(content[::-1])
        far.shutdown(socket.SHUT_WR)
        assert received(near) == content[::-1]

    def test_no_byte_arrives_before_its_time(
        self, ends: tuple[socket.socket, socket.socket]
    ) -> None:
        near, far = ends
        begin = time.monotonic()
        near.sendall(b"?")
        far.sendall(far.recv(1))
        assert near.recv(1) == b"?"
        assert time.monotonic() - begin >= 2 * self.DELAY

    def test_an_end_that_breaks_off_is_noticed_at_the_other(
        self, ends: tuple[socket.socket, socket.socket]
    ) -> None:
        near, far = ends
        near.close()
        assert far.recv(1) == b""


def received(end: socket.socket) -> bytes:
    content = b""
    while block := end.recv(1 << 16):
        content += block
    return content
