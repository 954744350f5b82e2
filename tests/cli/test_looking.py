"""`dbb status` and `dbb history`, as people and programs see them."""

import json
import subprocess
import sys

from tests.support.scripts import TOP
from tests.support.site import Site


class TestHistory:
    def test_both_sites_and_the_target_are_told(self, site: Site) -> None:
        path = site.put("night/a.fits")
        for script in ("dbb-handoff", "dbb-finder", "dbb-ingester"):
            assert site.run(script).code == 0
        (found,) = json.loads(site.run("dbb", "history", str(path), "--json").out)
        assert found["path"] == "night/a.fits"
        assert [version["status"] for version in found["versions"]] == ["HELD", "STORED"]
        assert found["targets"]["a"]["status"] == "SUCCESS"
        assert found["versions"][0]["path"] == str(site.holding / "night/a.fits")
        told = [event["what"] for event in found["events"]]
        for what in ("found in the buffer", "delivered, verified", "moved to holding", "SUCCESS"):
            assert what in told
        assert sorted(event["at"] for event in found["events"]) == [
            event["at"] for event in found["events"]
        ]

    def test_an_unknown_file_is_a_usage_error(self, site: Site) -> None:
        code, out, err = site.run("dbb", "history", "nothing.fits")
        assert (code, out) == (64, "")
        assert "no site that uses this database has seen such a file" in err

    def test_a_name_that_the_locale_cannot_write_is_no_error(self, site: Site) -> None:
        site.put("f\u00fcr.fits")
        site.run("dbb-handoff")
        plain = {"LC_ALL": "C", "PYTHONUTF8": "0"}
        code, _, err = site.run("dbb", "history", "f\u00fcr.fits", env=plain)
        assert (code, err) == (0, "")

    def test_a_name_with_a_newline_stays_on_its_line(self, site: Site) -> None:
        name = "two\nlines.fits"
        site.put(name)
        site.run("dbb-handoff")
        assert site.run("dbb", "history", name).code == 0


def test_a_reader_that_leaves_early_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} {TOP}/bin/dbb config sample | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "0"
