"""The state machine of an ingest: its statuses, and every change of status that there is."""

from __future__ import annotations

from enum import StrEnum


class IngestStatus(StrEnum):
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
TRANSITIONS: dict[tuple[IngestStatus | None, IngestStatus], str] = {
    (None, IngestStatus.UNTRIED): "the file is stored, or the target is added",
    (None, IngestStatus.BACKFILL): "`dbb backfill` records a file that was there before",
    (IngestStatus.UNTRIED, IngestStatus.PENDING): "a pass takes it",
    (IngestStatus.RERUN, IngestStatus.PENDING): "a pass takes it",
    (IngestStatus.FAILURE, IngestStatus.PENDING): "a pass takes it, once its wait is over",
    (IngestStatus.UNKNOWN, IngestStatus.PENDING): "a pass takes it, once its wait is over",
    (IngestStatus.PENDING, IngestStatus.SUCCESS): "ingested now, or the target held it already",
    (
        IngestStatus.PENDING,
        IngestStatus.FAILURE,
    ): "refused, or partly done, or attempts are used up",
    (
        IngestStatus.PENDING,
        IngestStatus.UNKNOWN,
    ): "the plugin or the pass ended with the file in hand",
    (IngestStatus.PENDING, IngestStatus.INVALID): "never to be ingested",
    (
        IngestStatus.PENDING,
        IngestStatus.UNTRIED,
    ): "the target was not to be had, or the pass stopped before it",
    (
        IngestStatus.PENDING,
        IngestStatus.RERUN,
    ): "the target was not to be had, or the pass stopped before it",
    (IngestStatus.INVALID, IngestStatus.UNTRIED): "storage has the file again",
    (IngestStatus.UNTRIED, IngestStatus.IGNORED): "`include` and `exclude`, or `dbb ignore`",
    (IngestStatus.RERUN, IngestStatus.IGNORED): "`include` and `exclude`, or `dbb ignore`",
    (IngestStatus.FAILURE, IngestStatus.IGNORED): "`include` and `exclude`, or `dbb ignore`",
    (IngestStatus.UNKNOWN, IngestStatus.IGNORED): "`include` and `exclude`, or `dbb ignore`",
    (IngestStatus.INVALID, IngestStatus.IGNORED): "`dbb ignore`",
    (IngestStatus.BACKFILL, IngestStatus.IGNORED): "`dbb ignore`",
    (IngestStatus.UNTRIED, IngestStatus.RERUN): "`dbb retry`",
    (IngestStatus.SUCCESS, IngestStatus.RERUN): "`dbb retry`, or the file has other content now",
    (IngestStatus.FAILURE, IngestStatus.RERUN): "`dbb retry`, or the file has other content now",
    (IngestStatus.UNKNOWN, IngestStatus.RERUN): "`dbb retry`, or the file has other content now",
    (IngestStatus.INVALID, IngestStatus.RERUN): "`dbb retry`, or the file has other content now",
    (
        IngestStatus.IGNORED,
        IngestStatus.RERUN,
    ): "`dbb retry`, or the file came back after `dbb forget`",
    (IngestStatus.BACKFILL, IngestStatus.RERUN): "`dbb retry`, or the file has other content now",
}


class ImpossibleTransition(Exception):
    """A change of status that the state machine does not know: a mistake in this program."""


def must_be_possible(was: str | None, becomes: str) -> None:
    """Refuse a change of status that `TRANSITIONS` does not list."""
    if (was, becomes) not in TRANSITIONS:
        raise ImpossibleTransition(f"{was} cannot become {becomes}")
