"""CONTRIBUTING.md names files that are there."""

import re

from tests.support.scripts import TOP

TEXT = (TOP / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_each_path_exists() -> None:
    named = set(re.findall(r"`((?:tests|benchmarks|docs|sql|bin|\.ci)/[\w./-]*)`", TEXT))
    modules = re.findall(
        r"`((?:cli|report|passes|areas|targets|database|config|process|files)/[\w./]*)`", TEXT
    )
    named |= {f"dbbbatch/{path}" for path in modules}
    assert {path for path in named if not (TOP / path).exists()} <= {
        "sql/NNN_what.sql",
        "docs/targets-NAME.md",
    }


def test_each_floor_of_the_picture_is_a_folder() -> None:
    picture = TEXT.partition("```text\n")[2].partition("```")[0]
    named = set(re.findall(r"^  (\w+)/", picture, re.MULTILINE)) | {"demo"}
    there = {path.name for path in (TOP / "dbbbatch").iterdir() if path.is_dir()}
    assert named == there - {"__pycache__", "sql"}
