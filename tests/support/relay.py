"""A line to the tests' PostgreSQL that can be cut, or fall silent without being closed."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress


class Relay:
    """Passes on what is sent to a port of this machine, to a socket and back.

    Attributes
    ----------
    port : `int`
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._flowing = threading.Event()
        self._flowing.set()
        self._cut = False
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self) -> None:
        """Hold back what is sent from now on."""
        self._flowing.clear()

    def cut(self) -> None:
        """Close all connections, and each new one."""
        self._cut = True
        self._close_ends()

    def mend(self) -> None:
        """Pass on what was held back, and take connections again."""
        self._cut = False
        self._flowing.set()

    def close(self) -> None:
        """End it, and all connections."""
        self._listener.close()
        self.cut()
        self._flowing.set()

    def _close_ends(self) -> None:
        while self._ends:
            end = self._ends.pop()
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._cut:
                    near.close()
                    continue
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._target)
                self._ends += [near, far]
                threading.Thread(target=self._pass_on, args=(near, far), daemon=True).start()

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        with near, far, suppress(OSError, ValueError):
            while True:
                for each in select.select([near, far], [], [])[0]:
                    data = each.recv(65536)
                    self._flowing.wait()
                    if not data:
                        return
                    (far if each is near else near).sendall(data)
