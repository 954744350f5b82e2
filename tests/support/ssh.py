"""A real SSH server on loopback, with keys, configuration and port of its own.

The system's sshd if there is one (as root or not), else one in Python (asyncssh); the client is the
system's ssh in both cases.
"""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

#: A daemon insists on being started by its absolute path, and is not on a user's PATH.
SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if Path("/usr/sbin/sshd").exists() else None)


def missing() -> str:
    """Return what a test needs that this machine does not have; '' if it has all."""
    tools = [tool for tool in ("ssh", "scp", "ssh-keygen") if not shutil.which(tool)]
    return f"no {', '.join(tools)} here (package openssh-client)" if tools else ""


class SshServer:
    """One server and what a client needs to reach it.

    Attributes
    ----------
    host : `str`
        The name that the client's configuration knows the server by.
    user : `str`
        Who logs in: whoever runs the tests.
    port : `int`
        On 127.0.0.1.
    config : `pathlib.Path`
        The client's configuration: ``ssh -F {config} {host}``.
    """

    host = "endpoint"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.user = getpass.getuser()
        self.config = directory / "ssh_config"
        self._log = directory / "sshd.log"
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("host_key", "user_key"):
            _make_key(directory / name)
        shutil.copy(directory / "user_key.pub", directory / "authorized_keys")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        host_key = (directory / "host_key.pub").read_text().strip()
        known = directory / "known_hosts"
        known.write_text(f"[127.0.0.1]:{self.port} {host_key}\n")
        self.config.write_text(
            f"""Host {self.host}
    HostName 127.0.0.1
    Port {self.port}
    User {self.user}
    IdentityFile {directory}/user_key
    IdentitiesOnly yes
    UserKnownHostsFile {known}
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    LogLevel ERROR
"""
        )
        (directory / "sshd_config").write_text(
            f"""ListenAddress 127.0.0.1
Port {self.port}
HostKey {directory}/host_key
PidFile none
AuthorizedKeysFile {directory}/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PermitRootLogin yes
StrictModes no
PrintMotd no
MaxStartups 200
MaxSessions 200
LogLevel VERBOSE
Subsystem sftp internal-sftp
"""
        )

    def bound_key(self, name: str, options: str) -> str:
        """Make another key that may log in with these options; give those of a client that has it.

        Parameters
        ----------
        name : `str`
            Of its file.
        options : `str`
            As they precede a key in authorized_keys: ``command="…",restrict``.
        """
        _make_key(key := self.directory / name)
        with (self.directory / "authorized_keys").open("a") as file:
            file.write(f"{options} {key.with_suffix('.pub').read_text()}")
        config = self.directory / f"{name}_config"
        config.write_text(self.config.read_text().replace(f"{self.directory}/user_key", str(key)))
        return self.options.replace(str(self.config), str(config))

    @property
    def options(self) -> str:
        """What to add to ``ssh``, ``scp`` and ``sftp`` to reach this server."""
        return f"-F {self.config} -o BatchMode=yes -o ConnectTimeout=10"

    @property
    def remote(self) -> str:
        """A template for ``remote``."""
        return f"ssh {self.options} -l {{user}} {{host}} {{command}}"

    @property
    def scp(self) -> str:
        """A template for ``transfer``: one connection for each directory."""
        return f"scp -Bpq {self.options} {{batch}} {{user}}@{{host}}:{{dest}}"

    @property
    def rsync(self) -> str:
        """A template for ``transfer``: one connection for many directories."""
        return (
            f"rsync -a --whole-file --from0 --files-from={{files_from}} "
            f"-e 'ssh {self.options}' {{source_root}}/ {{user}}@{{host}}:{{dest_root}}/"
        )

    def start(self) -> None:
        """Start the server and wait until it answers."""
        assert self._process is None
        if SSHD:
            if os.geteuid() == 0:
                Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
            argv = [SSHD, "-D", "-e", "-f", self.directory / "sshd_config"]
        else:
            argv = [sys.executable, Path(__file__).with_name("asyncssh_server.py"), self.directory]
            argv.append(str(self.port))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 20
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the test's SSH server does not start:\n{self.log()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End the server and its sessions, as a power cut at the far end would."""
        if self._process is None:
            return
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def pause(self) -> None:
        """Let the server hang: connections are accepted by the kernel and never answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        """Return what the server wrote."""
        return self._log.read_text(errors="replace")

    def connections(self) -> int:
        """Count the connections that logged in since the server was made."""
        return self.log().count("Accepted publickey for ")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False


def _make_key(path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path],
        check=True,
        stdin=subprocess.DEVNULL,
    )
