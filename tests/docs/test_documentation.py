"""Pages, samples and the crontab agree with the code, both ways."""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import pytest

import dbbbatch
from dbbbatch import errors
from dbbbatch.cli import described, man
from dbbbatch.cli.config import sample_of_plugins
from dbbbatch.config import fields, load, sections, toml
from dbbbatch.database.models.statuses import FileStatus, HandoffStatus
from dbbbatch.passes import runner
from dbbbatch.report import judge, queries
from dbbbatch.targets import registry
from tests.docs import licences, reference
from tests.support.scripts import TOP, run_script

DOCS = sorted((TOP / "docs").glob("*.md"))
PAGES = [TOP / "README.md", *DOCS]
COMMANDS = dict(described.commands())


@pytest.mark.parametrize("page", reference.PAGES)
def test_a_page_made_from_the_code_is_up_to_date(page: str) -> None:
    written = (TOP / "docs" / page).read_text()
    assert written == reference.PAGES[page](), "run `python -m tests.docs.reference`"


def test_the_licence_of_each_dependency_is_listed() -> None:
    page = (TOP / "docs" / "licences.md").read_text()
    listed = re.findall(r"^\| ([\w.-]+) \| .* \| (.*) \|$", page, re.MULTILINE)[2:]
    assert listed == [(name, ", ".join(by)) for name, by in licences.needed().items()]
    assert [row for row in licences.rows() if row not in page] == []


def test_the_citation_is_of_this_version() -> None:
    citation = (TOP / "CITATION.cff").read_text()
    assert f"\nversion: {dbbbatch.__version__}\n" in citation
    changes = (TOP / "CHANGELOG.md").read_text()
    (version, date), *_ = re.findall(r"^## (\S+)(?: \((.*)\))?$", changes, re.MULTILINE)
    assert version == dbbbatch.__version__
    assert f"\ndate-released: {date}\n" in citation


def test_the_pages_install_this_version() -> None:
    named = {
        version
        for page in PAGES
        for version in re.findall(r"(?:/opt/dbb-|/dbbbatch:)(\d[\d.]*)", page.read_text())
    }
    assert named == {dbbbatch.__version__}


def test_the_index_names_every_page() -> None:
    index = (TOP / "docs" / "README.md").read_text().partition("\n## What was carried out\n")[0]
    assert [page.name for page in DOCS if page.name != "README.md" and page.name not in index] == []


def test_of_each_page_it_is_said_how_it_was_carried_out() -> None:
    table = (TOP / "docs" / "README.md").read_text().partition("\n## What was carried out\n")[2]
    named = re.findall(r"^\| \[.*\]\((.*)\) \|", table, re.MULTILINE)
    pages = {page.name for page in DOCS} - {"README.md"}
    assert named == ["../README.md", *sorted(pages, key=lambda name: name.removesuffix(".md"))]


def test_the_index_names_no_page_twice() -> None:
    index = (TOP / "docs" / "README.md").read_text().partition("\n## What was carried out\n")[0]
    rows = re.findall(r"^\| .* \| (\[.*) \|$", index, re.MULTILINE)
    assert sorted(rows) == sorted(set(rows))


def test_the_glossary_has_at_most_30_words() -> None:
    rows = re.findall(r"^\| (\w.*?) \|", (TOP / "docs" / "glossary.md").read_text(), re.MULTILINE)
    words = rows[1:]
    assert 20 < len(words) <= 30
    assert len(set(words)) == len(words)


def test_where_the_configuration_is_looked_for_is_documented() -> None:
    page = (TOP / "docs" / "going-live.md").read_text()
    places = ["-c FILE", "DBB_CONFIG", *map(str, load.SEARCH)]
    assert [place for place in places if f"`{place}`" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def command_lines(text: str) -> Iterator[str]:
    """Yield what a page says to type: lines of shell blocks, and inline code, that run a script."""
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield from re.split(r"&&|\|", re.sub(r"\s#.*", "", line))
    yield from re.findall(r"`(dbb[ -][^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def parse(line: str) -> tuple[str, set[str]] | None:
    """Find the command that a line runs and the options it gives; None if it runs none of ours."""
    words = [word for word in shlex.split(line) if word not in {"…", "..."}]
    while words and (words[0].startswith(("$", "*")) or re.match(r"[A-Z_]+=|\d", words[0])):
        words = words[1:]
    if not words or not Path(words[0]).name.startswith("dbb"):
        return None
    name, rest = Path(words[0]).name, words[1:]
    if name == "dbb":
        while rest and rest[0] in ("-c", "--config"):
            rest = rest[2:]
        for _ in range(2):
            if rest and f"{name} {rest[0]}" in COMMANDS:
                name, rest = f"{name} {rest[0]}", rest[1:]
    return name, {word.partition("=")[0] for word in rest if word.startswith("-") and word != "-"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_documented_command_and_option_exists(page: Path) -> None:
    for line in command_lines(page.read_text()):
        found = parse(line)
        if found is None:
            continue
        name, options = found
        if name in ("dbb", "dbb pause|resume") and options <= {"-c", "--help", "--version"}:
            continue
        assert name in COMMANDS, f"{line!r}: there is no command {name!r}"
        unknown = options - reference.options(COMMANDS[name])
        assert not unknown, f"{line!r}: {name} has no {', '.join(sorted(unknown))}"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_on_an_operators_page(name: str) -> None:
    pages = [page.read_text() for page in PAGES if page.name not in ("commands.md", "README.md")]
    pages += [(TOP / "README.md").read_text()]
    assert any(re.search(rf"\b{re.escape(name)}\b", page) for page in pages)


def exit_codes() -> set[int]:
    """Return every exit code that the code has a name for."""
    named = [vars(errors)[name] for name in vars(errors) if isinstance(vars(errors)[name], type)]
    return {runner.EXIT_OK, runner.EXIT_FAILED, runner.EXIT_UNFORESEEN} | {
        error.exit_code for error in named if issubclass(error, errors.DbbError)
    }


@pytest.mark.parametrize("page", ["README.md", "docs/monitoring.md"])
def test_the_table_of_exit_codes_is_complete(page: str) -> None:
    table = (TOP / page).read_text().partition("| code |")[2].partition("\n\n")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == exit_codes()


def test_manual_pages_explain_every_exit_code() -> None:
    assert set(man.EXIT_CODES) == exit_codes()


def test_there_is_a_description_of_every_script() -> None:
    assert {"dbb", *described.scripts()} == {path.name for path in (TOP / "bin").iterdir()}


@pytest.mark.parametrize(
    ("heading", "statuses"),
    [("Statuses at the handoff site:", HandoffStatus), ("Statuses in storage:", FileStatus)],
)
def test_the_tables_of_statuses_are_complete(heading: str, statuses: type[StrEnum]) -> None:
    table = (TOP / "docs" / "history.md").read_text().partition(heading)[2].partition("\n\n|")[2]
    named = re.findall(r"^\|? ?([A-Z]+) \|", table.partition("\n\n")[0], re.MULTILINE)
    assert set(named) == set(statuses)


def settings_of(text: str, directory: Path) -> load.Settings:
    path = directory / "dbb.toml"
    path.write_text(text)
    return load.load(path)


def kinds_of_trouble() -> set[str]:
    """Return all that the code calls a trouble: in tables, and in calls."""
    found = {*judge.OF_ALL.values(), *queries.INGEST_TROUBLE, "missing", "corrupt"}
    found |= {what for what, _ in judge.BY_CODE.values()}
    found |= {what for what, _, _ in queries.FINDER_TROUBLE.values()}
    place = {"Trouble": 2, "_trouble": 1, "Seen": 1}
    for path in (TOP / "dbbbatch" / "report").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call):
                name = getattr(call.func, "id", getattr(call.func, "attr", ""))
                what = call.args[place[name]] if name in place and call.args else None
                if isinstance(what, ast.Constant) and isinstance(what.value, str):
                    found.add(what.value)
    return found


def test_the_table_of_troubles_is_complete() -> None:
    page = (TOP / "docs" / "monitoring.md").read_text()
    table = page.partition("| trouble | meaning |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| ([a-z][^|]*) \|", table, re.MULTILINE)
    known = {*rows, *(word for row in rows for word in row.split(", "))}
    assert kinds_of_trouble() <= known
    assert {row for row in rows if ", " not in row} <= kinds_of_trouble()


def toml_blocks() -> list[tuple[str, str]]:
    return [
        (f"{page.name}-{number}", block)
        for page in PAGES
        for number, block in enumerate(
            re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL), 1
        )
        if not block.startswith("[project")
    ]


@pytest.mark.parametrize(("name", "block"), toml_blocks(), ids=[name for name, _ in toml_blocks()])
def test_each_configuration_in_a_page_is_valid(name: str, block: str, tmp_path: Path) -> None:
    if "[site]" in block:
        settings_of(block, tmp_path)
    else:
        # A part of a configuration: it must at least hold known keys only.
        tables = tomllib.loads(block)
        for kind, described in tables.items():
            known_kinds = {"alert", "database", "executor", "report", *sections.NAMED}
            assert kind in known_kinds, f"{name}: [{kind}]"
            for section in described.values() if kind in sections.NAMED else ():
                known = {field.name for field in fields.declared(sections.NAMED[kind])} | {
                    "endpoint"
                }
                assert set(section) <= known


def known_keys() -> set[str]:
    described = [sections.Site, sections.Database, sections.Alert, sections.Endpoint]
    described += [sections.Executor, *sections.NAMED.values()]
    described += [registry.find(name).Settings for name in registry.BUILT_IN]
    return {field.name for section in described for field in fields.declared(section)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_key_that_a_sentence_sets_exists(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    assert set(re.findall(r"`(\w+) = ", prose)) <= known_keys()


class TestSample:
    def test_is_valid_as_it_is(self, tmp_path: Path) -> None:
        settings = settings_of(sample_of_plugins(), tmp_path)
        assert list(settings.handoff) == ["latiss"]
        assert set(settings.target) == set(registry.BUILT_IN)

    def test_shows_the_true_defaults(self, tmp_path: Path) -> None:
        text = sample_of_plugins()
        every = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
        shown, meant = tomllib.loads(every), tomllib.loads(text)
        for kind, section in sections.NAMED.items():
            for name, table in meant[kind].items():
                if kind == "target" and name != "null":
                    continue
                for field in fields.declared(section):
                    default = field.metadata["default"]
                    if field.name not in table and default is not None and field.name != "config":
                        assert toml.toml_value(shown[kind][name][field.name]) == toml.toml_value(
                            default
                        )

    def test_has_every_key(self) -> None:
        text = sample_of_plugins()
        described = [sections.Site, sections.Database, sections.Alert, sections.Endpoint]
        described += [sections.Executor, *sections.NAMED.values()]
        described += [registry.find(name).Settings for name in registry.BUILT_IN]
        for section in described:
            for field in fields.declared(section):
                if field.name != "config":
                    assert re.search(rf"^(# )?{field.name} = ", text, re.MULTILINE), field

    def test_is_what_the_command_prints(self) -> None:
        assert run_script("dbb", "config", "sample").out == sample_of_plugins()


class TestCrontab:
    LINES = (TOP / "crontab.example").read_text().splitlines()

    def jobs(self) -> list[tuple[str, str]]:
        """Return the lines that start something: their five fields of time, and the command."""
        found = []
        for line in self.LINES:
            if line.strip() and not line.startswith("#") and not re.match(r"\w+=", line):
                *times, command = line.split(None, 5)
                found.append((" ".join(times), command))
        return found

    def test_each_command_and_option_exists(self) -> None:
        for _, line in self.jobs():
            found = parse(line)
            assert found is not None, line
            name, options = found
            assert name in COMMANDS, line
            assert options <= reference.options(COMMANDS[name]), line

    def test_each_time_is_one_that_cron_understands(self) -> None:
        limits = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]
        for times, _ in self.jobs():
            for text, (low, high) in zip(times.split(), limits, strict=True):
                step = re.fullmatch(r"(\*|\d+(?:-\d+)?(?:,\d+)*)(?:/\d+)?", text)
                assert step, text
                assert all(low <= int(number) <= high for number in re.findall(r"\d+", step[1]))

    def test_each_percent_sign_is_written_as_cron_wants_it(self) -> None:
        assert [line for _, line in self.jobs() if re.search(r"(?<!\\)%", line)] == []

    def test_the_database_is_backed_up(self) -> None:
        assert any(line.startswith("dbb backup ") for _, line in self.jobs())

    def test_each_script_has_a_line(self) -> None:
        named = {parse(line)[0] for _, line in self.jobs()}  # type: ignore[index]
        assert set(described.scripts()) <= named

    def test_each_line_is_explained(self) -> None:
        explained = False
        for line in self.LINES:
            if line.startswith("#"):
                explained = "----" not in line
            elif not line.strip():
                explained = False
            elif not re.match(r"\w+=", line):
                assert explained, line
