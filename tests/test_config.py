"""The configuration file: what is refused, and how it is said."""

import os
import pickle

import pytest

from dbbbatch import config
from dbbbatch.errors import ConfigError, UsageError


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "dbb.toml"
        path.write_text(text)
        return path

    return write


SITE = '[site]\nname = "s"\nstate = "/var/lib/dbb"\n'
HANDOFF = """
[handoff.a]
buffer = "/d/buffer"
holding = "/d/holding"
quarantine = "/d/quarantine"
[handoff.a.endpoint]
host = "far"
buffer = "/e/buffer"
staging = "/e/staging"
transfer = "scp {batch} {host}:{dest}"
"""


def test_a_missing_section_is_a_component_that_does_not_run(write):
    settings = config.load(write(SITE))
    assert not settings.handoff
    assert not settings.finder


def test_the_database_is_in_the_state_directory_unless_said_otherwise(write):
    assert config.load(write(SITE)).database.url == "sqlite:////var/lib/dbb/dbb.sqlite"


def test_a_relative_database_is_refused(write):
    with pytest.raises(ConfigError, match="absolute"):
        config.load(write(SITE + '[database]\nurl = "sqlite:///dbb.sqlite"\n'))


def test_a_database_url_in_error_hides_its_password(write):
    with pytest.raises(ConfigError) as caught:
        config.load(write(SITE + '[database]\nurl = "mysql://u:sesame@h/d"\n'))
    assert "sesame" not in str(caught.value)


def test_all_problems_are_reported_at_once(write):
    text = SITE + HANDOFF.replace("buffer =", "bufer =", 1) + "[findr.x]\n[database]\nurl = 3\n"
    with pytest.raises(ConfigError) as caught:
        config.load(write(text))
    said = "\n".join(caught.value.problems)
    assert "did you mean 'buffer'" in said
    assert "did you mean 'finder'" in said
    assert "[database] url" in said
    assert "[handoff.a] buffer: missing" in said


def test_every_problem_names_the_file(write):
    path = write("[site]\n[handof.a]\n")
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert all(problem.startswith(f"{path}: [") for problem in caught.value.problems)


def second(**directories):
    """Give a second handoff beside that of HANDOFF."""
    text = HANDOFF.replace("handoff.a", "handoff.b").replace("/d/", "/d2/").replace("/e/", "/e2/")
    for key, path in directories.items():
        text = text.replace(f'{key} = "/d2/{key}"', f'{key} = "{path}"')
    return HANDOFF + text


@pytest.mark.parametrize("key", ["buffer", "holding", "quarantine"])
@pytest.mark.parametrize("path", ["/d/buffer", "/d/buffer/below", "/d"])
def test_two_handoffs_that_would_take_each_others_files_are_refused(write, key, path):
    with pytest.raises(ConfigError) as caught:
        config.load(write(SITE + second(**{key: path})))
    problems = caught.value.problems
    assert any("[handoff.a]" in said and f"[handoff.b] {key}" in said for said in problems) or (
        key == "buffer" and "[handoff.b] buffer" in problems[0]
    )


def test_an_overlap_of_two_buffers_is_said_once(write):
    with pytest.raises(ConfigError) as caught:
        config.load(write(SITE + second(buffer="/d/buffer")))
    assert len(caught.value.problems) == 1


def test_two_handoffs_may_share_a_holding_area(write):
    assert set(config.load(write(SITE + second(holding="/d/holding"))).handoff) == {"a", "b"}


@pytest.mark.parametrize("path", ["/d/quarantine", "/d/quarantine/below", "/d/quarantine/"])
def test_two_sections_with_one_quarantine_are_refused(write, path):
    finder = f'[finder.f]\nsource = "/f/source"\nstorage = "/f/storage"\nquarantine = "{path}"\n'
    for text in (second(quarantine=path), HANDOFF + finder):
        with pytest.raises(ConfigError) as caught:
            config.load(write(SITE + text))
        (said,) = caught.value.problems
        assert "[handoff.a] quarantine (/d/quarantine) and [" in said
        assert "neither may lie in the other" in said


def test_sections_with_quarantines_side_by_side_are_two(write):
    assert set(config.load(write(SITE + second(quarantine="/d/quarantine2"))).handoff) == {"a", "b"}


def test_handoffs_with_buffers_side_by_side_are_two(write):
    assert set(config.load(write(SITE + second(buffer="/d/buffer2"))).handoff) == {"a", "b"}


def test_a_file_that_is_not_toml_is_one_line(write):
    with pytest.raises(ConfigError, match="is not TOML"):
        config.load(write("[site"))


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path / "none.toml")


def test_further_keys_of_an_endpoint_are_placeholders(write):
    endpoint = config.load(write(SITE + HANDOFF)).handoff["a"].endpoint
    assert endpoint.placeholders["host"] == "far"


def test_a_placeholder_without_a_value_is_refused(write):
    with pytest.raises(ConfigError, match="hots"):
        config.load(write(SITE + HANDOFF.replace("{host}", "{hots}")))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/d/holding", "/d/buffer/holding"),
        ("/d/quarantine", "/d/holding/quarantine"),
        ("/e/staging", "/e/buffer/staging"),
        ("/e/staging", "/e/sta ging"),
    ],
)
def test_directories_that_would_swallow_each_other_are_refused(write, before, after):
    with pytest.raises(ConfigError):
        config.load(write(SITE + HANDOFF.replace(before, after)))


def test_an_unknown_plugin_is_refused(write):
    with pytest.raises(ConfigError, match="plugin"):
        config.load(write(SITE + '[target.x]\nstorage = "/s"\nplugin = "nul"\n'))


def test_a_name_may_be_left_out_where_there_is_one_section(write):
    settings = config.load(write(SITE + HANDOFF))
    assert [s.label for s in settings.select("handoff", None)] == ["handoff.a"]


def test_a_name_must_be_given_where_there_are_two(write):
    settings = config.load(write(SITE + second()))
    with pytest.raises(UsageError, match="which one"):
        settings.select("handoff", None)
    assert len(settings.select("handoff", None, every=True)) == 2


def test_an_unknown_name_suggests_the_nearest(write):
    with pytest.raises(UsageError, match="known: a"):
        config.load(write(SITE + HANDOFF)).select("handoff", "latiss")


def test_the_file_is_found_by_option_then_environment_then_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dbb.toml").touch()
    assert config.find(None) == tmp_path / "dbb.toml"
    monkeypatch.setenv("DBB_CONFIG", str(tmp_path / "e.toml"))
    assert config.find(None) == tmp_path / "e.toml"
    assert config.find(str(tmp_path / "o.toml")) == tmp_path / "o.toml"


def test_a_user_without_any_file_is_told_where_one_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "SEARCH", config.SEARCH[:1])
    with pytest.raises(ConfigError, match="dbb config sample"):
        config.find(None)


def test_settings_can_be_handed_to_another_process(write):
    target = config.load(write(SITE + '[target.x]\nstorage = "/s"\nplugin = "null"\n')).target["x"]
    assert pickle.loads(pickle.dumps(target)) == target


def test_a_bad_utf8_file_is_one_line(tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff" + os.urandom(0))
    with pytest.raises(ConfigError, match="is not TOML"):
        config.load(path)


def test_a_target_without_a_time_limit_is_refused(write):
    section = '[target.x]\nstorage = "/s"\nplugin = "null"\ntimeout = 0\n'
    with pytest.raises(ConfigError, match="timeout: must be longer than 0"):
        config.load(write(SITE + section))
