"""Which of several hosts runs a component: the one that holds its lease.

Any host may start any script. On a host passes exclude each other by a lock of the kernel
(`dbbbatch.files.lock`); on PostgreSQL whoever has that lock also needs the component's lease, a row
with a time by the database's clock (`dbbbatch.database.models.lease`). Without it a pass leaves.

* A thread renews it, unless all other threads are stuck. The host keeps it when its pass ends, so
  that its next pass goes on; another host takes it after `[database] lease`. The lease belongs to
  the lock, so a pass that died on the same host is followed at once.
* A transaction that records something has the row locked, by its number, until it is committed: a
  pass that lost its lease records nothing, and nobody takes the lease in between.
* What moves or removes a file is let in (`dbbbatch.files.fence`) while by CLOCK_BOOTTIME 0.7 of the
  time since the last renewal was sent has not passed; the kernel kills who is still inside after
  0.9 of it. So no pass that was stopped, or lost the database, meets its successor.

What remains: a call that a file server carries out after its client was killed, and a virtual
machine whose clock stood still while it was stopped. Then one rename or removal may come late. It
overwrites nothing; `store` takes for stored what it finds moved, and the auditor tells of the rest.
With SQLite there is one host, and none of this.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dbbbatch.config.load import Settings
from dbbbatch.config.sections import is_sqlite
from dbbbatch.errors import LeaseLost, LockHeld, TryLater
from dbbbatch.files.fence import fence, since_boot
from dbbbatch.files.lock import Lock

#: Seconds between two looks at a lease that is waited for, and for which a pass lets that host
#: begin which had the lease last, although it has ended.
_POLL = 2.0

#: Seconds after which that host is no longer waited for.
_PREFERRED = 120.0

#: Seconds of processor time that a thread uses by waking up once.
_STIRRING = 20e-6


class Leases:
    """The leases under which a pass or a command works; none with SQLite."""

    def __init__(self, settings: Settings) -> None:
        self._site = settings.site.name
        self._seconds = settings.database.lease
        self._shared = not is_sqlite(settings.database.url)
        self._numbers: tuple[int, ...] = ()
        self._asked = 0.0

    def take(
        self,
        lock: Lock,
        wait: float = 0,
        stopping: Callable[[], bool] = lambda: False,
        waits: Callable[[str], None] = lambda holder: None,
    ) -> None:
        """Take the lease that belongs to a lock, which is held; the database is connected.

        Parameters
        ----------
        lock : `dbbbatch.files.lock.Lock`
        wait : `float`
            Seconds to wait for another host.
        stopping : `~collections.abc.Callable`
            Ends the waiting when it returns true.
        waits : `~collections.abc.Callable`
            Called once, when the waiting begins, with who has the lease.

        Raises
        ------
        LockHeld
            Another host has it; the message names that.
        """
        from dbbbatch.database.models.lease import ComponentLease

        if not self._shared:
            return
        began, spare, told = time.monotonic(), _PREFERRED, False
        key = (self._site, lock.label)
        while True:
            asked = since_boot()
            number = ComponentLease.take(
                *key, lock.identity, socket.gethostname(), self._seconds, spare
            )
            if number is not None:
                self._asked = min(asked, self._asked) if self._numbers else asked
                self._numbers += (number,)
                return
            other = ComponentLease.of(*key)
            host = other.host if other else "another host"
            limit = max(wait, 2 * _POLL if other is None or other.ended else 0)
            if stopping() or time.monotonic() - began >= limit:
                raise LockHeld(
                    f"{lock.label} is run by host {host}, which has its lease; run this there, or "
                    "stop it there (`crontab -e`), and this host may take over "
                    f"{self._seconds:.0f} s later"
                )
            if wait and not told:
                told = True
                waits(f"{lock.label} on host {host}")
            spare = 0.0
            _sleep(_POLL, stopping)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew the leases that were taken, and let in what needs them, until the end."""
        if not self._numbers:
            yield
            return
        fence.extend(self._numbers, self._asked, self._seconds)
        ended = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(ended,), daemon=True)
        keeper.start()
        try:
            yield
        finally:
            ended.set()
            keeper.join(1.0)  # longer only if the database does not answer it
            fence.remove()

    def renew(self) -> None:
        """Renew the leases between two passes, when it is time.

        Raises
        ------
        LeaseLost
            Another host, or another pass of this one, has taken them.
        """
        if self._numbers and since_boot() - self._asked > self._seconds / 4:
            from dbbbatch.database.models.lease import ComponentLease

            self._asked = since_boot()
            if not ComponentLease.renew(self._numbers, self._seconds):
                raise LeaseLost("another pass has taken over")

    def forget(self) -> None:
        """Know of no leases, before they are taken anew."""
        self._numbers = ()

    def end(self) -> None:
        """Let other hosts have the leases at once: no next pass goes on here."""
        if self._numbers:
            from dbbbatch.database.models.lease import ComponentLease

            with suppress(TryLater):  # they end by themselves
                ComponentLease.renew(self._numbers, 0)
            self.forget()

    def _keep(self, ended: threading.Event) -> None:
        """Renew the leases in time, unless all other threads are stuck."""
        from dbbbatch.database import connect
        from dbbbatch.database.models.lease import ComponentLease

        numbers, seconds, pause = self._numbers, self._seconds, self._seconds / 4
        used, stirred = 0.0, since_boot()
        while not ended.wait(pause):
            asked = since_boot()
            others = time.process_time() - time.thread_time()
            if others > used + _STIRRING or fence.syncing:
                used, stirred = others, asked
            if asked - stirred > seconds:
                continue
            renewed = connect.try_once(lambda: ComponentLease.renew(numbers, seconds), seconds / 4)
            pause = min(1.0, seconds / 4) if renewed is None else seconds / 4
            if ended.is_set() or renewed is None:
                continue
            if renewed:
                fence.extend(numbers, asked, seconds)
            else:
                fence.close()
        connect.disconnect()


@contextmanager
def without_others(settings: Settings, labels: Iterable[str]) -> Iterator[None]:
    """Exclude whatever else works under some locks, on any host; the database is connected.

    Raises
    ------
    LockHeld
        Something does, on this or another host.
    OSError
        A lock cannot be made.
    """
    leases = Leases(settings)
    with ExitStack() as held:
        held.callback(leases.end)
        for label in labels:
            leases.take(held.enter_context(Lock(Path(settings.site.state) / "locks", label)))
        with leases.kept():
            yield


def _sleep(seconds: float, stopping: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not stopping() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.2))
