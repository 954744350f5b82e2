"""The pages as text for a mail."""

import re
from dataclasses import replace

from dbbbatch.report.health import Health
from dbbbatch.report.survey import Survey
from dbbbatch.report.text import as_text
from tests.report.page import examples


def lines(health: Health, nights: int = 1) -> list[str]:
    return list(as_text(examples.survey(health, nights)))


def test_it_begins_with_the_verdict() -> None:
    assert lines(examples.in_trouble())[0].startswith("NOT WELL: finder.latiss: try again later")
    assert lines(examples.well())[0] == "WELL: no file waits."


def test_lines_have_80_columns_but_for_commands() -> None:
    long = [line for line in lines(examples.in_trouble()) if len(line) > 80]
    assert [line.split()[0] for line in long] == ["dbb-auditor"]


def test_no_line_ends_in_a_blank_or_begins_with_a_unit() -> None:
    text = lines(examples.in_trouble())
    assert [line for line in text if line != line.rstrip()] == []
    assert [line for line in text if re.match(r"\s*(min|h|d|s|GB|%)\b", line)] == []


def test_what_needs_a_person_comes_with_the_command_on_a_line_of_its_own() -> None:
    text = lines(examples.in_trouble())
    assert "      dbb -c /etc/dbb/dbb.toml retry target.rucio" in text
    assert text.index("NEEDS A PERSON") < text.index("IS TRIED AGAIN BY ITSELF")


def test_names_do_no_harm_and_are_not_cut() -> None:
    name = "x" * 200 + "\nSubject: \x1b[31m"
    trouble = replace(examples.in_trouble().troubles[0], message=name)
    text = lines(replace(examples.in_trouble(), troubles=[trouble]))
    assert any("x" * 200 + "\\x0aSubject:" in line for line in text)
    assert all(line.isprintable() for line in text)


def test_the_last_night_is_told() -> None:
    text = "\n".join(lines(examples.in_trouble(), 2))
    assert "NIGHT 2026-11-29" in text
    assert "2026-11-28" not in text
    assert "95 % in 36 s" in text
    assert "the scope of this file is not registered" in text


def test_it_says_that_the_database_was_away() -> None:
    health = replace(examples.in_trouble(), database="dbhost: connection refused")
    text = " ".join(as_text(Survey(health=health, unknown=health.database)))
    assert "The database could not be asked: dbhost: connection refused." in text
    assert "NIGHT" not in text
