"""Who hears of a component's passes: stderr, the state directory, and whom `[alert]` names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dbbbatch.config.load import Settings
from dbbbatch.passes import memory
from dbbbatch.passes.context import Options, logger
from dbbbatch.passes.notices import MOST_NAMED, Notices
from dbbbatch.passes.signals import Signals

if TYPE_CHECKING:
    from dbbbatch.passes.alerts import Alerts
    from dbbbatch.passes.ping import Ping


class Reporter:
    """Reports the passes of one start of a script over one section.

    Attributes
    ----------
    label : `str`
        KIND.NAME.
    notices : `dbbbatch.passes.notices.Notices`
    """

    def __init__(self, settings: Settings, label: str, options: Options, signals: Signals) -> None:
        self.label = label
        self.notices = Notices(
            Path(settings.site.state), label, always=options.verbose > 0 or options.repeat
        )
        self._site = settings.site
        self._signals = signals
        self._alerts: Alerts | None = None
        self._ping: Ping | None = None
        self._outcome = ""
        alert = settings.alert
        if alert.command:
            from dbbbatch.passes.alerts import Alerts

            self._alerts = Alerts(settings, label)
        if alert.ping:
            from dbbbatch.passes.ping import Ping

            self._ping = Ping(alert.ping, label, alert.limit)

    def begin_pass(self) -> None:
        """Report that a pass begins, which has its turn."""
        memory.begin_pass(Path(self._site.state), self.label)
        if self._ping is not None:
            self._ping.begin()

    def remember(self, outcome: str, code: int, message: str, key: str = "") -> int:
        """Remember in the state directory how a pass ended; return its exit code."""
        self._outcome = outcome
        memory.end_pass(Path(self._site.state), self.label, outcome, code, message, key)
        return code

    def end_pass(self) -> None:
        """Report what the pass met; its lock is free, so this holds up nobody."""
        if self._alerts is not None and not self._signals.seen:
            try:
                why = self._alerts.after_pass(self.notices, self._name_files)
            except Exception as error:  # noqa: BLE001  (an alert never fails a pass)
                why = f"{type(error).__name__}: {error}"
            if why:
                message = f"[alert] command: {why}; the next pass tries it again"
                self.notices.warn(message, key="[alert] command")
        self.notices.end_pass()

    def end(self, code: int) -> None:
        """Report that the last pass has ended, with an exit code."""
        # One that had no turn, or was interrupted, is no failure: the next one is heard of.
        if self._ping is not None and self._outcome not in ("", "interrupted"):
            try:
                # Files that failed are told of; the passes themselves went well.
                self._ping.end(code in (0, 1))
            except Exception as error:  # noqa: BLE001  (a ping never fails a pass)
                logger.warning("[alert] ping: %s", type(error).__name__)

    def _name_files(self, kind: str) -> tuple[list[str], int]:
        """Name files that failed, or (stuck) wait for a person, and count the others.

        Raises
        ------
        DbbError
            The database is away.
        """
        from dbbbatch.database import connect
        from dbbbatch.database.models.failing import name_failing

        of, _, name = self.label.partition(".")
        stuck = kind == "stuck"
        return connect.read(name_failing, of, self._site.name, name, stuck, MOST_NAMED)
