"""Each trouble is named by `dbb status`, its line for monitoring, page, mail and metrics.

And by none of them when it is over.
"""

import html
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


def report(site: Site, directory: Path) -> tuple[str, str, str]:
    """Return the words of the overview, the mail, and the metrics."""
    pages, metrics = directory / "pages", directory / "dbb.prom"
    arguments = ("-c", str(site.config), str(pages), "--text", "--metrics", str(metrics))
    code, mail, err = site.run("dbb-report", *arguments)
    assert (code, err) == (0, "")
    page = re.sub(r"(?s)<style>.*?</style>|<[^>]*>", " ", (pages / "index.html").read_text())
    return " ".join(html.unescape(page).split()), " ".join(mail.split()), metrics.read_text()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_trouble_is_named_until_it_is_over(
    case: TroubleCase, tmp_path: Path, databases: Databases
) -> None:
    with case.prepared(tmp_path, databases) as ground:
        site = ground.site
        with case.makes(ground):
            case.meet(site)
            people, program = status(site, "--short"), status(site, "--check")
            page, mail, metrics = report(site, tmp_path)
        name = re.escape(f"{case.label or 'summit'}: {case.what}")
        said = " ".join(people.out.split())
        assert (people.code, people.err) == (75 if case.name == "database away" else 0, "")
        assert re.match(f"NOT WELL: {name}.*1 trouble,", said)
        assert re.search(case.shows, said)
        assert (program.code, program.err) == (case.level, "")
        assert re.match(
            rf"DBB {case.level.name} - summit ?{name.removeprefix('summit')}", program.out
        )
        assert re.search(rf"{case.shows}.* troubles=1;", program.out)
        assert re.search(f"NOT WELL {name}", page)
        assert re.search(case.shows, page)
        assert re.match(f"NOT WELL: {name}", mail)
        assert re.search(case.shows, mail)
        assert re.search(f'(?m)^dbb_troubles{{.*trouble="{case.what}"}} 1', metrics)
        case.end(site)
        page, mail, metrics = report(site, tmp_path)
        assert " WELL " in page
        assert "NOT WELL" not in page
        assert mail.startswith("WELL: ")
        assert not re.search("(?m)^dbb_troubles{.*} [1-9]", metrics)
        assert status(site, "--short").out.startswith("WELL: ")
        assert status(site, "--check").out.startswith("DBB OK - ")
