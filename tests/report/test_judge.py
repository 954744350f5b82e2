"""What is trouble and what is not, as tables of decisions."""

import re
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from dbbbatch.errors import AWAY, NO_ROOM, NOT_WRITABLE, key_of_full, key_of_missing
from dbbbatch.passes.notices import Notice
from dbbbatch.report import judge
from dbbbatch.report.health import Component, Health, Level, Room, Trouble

NOW = datetime(2026, 11, 30, 12)


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def component(**more: Any) -> Component:
    values: dict[str, Any] = {
        "site": "summit",
        "label": "handoff.latiss",
        "host": "mountain",
        "state": "ok",
        "code": 0,
        "started": ago(1),
        "finished": ago(1),
        "last_ok": ago(1),
    }
    return Component(**values | more)


LATER = {"state": "later (75)", "code": 75, "message": "no route", "last_ok": ago(90)}


@pytest.mark.parametrize(
    ("more", "what", "level"),
    [
        ({}, None, None),
        ({"state": "failed (1)", "code": 1}, None, None),
        ({"state": "never", "code": None, "started": None, "finished": None}, None, None),
        ({"state": "interrupted (75)", "code": 75}, None, None),
        ({"state": "at work", "code": None, "finished": None}, None, None),
        # Until it ends, what the pass before met is not over.
        ({**LATER, "state": "at work", "finished": None}, "try again later", Level.WARNING),
        ({"state": "killed", "code": None, "finished": None}, "killed", Level.WARNING),
        ({**LATER, "failing_since": ago(1)}, "try again later", Level.WARNING),
        ({**LATER, "failing_since": ago(11)}, "try again later", Level.CRITICAL),
        ({"state": "error (78)", "code": 78}, "configuration", Level.CRITICAL),
        ({"state": "error (70)", "code": 70}, "error", Level.CRITICAL),
    ],
)
def test_a_pass_that_failed_is_trouble(
    more: dict[str, Any], what: str | None, level: Level | None
) -> None:
    found = judge.pass_trouble(component(**more), NOW)
    assert (found and found.what, found and found.level) == (what, level)


@pytest.mark.parametrize(
    ("state", "minutes", "hangs"),
    [("at work", 59, False), ("at work", 61, True), ("running on lake", 61, True)],
)
def test_a_pass_that_is_at_work_for_too_long_may_hang(
    state: str, minutes: float, hangs: bool
) -> None:
    seen = component(state=state, code=None, started=ago(minutes), finished=None)
    assert bool(judge.pass_trouble(seen, NOW, 3600)) == hangs
    assert judge.pass_trouble(seen, NOW, 0) is None


@pytest.mark.parametrize(
    ("more", "longest", "overdue"),
    [
        ({}, 300, False),
        ({"last_ok": ago(4)}, 300, False),
        ({"last_ok": ago(6)}, 300, True),
        ({"last_ok": ago(6)}, None, False),
        ({"last_ok": ago(6), "state": "paused"}, 300, False),
        ({"last_ok": ago(6), "state": "at work"}, 300, False),
        ({"last_ok": ago(6), "state": "running on lake"}, 300, False),
        ({"last_ok": None, "state": "never", "started": None}, 300, True),
        ({"last_ok": None, "state": "never", "started": None}, None, False),
        ({"last_ok": None, "failing_since": ago(6)}, 300, True),
        ({"last_ok": None, "failing_since": ago(4)}, 300, False),
        ({"last_ok": ago(-5000)}, 300, True),
    ],
)
def test_a_component_is_overdue_that_did_not_succeed_for_too_long(
    more: dict[str, Any], longest: float | None, overdue: bool
) -> None:
    assert judge.is_overdue(component(**more), longest, NOW) == overdue


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"last_ok": ago(60), "started": ago(60), "finished": ago(60)}, True),
        ({**LATER}, False),  # its passes come, and say what is wrong
        ({**LATER, "started": ago(60), "finished": ago(60)}, True),
        ({"state": "never", "started": None, "finished": None, "last_ok": None}, True),
    ],
)
def test_overdue_is_trouble_unless_passes_come_and_fail(more: dict[str, Any], told: bool) -> None:
    seen = component(**more, overdue=True)
    found = judge.overdue_trouble(seen, 300, NOW)
    assert (found is not None) == told
    if found:
        assert found.level is Level.CRITICAL
        assert found.advice.endswith("dbb pause handoff.latiss")


ROW = component(counts={"held": 1})


@pytest.mark.parametrize(
    ("row", "remembered", "state"),
    [
        (ROW, None, "ok"),
        (None, component(**LATER), "later (75)"),
        # The database was away at the last pass.
        (replace(ROW, finished=ago(5)), component(**LATER), "later (75)"),
        # Another host made the last pass.
        (ROW, component(**{**LATER, "finished": ago(5)}), "ok"),
        # It could not write how it ended.
        (
            component(state="killed", code=None, started=ago(2), finished=None),
            component(**LATER),
            "later (75)",
        ),
        # It is at work again.
        (
            component(state="at work", code=None, started=ago(0.5), finished=None),
            component(**LATER),
            "at work",
        ),
    ],
)
def test_what_is_known_is_the_later_of_database_and_memory(
    row: Component | None, remembered: Component | None, state: str
) -> None:
    found = judge.later_of(row, remembered)
    assert found is not None
    assert found.state == state


def test_what_this_host_knows_of_the_pass_before_is_kept_while_one_is_at_work() -> None:
    row = component(state="at work", finished=None)
    remembered = component(**LATER | {"state": "at work", "failing_since": ago(3)}, finished=None)
    found = judge.later_of(row, remembered)
    assert found is not None
    assert (found.code, found.message, found.failing_since) == (75, "no route", ago(3))


def trouble(label: str, what: str, message: str = "x", **more: Any) -> Trouble:
    return Trouble("summit", label, what, 0, message, **more)


def test_one_outage_of_the_database_is_one_trouble() -> None:
    passes = [
        trouble("handoff.a", "try again later", f"db: {AWAY}", since=ago(5)),
        trouble("finder.a", "try again later", f"db: {AWAY}", since=ago(9)),
        trouble("target.a", "try again later", "no tree"),
    ]
    keys = {"handoff.a": AWAY, "finder.a": AWAY}
    outage, other = judge.one_outage(passes, keys, True)
    assert (outage.label, outage.what, outage.since) == ("", "database away", ago(9))
    assert "handoff.a, finder.a" in outage.message
    assert outage.message.endswith("it answers now")
    assert other.label == "target.a"


def test_storage_that_is_gone_for_several_components_is_one_trouble_that_names_them() -> None:
    gone = key_of_missing("/data")
    passes = [
        trouble(
            "finder.a", "try again later", "/data: not there", since=ago(5), advice="dbb check"
        ),
        trouble("target.a", "try again later", "/data: no sentinel", since=ago(9)),
        trouble("target.b", "try again later", "no tree"),
    ]
    keys = {"finder.a": gone, "target.a": gone, "target.b": key_of_missing("/tree")}
    outage, other = judge.one_outage(passes, keys, True)
    assert (outage.label, outage.what, outage.since) == ("", "try again later", ago(9))
    assert outage.message == "/data: not there (last passes of finder.a, target.a)"
    assert (other.label, other.message) == ("target.b", "no tree")


LET_IN = "let ssh log in there without a question, then: dbb check"
MOUNT = "mount it, then: dbb check"
CHANGE_OWNER = "change its owner or mode there, then: dbb check"


@pytest.mark.parametrize(
    ("key", "message", "minutes", "advice"),
    [
        ("far does not answer", "no route", 5, ""),
        ("far does not answer", "no route", 11, "dbb check"),
        ("far does not answer", "ssh: Host key verification failed.", 5, LET_IN),
        ("far does not answer", "ssh: Permission denied (publickey).", 5, LET_IN),
        ("far does not answer", f"far: /data: {NOT_WRITABLE}", 5, CHANGE_OWNER),
        ("", "/data: Permission denied; nothing is lost", 5, CHANGE_OWNER),
        (key_of_missing("/data"), "/data: Permission denied", 5, CHANGE_OWNER),
        (key_of_missing("/data"), "", 5, MOUNT),
        ("", "far: /data is not there (not mounted?)", 5, MOUNT),
        ("", "/data: .dbb-storage is not there, so this looks like an empty mount point", 5, MOUNT),
        ("", "/data: No space left on device", 5, "make room there"),
        ("", "/data: Read-only file system", 5, "mount it for writing, then: dbb check"),
        (key_of_full("/data"), "", 5, "make room there"),
        (NO_ROOM, "", 5, "make room there"),
    ],
)
def test_a_pass_that_tries_again_needs_a_person_if_it_lasts_or_cannot_end_by_itself(
    key: str, message: str, minutes: int, advice: str
) -> None:
    last = component(**LATER | {"failing_since": ago(minutes), "message": message})
    found = judge.pass_trouble(last, NOW, key=key)
    assert found is not None
    assert found.advice == advice


@pytest.mark.parametrize(
    ("seen", "of_pass", "once"),
    [
        (trouble("target.a", "configuration"), trouble("target.a", "configuration"), True),
        (trouble("target.a", "configuration"), trouble("target.b", "configuration"), False),
        (trouble("handoff.a", "lock"), trouble("handoff.a", "configuration"), True),
        (trouble("", "database away"), trouble("", "database away"), True),
        (trouble("", "no room", "/state (x): 1 B"), trouble("a.b", "later", "/state: full"), True),
        (trouble("a.b", "no room", "/data (x): 1 B"), trouble("a.b", "later", "no route"), False),
        (trouble("a.b", "no room", "/data (x): 1 B"), trouble("", "later", "/data: full"), True),
        (trouble("a.b", "hangs"), trouble("a.b", "try again later"), False),
    ],
)
def test_what_is_seen_and_was_met_is_said_once(seen: Trouble, of_pass: Trouble, once: bool) -> None:
    found = judge.without_repeats([seen], [replace(of_pass, since=ago(7), level=Level.CRITICAL)])
    assert len(found) == (1 if once else 2)
    if once:
        assert (found[0].what, found[0].since, found[0].level) == (
            seen.what,
            ago(7),
            Level.CRITICAL,
        )


NOTICES = {
    "failed": Notice("3 files failed; `dbb status` says why, and what lists them", 0),
    "odd a": Notice("a: is a link; it is left there", 0, 60.0),
    "failed: b": Notice("b: corrupt", 0, 30.0),
    "handoff.latiss hangs: 7": Notice("a pass may hang", 0),
    "no route #": Notice("no route 5", 0),
}


@pytest.mark.parametrize(
    ("more", "asked", "wrong", "message"),
    [
        ({}, True, False, "a: is a link; it is left there (and 1 more warning)"),
        ({**LATER}, True, False, "a: is a link; it is left there"),
        ({**LATER}, False, False, "3 files failed (and 2 more warnings)"),
        (
            {"label": "auditor.latiss", **LATER},
            True,
            False,
            "a: is a link; it is left there (and 1 more warning)",
        ),
        ({"label": "auditor.latiss", **LATER}, True, True, "a: is a link; it is left there"),
    ],
)
def test_what_passes_reported_is_shown_unless_it_is_said_elsewhere(
    more: dict[str, Any], asked: bool, wrong: bool, message: str
) -> None:
    found = judge.warnings_of(component(**more), NOTICES, asked, wrong)
    assert found is not None
    assert found.message == message
    more_of_them = re.search(r"and (\d) more", message)
    assert len(found.others) == (int(more_of_them[1]) if more_of_them else 0)


def test_a_warning_has_the_advice_of_its_errors() -> None:
    denied = {"odd a": Notice("a: odd", 0), "failed: b": Notice("b: Permission denied", 0)}
    found = judge.warnings_of(component(label="auditor.latiss"), denied, True, False)
    assert found is not None
    assert found.others == ("b: Permission denied",)
    assert found.advice.startswith("change owner or mode")


@pytest.mark.parametrize(
    ("more", "told", "found"),
    [
        ({}, set(), False),
        ({"state": "failed (1)", "code": 1}, set(), True),
        ({"state": "failed (1)", "code": 1}, {"handoff.latiss"}, False),
        ({"code": 1, "counts": {"failed": 2, "quarantined": 1}}, set(), True),
        ({"code": 1, "counts": {"failed": 2, "quarantined": 2}}, set(), False),
        ({"code": 1, "message": "2 files failed"}, set(), False),
        ({"code": 1, "message": "a: no permission; 2 files failed"}, set(), True),
        ({"state": "paused", "code": 1}, set(), False),
    ],
)
def test_files_that_failed_are_trouble_even_if_no_table_has_them(
    more: dict[str, Any], told: set[str], found: bool
) -> None:
    assert (judge.failed_pass(component(**more), told, True) is not None) == found


def test_a_place_with_too_little_room_is_trouble() -> None:
    room = Room(
        where="[handoff.a.endpoint] staging",
        path="/s",
        free_bytes=1,
        total_bytes=9,
        needed_bytes=2,
    )
    (found,) = judge.room_troubles("summit", [room, replace(room, free_bytes=2)])
    assert (found.label, found.what) == ("handoff.a", "no room")
    assert found.message == "/s ([handoff.a.endpoint] staging): 1 B free, less than 2 B"


CONFIG = "-c '/etc/my dbb.toml'"


@pytest.mark.parametrize(
    ("site", "config", "advice", "pasted"),
    [
        ("summit", CONFIG, "dbb retry target.a", f"dbb {CONFIG} retry target.a"),
        (
            "summit",
            CONFIG,
            "copy it back, then: dbb-auditor a --share 1",
            f"copy it back, then: dbb-auditor {CONFIG} a --share 1",
        ),
        ("summit", CONFIG, "make room in /data/dbb now", "make room in /data/dbb now"),
        ("summit", "", "dbb check", "dbb check"),
        ("archive", CONFIG, "dbb retry target.a", "at archive: dbb retry target.a"),
        ("archive", CONFIG, "", ""),
    ],
)
def test_an_advice_can_be_pasted_where_it_helps(
    site: str, config: str, advice: str, pasted: str
) -> None:
    given = replace(trouble("target.a", "failing", advice=advice), site=site)
    assert judge.pasteable(given, "summit", config).advice == pasted


def test_an_advice_says_which_configuration_it_needs() -> None:
    given = trouble("target.a", "gave up", advice="dbb retry target.a")
    assert judge.pasteable(given, "summit", CONFIG, known=False).advice == (
        "with the configuration of target.a: dbb retry target.a"
    )


def test_the_worst_comes_first() -> None:
    unseen = trouble("", "not seen", level=Level.UNKNOWN)
    warning, bad = trouble("a.b", "failing"), trouble("a.b", "hangs", level=Level.CRITICAL)
    assert judge.worst_first([unseen, warning, bad]) == [bad, warning, unseen]


@pytest.mark.parametrize(
    ("levels", "worst"),
    [
        ([], Level.WELL),
        ([Level.UNKNOWN], Level.UNKNOWN),
        ([Level.UNKNOWN, Level.WARNING], Level.WARNING),
        ([Level.UNKNOWN, Level.WARNING, Level.CRITICAL], Level.CRITICAL),
    ],
)
def test_what_is_not_seen_is_no_worse_than_what_is(levels: list[Level], worst: Level) -> None:
    troubles = [trouble("", "x", level=level) for level in levels]
    assert Health(at=NOW, site="summit", troubles=troubles).level is worst


@pytest.mark.parametrize(
    "more",
    [
        {"state": "error (70)", "code": 70},
        {"state": "error (78)", "code": 78},
        {**LATER, "failing_since": ago(11)},
        {"state": "running on mountain", "code": None, "started": ago(90), "finished": None},
    ],
)
def test_what_is_critical_says_what_to_do(more: dict[str, Any]) -> None:
    found = judge.pass_trouble(component(**more), NOW, hang_after=3600)
    assert found is not None
    assert found.level is Level.CRITICAL
    assert found.advice
