"""Every status that a row may have, and every change of status that there is."""

from __future__ import annotations

from enum import StrEnum


class HandoffStatus(StrEnum):
    """Where a version of a file is on its way from the buffer of a handoff."""

    #: In the buffer, to be sent.
    FOUND = "FOUND"
    #: Verified in the endpoint's buffer; the original is still in the buffer.
    DELIVERED = "DELIVERED"
    #: Delivered, and the original is in the holding area.
    HELD = "HELD"
    #: Removed from the holding area after the endpoint confirmed that it is stored.
    PURGED = "PURGED"
    #: In quarantine, or about to be moved there: a person must look.
    QUARANTINED = "QUARANTINED"
    #: Left alone where it is, and neither sent nor purged, because a person said so.
    IGNORED = "IGNORED"
    #: No longer in the buffer, or replaced there by another version.
    VANISHED = "VANISHED"


class FileStatus(StrEnum):
    """What the table says about a file of a storage area."""

    #: Only an intent: recorded before the file is placed.
    ARRIVING = "ARRIVING"
    #: In storage, whole and durable; the only status that is offered to ingesters.
    STORED = "STORED"
    #: Was stored; the auditor did not find it.
    MISSING = "MISSING"
    #: Was stored; the auditor found other content.
    CORRUPT = "CORRUPT"
    #: A person moved it out of storage because it must not be touched.
    QUARANTINED = "QUARANTINED"
    #: A person removed it with `dbb forget`; its history stays.
    FORGOTTEN = "FORGOTTEN"


class IngestStatus(StrEnum):
    """Where a file stands with a target."""

    #: Stored and never offered to this target, or offered when the target was not available.
    UNTRIED = "UNTRIED"
    #: Claimed by a pass (`IngestClaim.take`).
    PENDING = "PENDING"
    #: The target holds it.
    SUCCESS = "SUCCESS"
    #: Went wrong; tried again at `next_try_at`, or waits for a person where that is empty.
    FAILURE = "FAILURE"
    #: The plugin or the pass died while it held the claim: the target may have the file.
    UNKNOWN = "UNKNOWN"
    #: Excluded by the patterns of the configuration, or by an operator.
    IGNORED = "IGNORED"
    #: Can never be ingested: empty, no longer in storage, or refused for good by the plugin.
    INVALID = "INVALID"
    #: To be offered again because an operator asked for it, or its content has changed.
    RERUN = "RERUN"
    #: Was in storage, and as far as is known in the target, before this database existed.
    BACKFILL = "BACKFILL"


class BatchStatus(StrEnum):
    """How far a batch is."""

    #: Being sent; if no pass is at work, one was killed and recovery asks the endpoint.
    OPEN = "OPEN"
    #: The result of each file is recorded; the directory in staging may still exist.
    SETTLED = "SETTLED"
    #: Nothing of it is left in staging.
    DONE = "DONE"


class WhyRemembered(StrEnum):
    """Why a finder remembers a path."""

    #: Stored already, the same; left in the source and not read again while it stays as it is.
    DUPLICATE = "DUPLICATE"
    #: Storage has it; this one is to be removed, first thing, if storage has it still.
    MOVED = "MOVED"
    #: Could not be stored; tried again after a wait that grows.
    FAILED = "FAILED"
    #: Named by a log of rsync (its message), but not in storage yet, or not to be read; or named as
    #: updated, but still the version that the row has.
    AWAITED = "AWAITED"
    #: Named by a log of rsync, and awaited in vain or refused, or a log of which part is lost: a
    #: person must look. What was awaited in vain is still looked for, though rarely.
    GIVEN_UP = "GIVEN_UP"


_RETRY = "`dbb retry`"
_OTHER_CONTENT = "`dbb retry`, or the file has other content now"
_NOT_OFFERED = "the target was not available, or the pass stopped before it"
_EXCLUDED = "`include` and `exclude`, or `dbb ignore`"
_CLAIMED = "a pass claims it, once its wait is over"
_AGAIN = "it is in the buffer again"
_NOT_THERE = "it is no longer in the buffer, or was written to and is a later version"
_OTHER_INODE = "the buffer has another file of the same size and time"

#: Every change of status, by table, and what causes it. `docs/history.md` and `docs/ingests.md`
#: show these tables, and `dbbbatch.database.models.changes.change` makes no other change.
TRANSITIONS: dict[str, dict[tuple[str | None, str], str]] = {
    "handoff_file": {
        (None, "FOUND"): "a scan sees it",
        ("FOUND", "FOUND"): f"{_RETRY}: attempts count from 0 again",
        ("FOUND", "DELIVERED"): "its copy at the endpoint is verified",
        ("FOUND", "QUARANTINED"): "it is given up, and will be moved to quarantine",
        ("FOUND", "IGNORED"): "`dbb ignore`",
        ("FOUND", "VANISHED"): _NOT_THERE,
        ("DELIVERED", "HELD"): "the original is in the holding area",
        ("DELIVERED", "VANISHED"): _NOT_THERE,
        ("DELIVERED", "FOUND"): _OTHER_INODE,
        ("HELD", "PURGED"): "the janitor removed it from the holding area",
        ("HELD", "IGNORED"): "`dbb ignore`",
        ("HELD", "HELD"): "`dbb resend` is about to put it into the buffer",
        ("HELD", "FOUND"): f"{_AGAIN}, as after `dbb resend`",
        ("PURGED", "FOUND"): _AGAIN,
        ("QUARANTINED", "FOUND"): "released from quarantine",
        ("QUARANTINED", "IGNORED"): "left in quarantine by `dbb ignore`",
        ("IGNORED", "FOUND"): _RETRY,
        ("IGNORED", "HELD"): f"{_RETRY} of a file in the holding area",
        ("VANISHED", "FOUND"): _AGAIN,
    },
    "file": {
        (None, "ARRIVING"): "a finder is about to place it",
        ("ARRIVING", "STORED"): "it is in storage and durable, or the intent is withdrawn",
        ("STORED", "ARRIVING"): "other content is about to replace it",
        ("MISSING", "ARRIVING"): "it arrives again",
        ("CORRUPT", "ARRIVING"): "it arrives again",
        ("FORGOTTEN", "ARRIVING"): "it arrives again",
        ("ARRIVING", "MISSING"): "the intent is withdrawn",
        ("ARRIVING", "CORRUPT"): "the intent is withdrawn",
        ("ARRIVING", "FORGOTTEN"): "the intent is withdrawn",
        ("STORED", "STORED"): "the auditor verified it",
        ("STORED", "MISSING"): "the auditor did not find it",
        ("STORED", "CORRUPT"): "the auditor found other content",
        ("STORED", "FORGOTTEN"): "`dbb forget`",
        ("MISSING", "STORED"): "the auditor found and verified it",
        ("MISSING", "MISSING"): "the auditor looked again",
        ("MISSING", "CORRUPT"): "the auditor found other content",
        ("MISSING", "FORGOTTEN"): "`dbb forget`",
        ("CORRUPT", "STORED"): "the auditor found the right content",
        ("CORRUPT", "MISSING"): "the auditor did not find it",
        ("CORRUPT", "CORRUPT"): "the auditor looked again",
        ("CORRUPT", "FORGOTTEN"): "`dbb forget`",
        ("QUARANTINED", "FORGOTTEN"): "`dbb forget`",
        ("FORGOTTEN", "STORED"): "`dbb forget` could not remove the file",
        ("FORGOTTEN", "MISSING"): "`dbb forget` could not remove the file",
        ("FORGOTTEN", "CORRUPT"): "`dbb forget` could not remove the file",
        ("FORGOTTEN", "QUARANTINED"): "`dbb forget` could not remove the file",
    },
    "ingest_state": {
        (None, "UNTRIED"): "the file is stored, or the target is added",
        (None, "BACKFILL"): "`dbb backfill` records a file that was there before",
        ("UNTRIED", "PENDING"): "a pass claims it",
        ("RERUN", "PENDING"): "a pass claims it",
        ("FAILURE", "PENDING"): _CLAIMED,
        ("UNKNOWN", "PENDING"): _CLAIMED,
        ("PENDING", "SUCCESS"): "ingested now, or the target held it already",
        ("PENDING", "FAILURE"): "refused, or partly done, or attempts are used up",
        ("PENDING", "UNKNOWN"): "the plugin or the pass died while it held the claim",
        ("PENDING", "INVALID"): "it can never be ingested",
        ("PENDING", "UNTRIED"): _NOT_OFFERED,
        ("PENDING", "RERUN"): _NOT_OFFERED,
        ("INVALID", "UNTRIED"): "storage has the file again",
        ("UNTRIED", "IGNORED"): _EXCLUDED,
        ("RERUN", "IGNORED"): _EXCLUDED,
        ("FAILURE", "IGNORED"): _EXCLUDED,
        ("UNKNOWN", "IGNORED"): _EXCLUDED,
        ("INVALID", "IGNORED"): "`dbb ignore`",
        ("BACKFILL", "IGNORED"): "`dbb ignore`",
        ("UNTRIED", "RERUN"): _RETRY,
        ("SUCCESS", "RERUN"): _OTHER_CONTENT,
        ("FAILURE", "RERUN"): _OTHER_CONTENT,
        ("UNKNOWN", "RERUN"): _OTHER_CONTENT,
        ("INVALID", "RERUN"): _OTHER_CONTENT,
        ("IGNORED", "RERUN"): f"{_RETRY}, or the file came back after `dbb forget`",
        ("BACKFILL", "RERUN"): _OTHER_CONTENT,
    },
}


class ImpossibleTransition(Exception):
    """A change of status that `TRANSITIONS` does not list: a mistake in this program."""


def require_possible(table: str, was: str | None, becomes: str) -> None:
    """Raise `ImpossibleTransition` unless a row of a table may change its status so."""
    if (was, becomes) not in TRANSITIONS[table]:
        raise ImpossibleTransition(f"{table}: {was} cannot become {becomes}")
