"""Metrics for Prometheus, and the rules, dashboard and page that use their names."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dbbbatch.report import metrics
from dbbbatch.report.health import Component, Health, Level, Room, Trouble, Waiting
from dbbbatch.report.nights import LATENCY_BOUNDS, Latency, Night, Step
from dbbbatch.report.survey import Survey
from tests.support.scripts import TOP

NOW = datetime(2026, 11, 24, 12)
THEN = datetime(2026, 11, 24, 11, 59)

ALERTS = TOP / "docs" / "alerts"

Samples = dict[tuple[str, ...], float]


def read(text: bytes) -> Samples:
    """Return the values by name and labels, as ``("dbb_x", "label=value", …)``."""
    return {
        (one.name, *(f"{name}={value}" for name, value in sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text.decode())
        for one in family.samples
    }


HEALTH = Health(
    at=NOW,
    site="summit",
    troubles=[
        Trouble("summit", "target.a", "failing", 3, "no", level=Level.WARNING),
        Trouble("summit", 'odd "name"\n', "missing", 1, "x", level=Level.CRITICAL),
    ],
    components=[
        Component(
            site="summit",
            label="handoff.a",
            host="h",
            state="ok",
            started=THEN,
            finished=NOW,
            last_ok=NOW,
            usual=60,
            code=0,
        ),
        Component(site="summit", label="finder.a", host="h", state="never", overdue=True),
    ],
    backlog=[
        Waiting(
            site="summit",
            label="handoff.a",
            step="deliver",
            files=7,
            at_least=True,
            size_bytes=700,
            oldest=THEN,
        ),
        Waiting(site="summit", label="finder.a", step="store", files=0, at_least=True),
    ],
    rooms=[Room(where="[finder.a] storage", path="/d", free_bytes=5, total_bytes=9)],
)

STEP = {
    "unknown": 0,
    "unknown_files": 0,
    "size_bytes": 1,
    "bytes_by_time": (),
    "bytes_earlier": 0,
    "bytes_later": 0,
}

NIGHT = Night(
    day=date(2026, 11, 24),
    begins=NOW,
    ends=NOW,
    unit="file",
    expected=None,
    found=4,
    files=4,
    size_bytes=1,
    withdrawn=0,
    steps=(
        Step(name="found", done=4, missing=0, files=4, missing_files=0, latency=None, **STEP),
        Step(
            name="stored",
            done=3,
            missing=1,
            files=3,
            missing_files=1,
            latency=Latency(
                since="found",
                files=3,
                median=5,
                p95=40,
                p99=40,
                total=50,
                within=(2, 2, *[3] * (len(LATENCY_BOUNDS) - 2)),
                worst=(),
            ),
            **STEP,
        ),
    ),
    reasons=(),
)

RECENT = [("summit", "handoff.a", "ok", 59)], [("summit", "handoff.a", "delivered", 1203)]


def as_metrics(health: Health, *nights: Night) -> bytes:
    """Return the metrics where the database counted `RECENT`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "recent_counts", lambda: RECENT)
        return metrics.as_metrics(Survey(health=health, nights=nights))


TEXT = as_metrics(HEALTH, NIGHT)


def test_the_verdict_is_that_of_status() -> None:
    found = read(TEXT)
    assert found["dbb_health_level", "site=summit"] == 2
    assert found["dbb_database_up", "site=summit"] == 1


def test_times_are_seconds_since_1970_and_what_is_not_known_is_left_out() -> None:
    found = read(TEXT)
    labels = ("component=handoff.a", "host=h", "site=summit")
    assert found["dbb_component_last_success_timestamp_seconds", *labels] == 1795521600
    assert found["dbb_component_last_duration_seconds", *labels] == 60
    never = ("component=finder.a", "host=h", "site=summit")
    assert ("dbb_component_last_success_timestamp_seconds", *never) not in found
    assert found["dbb_component_overdue", *never] == 1


def test_a_backlog_says_whether_it_is_complete() -> None:
    found = read(TEXT)
    labels = ("component=handoff.a", "site=summit", "step=deliver")
    assert found["dbb_backlog_files", *labels] == 7
    assert found["dbb_backlog_complete", *labels] == 0


def test_a_backlog_of_which_nothing_is_known_is_no_zero() -> None:
    found = read(TEXT)
    labels = ("component=finder.a", "site=summit", "step=store")
    assert [name for name, *rest in found if tuple(rest) == labels] == ["dbb_backlog_complete"]
    assert found["dbb_backlog_complete", *labels] == 0


def test_troubles_are_counted_by_kind_and_names_are_escaped() -> None:
    found = read(TEXT)
    labels = ('component=odd "name"\\x0a', "level=critical", "site=summit", "trouble=missing")
    assert found["dbb_troubles", *labels] == 1


def test_the_histogram_has_all_files_in_its_last_bucket() -> None:
    found = read(TEXT)
    of = ("since=found", "step=stored")
    assert found["dbb_latency_seconds_bucket", "le=10.0", *of] == 2
    assert found["dbb_latency_seconds_bucket", "le=+Inf", *of] == 3
    assert found["dbb_latency_seconds_count", *of] == 3
    assert found["dbb_latency_seconds_sum", *of] == 50


def test_without_the_database_only_this_host_is_described() -> None:
    found = read(as_metrics(Health(at=NOW, site="s", database="away")))
    assert found["dbb_database_up", "site=s"] == 0
    assert not any(
        name.startswith(("dbb_night", "dbb_latency", "dbb_recent")) for name, *_ in found
    )


def test_each_metric_has_help_and_a_unit_or_is_a_count() -> None:
    for family in text_string_to_metric_families(TEXT.decode()):
        assert family.documentation.endswith(".")
        assert not family.name.endswith("_total")  # nothing here only grows
        assert {label for one in family.samples for label in one.labels} <= {
            "site", "component", "host", "step", "place", "trouble", "level", "outcome", "state",
            "since", "version", "le",
        }  # fmt: skip


@pytest.fixture
def promtool() -> str:
    return shutil.which("promtool") or pytest.skip("no promtool here")


def test_promtool_finds_no_fault_in_metrics_and_rules(promtool: str) -> None:
    for arguments, given in (
        (["check", "metrics"], TEXT),
        (["check", "rules", str(ALERTS / "dbb.rules.yml")], b""),
    ):
        done = subprocess.run(
            [promtool, *arguments], input=given, capture_output=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode()


# ---- names -------------------------------------------------------------------------------------


def names() -> set[str]:
    return {family.name for family in text_string_to_metric_families(TEXT.decode())}


def used_in(path: Path) -> set[str]:
    found = set(re.findall(r"\bdbb_[a-z0-9_]+", path.read_text()))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


@pytest.mark.parametrize("file", ["dbb.rules.yml", "grafana-dashboard.json", "../alerts.md"])
def test_each_name_that_is_used_is_that_of_a_metric(file: str) -> None:
    assert used_in(ALERTS / file)
    assert used_in(ALERTS / file) <= names()


def test_each_metric_is_documented_with_its_labels() -> None:
    page = (TOP / "docs" / "alerts.md").read_text()
    documented = dict(re.findall(r"^\| `(dbb_\w+)` \| ([\w, ]+) \|", page, re.MULTILINE))
    assert set(documented) == names()
    for family in text_string_to_metric_families(TEXT.decode()):
        labels = {label for one in family.samples for label in one.labels} - {"le"}
        assert set(documented[family.name].split(", ")) == labels


def test_the_dashboard_is_json_with_panels_of_their_own() -> None:
    panels = json.loads((ALERTS / "grafana-dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)


# ---- from the database -------------------------------------------------------------------------


def test_passes_of_the_last_hour_are_counted_with_their_files(
    database: object, run_row: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_row("handoff", "latiss", "ok", 30, counts='{"delivered": 3}')
    run_row("handoff", "latiss", "ok", 31, counts='{"delivered": 4, "failed": 1}')
    run_row("handoff", "latiss", "later", 1)
    monkeypatch.setattr(metrics.connect, "now", lambda: datetime(2026, 11, 24, 7, 15))
    passes, files = metrics.recent_counts()
    assert passes == [("summit", "handoff.latiss", "ok", 2)]
    assert files == [
        ("summit", "handoff.latiss", "delivered", 7),
        ("summit", "handoff.latiss", "failed", 1),
    ]
