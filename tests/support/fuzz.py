"""How long the tests of any input run, and what inputs they share."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import Any
from unittest import mock

import hypothesis
from hypothesis import HealthCheck
from hypothesis import strategies as st

from dbbbatch.targets import child, worker

#: ``DBB_FUZZ=N`` tries N times as many examples, others at each run.
TIMES = int(os.environ.get("DBB_FUZZ", "0"))


def fuzzed(examples: int, steps: int = 50) -> Callable[[Any], Any]:
    """Return the settings of a test that tries so many examples in the suite, always the same."""
    return hypothesis.settings(
        max_examples=examples * max(TIMES, 1),
        stateful_step_count=steps,
        derandomize=not TIMES,
        database=None,
        deadline=None,
        print_blob=bool(TIMES),
        suppress_health_check=list(HealthCheck),
    )


#: What has been dangerous in a name, one or two bytes each.
_PIECES = [
    *(b"a", b"b.fits", b" ", b"/", b"//", b".", b"..", b"-", b"~", b"\n", b"\r", b"\t", b"\x1b[2J"),
    *(b"\\", b"\\x41", b"\\xff", b"\\#101", b"'", b'"', b"$(x)", b"`x`", b"*", b"?", b"{", b"}"),
    *(b"{file}", b"\xff", b"\xc3\xa9", b"\xc3", b"\xe2\x80\xae", b"#", b";", b" => ", b"%s"),
    *(b".dbb~", b"\x7f", b"\xc2\x85", b"\xed\xa0\x80"),
]

#: Bytes that a path may hold: all but NUL.
path_bytes = st.one_of(
    st.lists(st.sampled_from(_PIECES), min_size=1, max_size=6).map(b"".join),
    st.binary(min_size=1, max_size=40).map(lambda raw: raw.replace(b"\0", b"") or b"x"),
)

#: The name of a file, without a slash, that a file system takes.
file_names = path_bytes.map(lambda raw: raw.replace(b"/", b"")[:200] or b"x").filter(
    lambda raw: raw not in (b".", b"..")
)


class InThread(worker.Worker):
    """A worker whose child is a thread: nothing needs to be started."""

    def __init__(self, launch: worker.Launch, log: Any) -> None:
        with mock.patch.object(worker.run, "ChildProcess", self._start):
            super().__init__(launch, log)

    def _start(self, argv: Any, *, descriptors: Any, **more: Any) -> Any:
        theirs = socket.socket(fileno=os.dup(descriptors[0]))

        def serve() -> None:
            with theirs:
                try:
                    child._Child(theirs).serve()
                except Exception:  # noqa: BLE001 (then the process would end)
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        return mock.Mock(pid=2**22 + 7, wait=lambda seconds: thread.join(seconds) or 1)

    alive = True

    def kill(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
