"""The state machine of an ingest: its statuses, and every change of status that there is."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """Where a file stands with a target."""

    #: Stored, and never offered to this target; or offered, when the target was not to be had.
    UNTRIED = "UNTRIED"
    #: A pass has it in hand (`IngestState.claim`).
    PENDING = "PENDING"
    #: The target holds it.
    SUCCESS = "SUCCESS"
    #: Went wrong; tried again at `next_try_at`, or waits for a person where that is empty.
    FAILURE = "FAILURE"
    #: The plugin or the pass died with it in hand: whether the target holds it is not known.
    UNKNOWN = "UNKNOWN"
    #: Not wanted: by the patterns of the configuration, or by an operator.
    IGNORED = "IGNORED"
    #: Can never be ingested: empty, no longer in storage, or so says the plugin.
    INVALID = "INVALID"
    #: To be offered again because an operator asked for it, or its content has changed.
    RERUN = "RERUN"
    #: Was in storage, and in the target as far as anybody knows, before this database was.
    BACKFILL = "BACKFILL"


#: Every change of status that there is, and what causes it. `docs/ingests.md` shows this table.
TRANSITIONS: dict[tuple[Status | None, Status], str] = {
    (None, Status.UNTRIED): "the file is stored, or the target is added",
    (None, Status.BACKFILL): "`dbb backfill` records a file that was there before",
    (Status.UNTRIED, Status.PENDING): "a pass takes it",
    (Status.RERUN, Status.PENDING): "a pass takes it",
    (Status.FAILURE, Status.PENDING): "a pass takes it, once its wait is over",
    (Status.UNKNOWN, Status.PENDING): "a pass takes it, once its wait is over",
    (Status.PENDING, Status.SUCCESS): "ingested now, or the target held it already",
    (Status.PENDING, Status.FAILURE): "refused, or partly done, or attempts are used up",
    (Status.PENDING, Status.UNKNOWN): "the plugin or the pass ended with the file in hand",
    (Status.PENDING, Status.INVALID): "never to be ingested",
    (Status.PENDING, Status.UNTRIED): "the target was not to be had, or the pass stopped before it",
    (Status.PENDING, Status.RERUN): "the target was not to be had, or the pass stopped before it",
    (Status.INVALID, Status.UNTRIED): "storage has the file again",
    (Status.UNTRIED, Status.IGNORED): "`include` and `exclude`, or `dbb ignore`",
    (Status.RERUN, Status.IGNORED): "`include` and `exclude`, or `dbb ignore`",
    (Status.FAILURE, Status.IGNORED): "`include` and `exclude`, or `dbb ignore`",
    (Status.UNKNOWN, Status.IGNORED): "`include` and `exclude`, or `dbb ignore`",
    (Status.INVALID, Status.IGNORED): "`dbb ignore`",
    (Status.BACKFILL, Status.IGNORED): "`dbb ignore`",
    (Status.UNTRIED, Status.RERUN): "`dbb retry`",
    (Status.SUCCESS, Status.RERUN): "`dbb retry`, or the file has other content now",
    (Status.FAILURE, Status.RERUN): "`dbb retry`, or the file has other content now",
    (Status.UNKNOWN, Status.RERUN): "`dbb retry`, or the file has other content now",
    (Status.INVALID, Status.RERUN): "`dbb retry`, or the file has other content now",
    (Status.IGNORED, Status.RERUN): "`dbb retry`, or the file came back after `dbb forget`",
    (Status.BACKFILL, Status.RERUN): "`dbb retry`, or the file has other content now",
}


class ImpossibleTransition(Exception):
    """A change of status that the state machine does not know: a mistake in this program."""


def must_be_possible(was: str | None, becomes: str) -> None:
    """Refuse a change of status that `TRANSITIONS` does not list."""
    if (was, becomes) not in TRANSITIONS:
        raise ImpossibleTransition(f"{was} cannot become {becomes}")
