"""What is well and what is not: decisions over what was seen, without a disk or a database."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from dbbbatch.config import fields
from dbbbatch.errors import AWAY, NO_ROOM, UNUSABLE, remedy, remedy_of_file
from dbbbatch.files import names
from dbbbatch.passes.notices import Notice
from dbbbatch.report import words
from dbbbatch.report.health import Component, Level, Room, Trouble

#: Seconds for which "try again later" is only a warning.
WARNING_FOR = 600.0

#: What to do about a configuration that is wrong.
CORRECT = "correct it, then: dbb check"

#: What a pass that ended with an exit code is in trouble with, and what to do.
BY_CODE = {
    70: ("error", "report it to the developers"),
    75: ("try again later", ""),
    78: ("configuration", CORRECT),
}

#: Troubles of passes that are of the whole host: by what their keys begin with.
OF_ALL = {AWAY: "database away", NO_ROOM: "no room", UNUSABLE: "configuration"}


def is_overdue(component: Component, longest: float | None, now: datetime) -> bool:
    """Return whether a component did not succeed for longer than ``longest`` (seconds)."""
    if longest is None or component.state == "paused" or is_at_work(component):
        return False
    last = component.last_ok or component.failing_since
    # A clock that was wrong may have set it in the future.
    return last is None or abs((now - last).total_seconds()) > longest


def is_at_work(component: Component) -> bool:
    """Return whether its last pass has not ended."""
    return component.state == "at work" or component.state.startswith("running on ")


def later_of(row: Component | None, remembered: Component | None) -> Component | None:
    """Return what is known of a component: from the database, or from this host if that is newer.

    Parameters
    ----------
    row, remembered : `Component` or `None`
        From the table `run`, and from the state directory: a pass that could not reach the
        database, or take its lock, is remembered there only.
    """
    if row is None or remembered is None:
        return row or remembered
    last_ok = max(filter(None, (row.last_ok, remembered.last_ok)), default=None)
    if row.state == remembered.state and is_at_work(row) and row.host == remembered.host:
        # How the pass before ended is known here, whether or not it reached the database.
        ended = {key: getattr(remembered, key) for key in ("code", "message", "failing_since")}
        return replace(row, last_ok=last_ok, **ended)
    if row.state == remembered.state:
        return replace(row, last_ok=last_ok)
    known, seen = row.finished or row.started, remembered.finished or remembered.started
    # A pass that could not write its end left a row that looks as if it had been killed.
    unfinished = row.finished is None and row.host == remembered.host
    newer = (row.started if unfinished else known) or datetime.min
    chosen = remembered if seen and seen >= newer else row
    if chosen is row:
        return replace(row, last_ok=last_ok)
    # The row of the same process has the counts.
    return replace(remembered, last_ok=last_ok, counts=row.counts if unfinished else {})


def pass_trouble(
    component: Component, now: datetime, hang_after: float = 0, key: str = ""
) -> Trouble | None:
    """Return the trouble that a component's last pass is in, apart from files that failed.

    Parameters
    ----------
    component : `Component`
    now : `datetime.datetime`
    hang_after : `float`
        Seconds after which a pass that is at work may hang; 0: never.
    key : `str`
        That of its last error; '' if it is not known.
    """
    site, label, message = component.site, component.label, component.message
    since = component.failing_since
    if component.state == "killed":
        message = "the last pass was killed; the next one carries on"
        return Trouble(site, label, "killed", 0, message, since=component.started)
    if is_at_work(component) and component.started and hang_after:
        seconds = (now - component.started).total_seconds()
        if seconds >= hang_after:
            lasts = fields.span_text(seconds)
            where = component.host
            message = f"{component.state} for {lasts}, longer than hang_after"
            advice, since = f"look at {where}", component.started
            return Trouble(
                site, label, "hangs", 0, message, advice, since=since, level=Level.CRITICAL
            )
    if component.code in (None, 0, 1) or component.state.startswith("interrupted"):
        return None
    what, advice = BY_CODE.get(component.code, BY_CODE[70])
    level = Level.CRITICAL
    if component.code == 75:
        level = level_of_later(since, now)
        advice = advice_of_later(level, key, message)
    return Trouble(site, label, what, 0, message, advice, since=since, level=level)


def level_of_later(since: datetime | None, now: datetime) -> Level:
    """Return how bad it is that passes must try again later, which may pass by itself."""
    lasts = since is not None and (now - since).total_seconds() > WARNING_FOR
    return Level.CRITICAL if lasts else Level.WARNING


def advice_of_later(level: Level, key: str = "", message: str = "") -> str:
    """Return what to do while passes try again: nothing, unless it lasts or needs a person."""
    return remedy(key, message) or ("dbb check" if level == Level.CRITICAL else "")


def overdue_trouble(component: Component, longest: float | None, now: datetime) -> Trouble | None:
    """Return that a component is overdue, unless its passes still come and say what is wrong."""
    if not component.overdue or longest is None:
        return None
    began = component.finished or component.started
    if (
        pass_trouble(component, now) is not None
        and began
        and (now - began).total_seconds() <= longest
    ):
        return None
    name = component.label
    if component.last_ok is None and began is None:
        message = f"has never made a pass, and is expected every {fields.span_text(longest)}"
    else:
        usual = f"usually every {fields.span_text(component.usual or longest)}"
        message = (
            f"has not succeeded since {component.last_ok or began:%Y-%m-%d %H:%M} UTC; {usual}"
        )
    return Trouble(
        component.site,
        name,
        "overdue",
        0,
        f"{message}; does cron run?",
        f"crontab -l; if it is no longer used: dbb pause {name}",
        since=component.last_ok or component.failing_since,
        level=Level.CRITICAL,
    )


def room_troubles(site: str, rooms: Iterable[Room]) -> list[Trouble]:
    """Return the places that have less free room than they must have."""
    found = []
    for room in rooms:
        if room.free_bytes < room.needed_bytes:
            label = re.sub(
                r"\.endpoint(?=\.|$)", "", room.where.partition("]")[0].removeprefix("[")
            )
            message = (
                f"{room.path} ({room.where}): {words.size_for_people(room.free_bytes)} free, less "
                f"than {words.size_for_people(room.needed_bytes)}"
            )
            named = label if label.count(".") else ""
            found.append(Trouble(site, named, "no room", 0, message, "make room there"))
    return found


def one_outage(troubles: list[Trouble], keys: Mapping[str, str], answers: bool) -> list[Trouble]:
    """Return troubles of passes, in which what several have in common is said once.

    Parameters
    ----------
    troubles : `list` [`Trouble`]
        Of passes of this host.
    keys : mapping
        By label, the key of its last error, which other components share.
    answers : `bool`
        The database answers now: then passes could not use it for another reason, or a while ago.
    """
    alike: dict[str, list[Trouble]] = {}
    for trouble in troubles:
        alike.setdefault(keys.get(trouble.label) or f"{trouble.label}:", []).append(trouble)
    return [_as_one(key, same, answers) for key, same in alike.items()]


def _as_one(key: str, same: list[Trouble], answers: bool) -> Trouble:
    worst = max(same, key=lambda one: one.level)
    of_all = OF_ALL.get(key.partition(":")[0])
    if len(same) == 1 and not of_all:
        return worst
    labels = ", ".join(one.label for one in same)
    now = "; it answers now" if answers and key == AWAY else ""
    return replace(
        worst,
        label="",
        what=of_all or worst.what,
        message=f"{worst.message} (last passes of {labels}){now}",
        since=min((one.since for one in same if one.since), default=None),
    )


def without_repeats(seen: Iterable[Trouble], passes: Iterable[Trouble]) -> list[Trouble]:
    """Return troubles that are seen now and those of last passes, each of them once.

    What a last pass met and is seen now is kept as it is now, with the time when it began.
    """
    found, rest = [], list(passes)
    for trouble in seen:
        same = [one for one in rest if _is_met_by(trouble, one)]
        rest = [one for one in rest if one not in same]
        since = min((one.since for one in same if one.since), default=trouble.since)
        level = max((trouble.level, *(one.level for one in same)))
        found.append(replace(trouble, since=since, level=level))
    return found + rest


def _is_met_by(seen: Trouble, of_pass: Trouble) -> bool:
    """Return whether a last pass met what is seen now."""
    if seen.site != of_pass.site or (seen.label and of_pass.label and seen.label != of_pass.label):
        return False
    kinds = (seen.what, of_pass.what)
    if seen.label == of_pass.label and (
        seen.what == of_pass.what or kinds == ("lock", "configuration")
    ):
        return True
    about = seen.message.partition(":")[0].partition(" (")[0]
    return about.startswith("/") and about in of_pass.message


#: Keys of notices that are about files, not about how a pass ended.
_ABOUT_FILES = re.compile(
    r"(failed|stuck)$|(failed|odd|forbidden|busy|quarantine|unread|unreadable|orphan)[:… ]"
)

#: Keys of what the tables say in detail, and of what they say of most kinds.
_IN_TABLES = re.compile(r"(failed|stuck)$|quarantine[:…]|hold ")
_FAILED = re.compile(r"failed[:…]")

#: What a pass says of files that failed, of which the tables have more.
_COUNTED_ONLY = re.compile(r"[\d,]+ files? failed")


def warnings_of(
    component: Component, notices: Mapping[str, Notice], asked: bool, wrong: bool
) -> Trouble | None:
    """Return what a component of this host reported and is not over, unless it is said elsewhere.

    Parameters
    ----------
    component : `Component`
    notices : mapping
        By key, what its passes reported.
    asked : `bool`
        The database could be asked, and says which files fail.
    wrong : `bool`
        It says that files of storage are missing or corrupt.
    """

    def is_said(key: str) -> bool:
        if " hangs: " in key or (component.code not in (0, 1) and not _ABOUT_FILES.match(key)):
            return True
        in_tables = wrong or not component.label.startswith(("auditor.", "janitor."))
        return asked and bool(_IN_TABLES.match(key) or (in_tables and _FAILED.match(key)))

    left = [notice for key, notice in notices.items() if not is_said(key)]
    if not left:
        return None
    message, *others = (without_advice(notice.message) for notice in left)
    advice = next(filter(None, map(remedy_of_file, (message, *others))), "")
    if others:
        message += f" (and {names.counted(len(others), 'more warning')})"
    since = since_seconds(min(notice.since for notice in left))
    site, label = component.site, component.label
    return Trouble(site, label, "warning", 0, message, advice, since=since, others=tuple(others))


def failed_pass(component: Component, told: Container[str], asked: bool) -> Trouble | None:
    """Return that files failed in a last pass, if nothing else says which.

    Parameters
    ----------
    component : `Component`
    told : container of `str`
        Labels at its site of which other troubles tell.
    asked : `bool`
        The database could be asked.
    """
    if component.code != 1 or component.label in told or component.state == "paused":
        return None
    message = component.message or "files failed"
    files = component.counts.get("failed", 0)
    quarantined = component.counts.get("quarantined")
    if asked and ((files and files == quarantined) or _COUNTED_ONLY.fullmatch(message)):
        return None  # the tables would say which, and a person has dealt with them since
    return Trouble(component.site, component.label, "failed", files, message)


def with_since(trouble: Trouble, notices: Mapping[str, Notice]) -> Trouble:
    """Return a trouble with files, with the time when its component reported that it began."""
    notice = notices.get("failed" if trouble.what == "failing" else "")
    if trouble.since is None and notice is not None:
        return replace(trouble, since=since_seconds(notice.since))
    return trouble


def worst_first(troubles: Iterable[Trouble]) -> list[Trouble]:
    """Return troubles in the order in which a person should look at them."""
    rank = {Level.CRITICAL: 0, Level.WARNING: 1, Level.UNKNOWN: 2}
    return sorted(
        troubles,
        key=lambda one: (
            rank[one.level],
            not one.advice,
            one.label != "",
            one.since or datetime.max,
        ),
    )


def since_seconds(seconds: float | None) -> datetime | None:
    """Return a time of seconds since 1970 as a time in UTC; `None` for 0 and `None`."""
    return moment(seconds) if seconds else None


def moment(seconds: float) -> datetime:
    """Return a time of seconds since 1970 as a time in UTC."""
    return datetime(1970, 1, 1) + timedelta(seconds=seconds)


def without_advice(message: str) -> str:
    """Return a message without the advice to ask `dbb status`, for what shows the same."""
    return re.sub(r"; `dbb status` [^;]*", "", message)


#: Commands in an advice, up to where the option -c may be put.
_COMMAND = re.compile(r"(?<![\w/-])(dbb(?:-[a-z]+)?)(?= [a-zA-Z-])")


def pasteable(trouble: Trouble, site: str, config: str, known: bool = True) -> Trouble:
    """Return a trouble with commands that work when they are pasted.

    Parameters
    ----------
    trouble : `Trouble`
    site : `str`
        Where they would be pasted; for other sites it is said where.
    config : `str`
        The options that name the configuration, such as "-c FILE"; '' if it is found without.
    known : `bool`
        That configuration has the section of the component; else it is said which one helps.
    """
    where = "" if known else f"with the configuration of {trouble.label}: "
    if trouble.site not in ("", site):
        where = f"at {trouble.site}: "
    if where:
        return replace(
            trouble,
            advice=trouble.advice and where + trouble.advice,
            listing=trouble.listing and where + trouble.listing,
        )
    if not config:
        return trouble

    def named(text: str) -> str:
        if text.startswith("at the endpoint: "):
            return text
        return _COMMAND.sub(lambda found: f"{found[1]} {config}", text)

    return replace(trouble, advice=named(trouble.advice), listing=named(trouble.listing))
