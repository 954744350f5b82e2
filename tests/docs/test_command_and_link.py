"""The page about command and link is held to their keys and placeholders."""

import re

import pytest

from dbbbatch.config.fields import declared
from dbbbatch.targets import command, link, naming
from tests.support.scripts import TOP

PAGE = (TOP / "docs" / "command-and-link.md").read_text()


def words(section: str, head: str) -> list[str]:
    """Return the first column of a table in a section."""
    text = PAGE.split(f"## {section}")[1].split("\n## ")[0]
    table = text.split(f"| {head} |")[1].split("\n\n")[0]
    return re.findall(r"^\| `\{?(\w+)\}?`", table, re.MULTILINE)


@pytest.mark.parametrize(
    ("section", "settings"), [("command", command.CommandSettings), ("link", link.LinkSettings)]
)
def test_every_key_is_explained(section: str, settings: type) -> None:
    keys = [field.name for field in declared(settings)]
    assert words(section, "key") == keys


def test_every_placeholder_is_explained() -> None:
    assert words("command", "placeholder") == list(command.PLACEHOLDERS)


def test_every_field_of_a_path_is_explained() -> None:
    section = PAGE.split("## link")[1]
    assert set(naming.FIELDS) <= set(re.findall(r"\{(\w+)", section))
