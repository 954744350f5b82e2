"""The page of each target in docs/ names every key of its plugin, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dbbbatch.config import fields
from dbbbatch.targets import registry

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("plugin", ["butler-gen3", "butler-gen2", "rucio"])
def test_page_has_every_key(plugin: str) -> None:
    page = (DOCS / f"targets-{plugin}.md").read_text()
    table = page.partition("\n## Keys\n")[2].partition("\n## ")[0]
    named = re.findall(r"^\| (`[^|]+`) \|", table, re.MULTILINE)
    documented = [name for cell in named for name in re.findall(r"`(\w+)`", cell)]
    declared = [field.name for field in fields.declared(registry.find(plugin).Settings)]
    assert documented == declared
