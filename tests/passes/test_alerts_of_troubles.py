"""Each trouble that an operator must hear of is one message when it begins, one when it ends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.database import Databases
from tests.support.mailbox import Box
from tests.support.site import Site
from tests.support.troubles import CASES, TroubleCase

#: What a message shows where a pass has other words than status.
_SHOWS = {
    "storage full": "bytes are free|No space left",
    "cron dead": "finder.latiss: no pass since .* does cron run",
}


#: Where a target puts files off, the pass itself went well; status says so.
_TOLD = [case for case in CASES if case.what != "put off"]


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
            ground.site.run(case.script if case.code is not None else "dbb-janitor")
            assert box.new() == []
        case.end(ground.site)
        (over,) = box.new()
    assert "summit: NOT WELL: " in begun
    assert re.search(_SHOWS.get(case.name, case.shows), begun)
    assert over.startswith("summit: is over: ")
