"""Each trouble is one message when it begins, one when it is over, and in the metrics meanwhile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dbbbatch.database import connect
from dbbbatch.report import metrics
from dbbbatch.report.survey import survey
from tests.support.database import Databases
from tests.support.mailbox import Box
from tests.support.site import Site
from tests.support.troubles import CASES, TroubleCase

#: What a message shows where a pass has other words than status.
_SHOWS = {
    "storage full": " free and .* to come|No space left",
    "cron dead": "finder.latiss: no pass since .* does cron run",
}


#: Where a target puts files off, the pass itself went well; status says so.
_TOLD = [case for case in CASES if case.what != "put off"]


def in_metrics(site: Site) -> set[tuple[str, str, str]]:
    """Return component, kind and level of the troubles that metrics have."""
    text = metrics.as_metrics(survey(site.settings(), with_files=False, count=1)).decode()
    connect.disconnect()
    return {
        (one.labels["component"], one.labels["trouble"], one.labels["level"])
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.name == "dbb_troubles"
    }


@pytest.mark.promise
@pytest.mark.parametrize("case", _TOLD, ids=str)
def test_a_trouble_is_told_once_within_one_pass_and_once_when_it_is_over(
    case: TroubleCase, tmp_path: Path, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(tmp_path / "box")
    monkeypatch.setattr(Site, "alert", {"command": box.command, "limit": "30s"})
    with case.prepared(tmp_path, databases) as ground:
        assert box.new() == []
        with case.makes(ground):
            if case.meet(ground.site) is None:
                assert ground.site.run("dbb-janitor").code == 0  # another component's pass
            (begun,) = box.new()
            assert (case.label, case.what, case.level.name.lower()) in in_metrics(ground.site)
            ground.site.run(case.script if case.code is not None else "dbb-janitor")
            assert box.new() == []
        case.end(ground.site)
        (over,) = box.new()
        assert in_metrics(ground.site) == set()
    assert "summit: NOT WELL: " in begun
    assert re.search(_SHOWS.get(case.name, case.shows), begun)
    assert over.startswith("summit: is over: ")
