"""`dbb-report`, as cron and people run it."""

import os
import re
from pathlib import Path

import pytest

from dbbbatch.cli import report
from tests.report.page import examples
from tests.support.site import Site

pytestmark = pytest.mark.parametrize("backend", ["sqlite"])

#: As cron may run it: a home that nobody can write to.
NO_HOME = {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent"}


@pytest.fixture
def busy(site: Site) -> Site:
    """Two files that went all the way, and one that waits."""
    site.put_all(["night/a.fits", "night/<script>alert(1)</script>.fits"])
    for script in ("dbb-handoff", "dbb-finder", "dbb-ingester"):
        assert site.run(script) == (0, "", "")
    site.put("night/waits.fits")
    return site


def test_pages_are_written_without_a_word(busy: Site, tmp_path: Path) -> None:
    assert busy.run("dbb-report", str(tmp_path / "pages"), env=NO_HOME) == (0, "", "")
    page = (tmp_path / "pages" / "index.html").read_text()
    assert "handoff.latiss" in page
    assert "finder.latiss" in page
    (night,) = (tmp_path / "pages").glob("night-*.html")
    assert "2 files found, 2 delivered" in night.read_text()
    assert "night/&lt;script&gt;alert(1)&lt;/script&gt;.fits" in night.read_text()
    assert '"night/<script>alert(1)<",["script>.fits"]' in night.with_suffix(".js").read_text()


def test_text_begins_with_the_verdict(busy: Site) -> None:
    code, out, err = busy.run("dbb-report", "--text")
    assert (code, err) == (0, "")
    assert out.startswith(("WELL: ", "NOT WELL: "))
    assert "handoff.latiss" in out
    assert "2 files found, 2 delivered" in out


@pytest.mark.usefixtures("backend")
def test_a_mail_tells_of_the_newest_night_in_80_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report.show_survey(examples.survey())
    text = capsys.readouterr().out
    assert "Night 2026-11-29\n  410 of 420 expected exposures found" in text
    assert "2026-11-28" not in text
    assert re.search(r"target.rucio +found +32 min +2 h +8 h +48 h\n", text)
    assert "target.rucio: 12 files: the scope of this file is not registered" in text
    assert "the slowest until target.rucio: <script>alert(1)</script>.fits\n" in text
    long = [line for line in text.splitlines() if len(line) > 80]
    assert [line for line in long if "dbb" not in line and "the slowest" not in line] == []


def test_nothing_is_changed_but_the_pages(busy: Site, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in busy.root.rglob("*") if path.is_file()}
    assert busy.run("dbb-report", str(tmp_path / "pages"), "--text").code == 0
    after = {path: path.stat().st_mtime_ns for path in busy.root.rglob("*") if path.is_file()}
    fonts = busy.state / "matplotlib"
    assert {path: at for path, at in after.items() if fonts not in path.parents} == before


def test_without_the_database_it_says_what_this_host_knows(busy: Site, tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    assert busy.run("dbb-report", str(pages)).code == 0
    busy.write(database={"url": "postgresql://dbb@127.0.0.1:1/dbb"})
    code, out, _ = busy.run("dbb-report", str(pages), "--text")
    assert code == 0
    assert out.startswith("NOT WELL: ")
    assert "The database could not be asked" in out
    assert "The database could not be asked" in (pages / "index.html").read_text()


def test_where_the_nights_cannot_be_known_the_overview_is_written(
    busy: Site, tmp_path: Path
) -> None:
    busy.config.write_text(busy.config.read_text() + "\n[report]\nnights = 0\n")
    code, out, err = busy.run("dbb-report", str(tmp_path / "pages"), "--text")
    assert code == 78
    assert "[report]" in err
    assert "\nNights\n  not known:" in out
    page = (tmp_path / "pages" / "index.html").read_text()
    assert "Their numbers are not known now" in page
    assert "handoff.latiss" in page


def test_nothing_to_do_is_a_mistake(site: Site) -> None:
    code, out, err = site.run("dbb-report")
    assert (code, out) == (64, "")
    assert "give the directory of the pages, --text or --metrics" in err


def test_a_directory_of_somebody_else_is_refused(site: Site, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    code, out, err = site.run("dbb-report", str(tmp_path))
    assert (code, out) == (64, "")
    assert "was not written by dbb-report" in err
    assert (tmp_path / "index.html").read_text() == "mine"


def test_a_library_that_is_missing_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "jinja2.py").write_text("raise ImportError('none', name='jinja2')")
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    code, out, err = site.run("dbb-report", str(tmp_path / "pages"), env=env)
    assert (code, out) == (78, "")
    assert "jinja2 is not installed" in err
    assert site.run("dbb-report", "--text", env=env).code == 0


def test_metrics_are_written_for_another_user_to_read(busy: Site, tmp_path: Path) -> None:
    file = tmp_path / "dbb.prom"
    assert busy.run("dbb-report", "--metrics", str(file)) == (0, "", "")
    assert file.stat().st_mode & 0o777 == 0o644
    text = file.read_text()
    assert 'dbb_database_up{site="summit"} 1.0' in text
    assert (
        'dbb_recent_files{component="handoff.latiss",outcome="delivered",site="summit"} 2.0' in text
    )
    assert 'dbb_night_files{state="done",step="stored"} 2.0' in text


def test_metrics_replace_nothing_but_metrics(busy: Site, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    for name in ("notes", "pipe"):
        code, _, err = busy.run("dbb-report", "--metrics", str(tmp_path / name))
        assert (code, "is not replaced" in err) == (64, True)
    assert (tmp_path / "notes").read_text() == "mine"
    assert (tmp_path / "pipe").is_fifo()


def test_metrics_without_the_database_say_so(busy: Site) -> None:
    busy.write(database={"url": "postgresql://dbb@127.0.0.1:1/dbb"})
    code, out, err = busy.run("dbb-report", "--metrics", "-")
    assert (code, err) == (0, "")
    assert 'dbb_database_up{site="summit"} 0.0' in out
    assert "dbb_component_last_start_timestamp_seconds{" in out


def test_a_library_for_metrics_that_is_missing_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "prometheus_client.py").write_text(
        "raise ImportError('', name='prometheus_client')"
    )
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    code, _, err = site.run("dbb-report", "--metrics", "-", env=env)
    assert code == 78
    assert "prometheus_client is not installed" in err
