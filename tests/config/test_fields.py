"""How configuration values are read."""

from dataclasses import dataclass

import pytest

from dbbbatch.config import fields
from dbbbatch.config.fields import option


@dataclass(frozen=True)
class Kettle:
    size: int = option(help="bytes it holds", parse=fields.byte_count)
    wait: float = option("2 min", "seconds to boil", fields.duration)


@dataclass(frozen=True)
class ElectricKettle(Kettle):
    power: int = option(2000, "watts", fields.number(1))


def test_inherited_keys_come_last():
    assert [field.name for field in fields.declared(ElectricKettle)] == ["power", "size", "wait"]
    assert fields.declared(int) == []


def test_a_default_is_parsed_like_a_given_value():
    assert fields.defaults(Kettle, size=1).wait == 120


def test_every_problem_of_a_table_is_reported():
    problems = []
    assert fields.read_section(Kettle, {"wait": "soon", "sise": 1}, "f: [kettle]", problems) is None
    assert len(problems) == 3


def test_an_unknown_key_suggests_the_nearest_known_one():
    problems = []
    fields.read_section(Kettle, {"size": 1, "wiat": 2}, "f: [kettle]", problems)
    assert problems == ["f: [kettle] wiat: unknown key; did you mean 'wait'?"]


@pytest.mark.parametrize(
    ("text", "seconds"), [(5, 5.0), ("90s", 90), ("10 min", 600), ("2h", 7200), ("30d", 2592000)]
)
def test_a_duration_is_seconds_or_a_text_with_its_unit(text, seconds):
    assert fields.duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "bytes_a_second"),
    [("200 Mbit/s", 25e6), ("8 bit/s", 1), ("25 MB/s", 25e6), ("1 MiB/s", 1 << 20), ("", None)],
)
def test_a_rate_says_whether_it_is_in_bits_or_bytes(text, bytes_a_second):
    assert fields.rate(text) == bytes_a_second


@pytest.mark.parametrize("text", [200, "200", "200 M", "200 Mb/s", "0 MB/s", "-1 MB/s", True, None])
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(ValueError, match="200 Mbit/s"):
        fields.rate(text)


@pytest.mark.parametrize("text", ["-1", "1 year", "", True, None])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="seconds"):
        fields.duration(text)


@pytest.mark.parametrize("text", ["36526d", "9" * 400 + "w", 1e300, 10**400, float("inf")])
def test_a_duration_can_be_added_to_any_date(text):
    with pytest.raises(ValueError, match="at most 36525 d"):
        fields.duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [(7, 7), ("64 MiB", 64 * 2**20), ("2 GB", 2 * 10**9), ("1.5k", 1500)]
)
def test_a_size_is_bytes_or_a_text_with_its_unit(text, size):
    assert fields.byte_count(text) == size


@pytest.mark.parametrize("text", ["9" * 400 + " PiB", 2**63, "8192 PiB", -1, True])
def test_a_size_that_no_disk_has_is_refused(text):
    with pytest.raises(ValueError, match="expected bytes"):
        fields.byte_count(text)


@pytest.mark.parametrize("expression", ["(", "a{99999999999999999999}", "(" * 5000 + ")" * 5000])
def test_what_is_no_regular_expression_is_refused(expression):
    with pytest.raises(ValueError, match="is no regular expression"):
        fields.patterns([expression])


def test_nothing_is_printed_about_a_regular_expression(recwarn):
    fields.patterns(["[[a]"])
    assert not recwarn


@pytest.mark.parametrize("path", ["data", "/data/../etc", "/", 3])
def test_a_directory_that_depends_on_anything_is_refused(path):
    with pytest.raises(ValueError, match="expected"):
        fields.absolute_path(path)


def test_a_password_is_never_shown(monkeypatch):
    monkeypatch.setenv("WORD", "sesame")
    secret = fields.secret("${WORD}")
    assert "sesame" not in f"{secret} {secret!r}"
    assert secret.reveal() == "sesame"


def test_a_password_in_a_url_is_not_shown():
    assert fields.without_password("postgresql://dbb:sesame@h/d") == "postgresql://dbb@h/d"
    assert fields.without_password("postgresql://dbb:se/s@me@h/d") == "postgresql://dbb@h/d"
    assert "sesame" not in fields.without_password("postgresql://h/d?user=u&password=sesame")


def test_a_password_from_an_unset_variable_is_a_problem(monkeypatch):
    monkeypatch.delenv("WORD", raising=False)
    with pytest.raises(ValueError, match="WORD is not set"):
        fields.secret("${WORD}")


def test_a_mode_is_octal_text():
    assert fields.mode("0444") == 0o444
    with pytest.raises(ValueError, match="octal"):
        fields.mode("rw-")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-1, "0 s"), (59, "59 s"), (600, "10 min"), (7200, "2 h"), (2e6, "23 d")]
)
def test_spans_are_for_people(seconds: float, shown: str) -> None:
    assert fields.span_text(seconds) == shown
