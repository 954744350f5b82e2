"""Each trouble is named by `dbb status` and by its line for monitoring, until it is over."""

import re
from pathlib import Path

import pytest

from tests.support.database import Databases
from tests.support.scripts import Ran
from tests.support.site import Site
from tests.support.troubles import CASES, TroubleCase


def status(site: Site, *options: str) -> Ran:
    # Given, so that an advice has it; and not in the environment, where it would be found.
    return site.run("dbb", "status", "-c", str(site.config), *options)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_trouble_is_named_until_it_is_over(
    case: TroubleCase, tmp_path: Path, databases: Databases
) -> None:
    with case.prepared(tmp_path, databases) as ground:
        site = ground.site
        with case.makes(ground):
            case.meet(site)
            people, program = status(site, "--short"), status(site, "--check")
        name = re.escape(f"{case.label or 'summit'}: {case.what}")
        said = " ".join(people.out.split())
        assert (people.code, people.err) == (0, "")
        assert re.match(f"NOT WELL: {name}.*1 trouble,", said)
        assert re.search(case.shows, said)
        assert (program.code, program.err) == (case.level, "")
        assert re.match(
            rf"DBB {case.level.name} - summit ?{name.removeprefix('summit')}", program.out
        )
        assert re.search(rf"{case.shows}.* troubles=1;", program.out)
        case.end(site)
        assert status(site, "--short").out.startswith("WELL: ")
        assert status(site, "--check").out.startswith("DBB OK - ")
