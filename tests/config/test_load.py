"""The configuration file: what is refused, and how it is said."""

import os
import pickle

import pytest

from dbbbatch.config import load
from dbbbatch.errors import ConfigError, UsageError
from dbbbatch.targets import registry


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "dbb.toml"
        path.write_text(text)
        return path

    return write


def refuse(path):
    """Raise all that `dbb check` would say is wrong in the file."""
    _, problems = load.examine_file(path, registry)
    if problems:
        raise ConfigError(*problems)


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
    settings = load.load(write(SITE))
    assert not settings.handoff
    assert not settings.finder


def test_the_database_is_in_the_state_directory_unless_said_otherwise(write):
    assert load.load(write(SITE)).database.url == "sqlite:////var/lib/dbb/dbb.sqlite"


def test_a_relative_database_is_refused(write):
    with pytest.raises(ConfigError, match="absolute"):
        refuse(write(SITE + '[database]\nurl = "sqlite:///dbb.sqlite"\n'))


def test_a_database_url_in_error_hides_its_password(write):
    with pytest.raises(ConfigError) as caught:
        refuse(write(SITE + '[database]\nurl = "mysql://u:sesame@h/d"\n'))
    assert "sesame" not in str(caught.value)
    assert "'mysql://u@h/d'" in str(caught.value)


def test_all_problems_are_reported_at_once(write):
    text = SITE + HANDOFF.replace("buffer =", "bufer =", 1) + "[findr.x]\n[database]\nurl = 3\n"
    with pytest.raises(ConfigError) as caught:
        refuse(write(text))
    said = "\n".join(caught.value.problems)
    assert "did you mean 'buffer'" in said
    assert "did you mean 'finder'" in said
    assert "[database] url" in said
    assert "[handoff.a] buffer: missing" in said


def test_a_database_that_is_neither_hides_no_other_problem(write):
    with pytest.raises(ConfigError) as caught:
        refuse(write(SITE + '[database]\nurl = "mysql://h/d"\n' + "[findr.x]\n"))
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("key", ['name = ""', 'name = " "'])
def test_a_site_without_a_name_is_refused(write, key):
    with pytest.raises(ConfigError, match=r"\[site\] name: must not be empty"):
        refuse(write(SITE.replace('name = "s"', key)))


def test_a_section_without_a_name_is_one_line(write):
    with pytest.raises(ConfigError) as caught:
        refuse(write(SITE + HANDOFF.replace(".a", "")))
    (problem,) = caught.value.problems
    assert problem.endswith("[handoff]: sections are named, as in [handoff.latiss]")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (HANDOFF.replace("scp {batch}", "scp {bach}"), "[handoff.a.endpoint] transfer: "),
        (HANDOFF.replace('"/e/staging"', '"/e/buffer/x"'), "[handoff.a.endpoint] staging "),
        (
            '[target.x]\nstorage = "/s"\nplugin = "command"\nconfig = {command = "r"}\n',
            "[target.x.config] command: ",
        ),
    ],
)
def test_a_problem_names_the_section_in_which_its_key_stands(write, text, named):
    path = write(SITE + text)
    with pytest.raises(ConfigError) as caught:
        refuse(path)
    assert caught.value.problems[0].startswith(f"{path}: {named}")


def test_sections_that_are_whole_can_be_looked_at_beside_others(write):
    text = SITE + HANDOFF + '[target.x]\nstorage = "/s"\nplugin = "nul"\n'
    settings, problems = load.examine_file(write(text), registry)
    assert (list(settings.handoff), list(settings.target)) == (["a"], [])
    assert len(problems) == 1


def test_every_problem_names_the_file(write):
    path = write("[site]\n[handof.a]\n")
    with pytest.raises(ConfigError) as caught:
        refuse(path)
    assert all(problem.startswith(f"{path}: [") for problem in caught.value.problems)


def second(**directories):
    """Return a second handoff beside that of HANDOFF."""
    text = HANDOFF.replace("handoff.a", "handoff.b").replace("/d/", "/d2/").replace("/e/", "/e2/")
    for key, path in directories.items():
        text = text.replace(f'{key} = "/d2/{key}"', f'{key} = "{path}"')
    return HANDOFF + text


@pytest.mark.parametrize("key", ["buffer", "holding", "quarantine"])
@pytest.mark.parametrize("path", ["/d/buffer", "/d/buffer/below", "/d"])
def test_two_handoffs_that_would_take_each_others_files_are_refused(write, key, path):
    with pytest.raises(ConfigError) as caught:
        refuse(write(SITE + second(**{key: path})))
    problems = caught.value.problems
    assert any("[handoff.a]" in said and f"[handoff.b] {key}" in said for said in problems) or (
        key == "buffer" and "[handoff.b] buffer" in problems[0]
    )


def test_an_overlap_of_two_buffers_is_said_once(write):
    with pytest.raises(ConfigError) as caught:
        refuse(write(SITE + second(buffer="/d/buffer")))
    assert len(caught.value.problems) == 1


def test_two_handoffs_may_share_a_holding_area(write):
    assert set(load.load(write(SITE + second(holding="/d/holding"))).handoff) == {"a", "b"}


@pytest.mark.parametrize("path", ["/d/quarantine", "/d/quarantine/below", "/d/quarantine/"])
def test_two_sections_with_one_quarantine_are_refused(write, path):
    finder = f'[finder.f]\nsource = "/f/source"\nstorage = "/f/storage"\nquarantine = "{path}"\n'
    for text in (second(quarantine=path), HANDOFF + finder):
        with pytest.raises(ConfigError) as caught:
            refuse(write(SITE + text))
        (said,) = caught.value.problems
        assert "[handoff.a] quarantine (/d/quarantine) and [" in said
        assert "neither may lie in the other" in said


def test_sections_with_quarantines_side_by_side_are_two(write):
    assert set(load.load(write(SITE + second(quarantine="/d/quarantine2"))).handoff) == {"a", "b"}


def test_handoffs_with_buffers_side_by_side_are_two(write):
    assert set(load.load(write(SITE + second(buffer="/d/buffer2"))).handoff) == {"a", "b"}


@pytest.mark.parametrize(
    "text", ["[site", "a = " + "[" * 5000, "a = " + "9" * 5000, "a = [{b = 0x" + "f" * 5000 + "}]"]
)
def test_a_file_that_is_not_toml_is_one_line(write, text):
    with pytest.raises(ConfigError, match="is not TOML"):
        refuse(write(text))


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        refuse(tmp_path / "none.toml")


def test_further_keys_of_an_endpoint_are_placeholders(write):
    endpoint = load.load(write(SITE + HANDOFF)).handoff["a"].endpoint
    assert endpoint.placeholders["host"] == "far"


def test_a_placeholder_without_a_value_is_refused(write):
    with pytest.raises(ConfigError, match="hots"):
        refuse(write(SITE + HANDOFF.replace("{host}", "{hots}")))


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
        refuse(write(SITE + HANDOFF.replace(before, after)))


def test_an_unknown_plugin_is_refused(write):
    with pytest.raises(ConfigError, match="plugin"):
        refuse(write(SITE + '[target.x]\nstorage = "/s"\nplugin = "nul"\n'))


def test_a_name_may_be_left_out_where_there_is_one_section(write):
    settings = load.load(write(SITE + HANDOFF))
    assert settings.chosen("handoff", None) == ["a"]


def test_a_name_must_be_given_where_there_are_two(write):
    settings = load.load(write(SITE + second()))
    with pytest.raises(UsageError, match="which one"):
        settings.chosen("handoff", None)
    assert settings.chosen("handoff", None, every=True) == ["a", "b"]


def test_an_unknown_name_suggests_the_nearest(write):
    with pytest.raises(UsageError, match="known: a"):
        load.load(write(SITE + HANDOFF)).chosen("handoff", "latiss")


def test_the_file_is_found_by_option_then_environment_then_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("dbb.toml", "e.toml", "o.toml"):
        (tmp_path / name).write_text(SITE)
    assert load.load().path == tmp_path / "dbb.toml"
    monkeypatch.setenv("DBB_CONFIG", str(tmp_path / "e.toml"))
    assert load.load().path == tmp_path / "e.toml"
    assert load.load(tmp_path / "o.toml").path == tmp_path / "o.toml"


def test_a_user_without_any_file_is_told_where_one_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(load, "SEARCH", load.SEARCH[:1])
    with pytest.raises(ConfigError, match="dbb config sample"):
        load.load()


def test_settings_can_be_handed_to_another_process(write):
    target = load.load(write(SITE + '[target.x]\nstorage = "/s"\nplugin = "null"\n')).target["x"]
    assert pickle.loads(pickle.dumps(target)) == target


def test_a_bad_utf8_file_is_one_line(tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff" + os.urandom(0))
    with pytest.raises(ConfigError, match="is not TOML"):
        refuse(path)


def test_a_target_without_a_time_limit_is_refused(write):
    section = '[target.x]\nstorage = "/s"\nplugin = "null"\ntimeout = 0\n'
    with pytest.raises(ConfigError, match="timeout: must be longer than 0"):
        refuse(write(SITE + section))


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Search the current directory, then another place, where a correct file lies."""
    here, there = tmp_path / "here", tmp_path / "there"
    for directory in (here, there):
        directory.mkdir()
        (directory / "dbb.toml").write_text(SITE)
    monkeypatch.chdir(here)
    monkeypatch.setattr(load, "SEARCH", (load.SEARCH[0], there / "dbb.toml"))
    return here, there


only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.mark.promise
@only_root
@pytest.mark.parametrize("what", ["dbb.toml", "."])
def test_a_file_here_of_another_user_is_passed_over_and_said(places, what):
    here, there = places
    os.chown(here / what, 65534, -1)
    settings = load.load()
    assert settings.path == there / "dbb.toml"
    (note,) = settings.notes
    assert note.startswith("dbb.toml is not used: ")


def test_a_file_of_ours_here_that_others_can_write_is_refused(places):
    (places[0] / "dbb.toml").chmod(0o666)
    with pytest.raises(ConfigError, match="can be written by everybody"):
        load.load()


@pytest.mark.promise
def test_a_current_directory_that_is_gone_does_not_stop_the_search(places):
    here, there = places
    (here / "dbb.toml").unlink()
    here.rmdir()
    assert load.load().path == there / "dbb.toml"
    with pytest.raises(ConfigError, match="cannot be read"):
        load.load("dbb.toml")


@pytest.mark.promise
@only_root
@pytest.mark.parametrize("named", ["option", "environment"])
def test_a_file_that_is_named_is_held_to_the_same(places, named, monkeypatch):
    path = places[1] / "dbb.toml"
    os.chown(path, 65534, -1)
    if named == "environment":
        monkeypatch.setenv("DBB_CONFIG", str(path))
    with pytest.raises(ConfigError, match=r"belongs to .* sudo -u"):
        load.load(path if named == "option" else None)


WRONG = {
    "unknown key": '[finder.x]\nsuorce = "/s"\n',
    "no plugin": '[target.x]\nstorage = "/s"\nplugin = "nul"\n',
    "plugin key": '[target.x]\nstorage = "/s"\nplugin = "link"\nconfig = {rot = "/r"}\n',
    "variable": '[target.x]\nstorage = "/s"\nplugin = "rucio"\nconfig.password = "${NO_SUCH}"\n',
    "name": '[target."x y"]\nstorage = "/s"\nplugin = "null"\n',
    "no name": '[finder]\nsource = "/s"\n',
    "no table": "finder = 3\n",
    "unknown table": "[findr.x]\n",
    "another handoff": HANDOFF.replace("handoff.a", "handoff.x").replace("/", "/x/")
    + "bufer = []\n",
    "endpoint": '[handoff.x]\nendpoint = "e"\n',
}


@pytest.mark.promise
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_elsewhere_stops_no_section_and_is_said_by_check(write, wrong):
    text = WRONG[wrong]
    path = write(text + SITE + HANDOFF if wrong == "no table" else SITE + HANDOFF + text)
    assert load.load(path).section("handoff", "a").name == "a"
    settings, problems = load.examine_file(path, registry)
    assert problems
    assert "x" not in {*settings.finder, *settings.target, *settings.handoff}


@pytest.mark.parametrize("wrong", ["no plugin", "plugin key", "variable"])
def test_a_script_is_told_all_that_is_wrong_with_its_own_section(write, wrong):
    settings = load.load(write(SITE + HANDOFF + WRONG[wrong]))
    with pytest.raises(ConfigError, match=r"\[target.x"):
        settings.check_plugin(settings.labelled("target.x"), registry)
    # What only names it, as `dbb retry` does, needs no plugin.
    assert settings.labelled("target.x").name == "x"


def test_a_section_that_is_wrong_still_counts_where_a_name_is_left_out(write):
    settings = load.load(write(SITE + HANDOFF + WRONG["another handoff"]))
    with pytest.raises(UsageError, match="which one"):
        settings.chosen("handoff", None)
    assert settings.named("handoff.x") == ("handoff", "x")


@pytest.mark.parametrize("table", ["[databse]", "[sit]"])
def test_a_misspelt_table_that_all_need_stops_all(write, table):
    with pytest.raises(ConfigError, match="did you mean"):
        load.load(write(SITE + HANDOFF + f"{table}\n"))


@pytest.mark.promise
def test_an_overlap_stops_both_sections_and_no_other(write):
    third = HANDOFF.replace("handoff.a", "handoff.c").replace("/d/", "/c/")
    settings = load.load(write(SITE + second(buffer="/d/buffer") + third))
    for name in "ab":
        with pytest.raises(ConfigError, match="neither may lie in the other"):
            settings.section("handoff", name)
    assert settings.section("handoff", "c")


def test_a_tree_in_a_buffer_stops_the_ingester_that_would_fill_it(write):
    target = '[target.x]\nstorage = "/s"\nplugin = "link"\nconfig = {root = "/d/buffer/t"}\n'
    settings = load.load(write(SITE + HANDOFF + target))
    assert settings.section("handoff", "a")
    with pytest.raises(ConfigError, match="must not lie in"):
        settings.check_plugin(settings.labelled("target.x"), registry)


@pytest.mark.promise
@pytest.mark.parametrize(
    "line",
    [
        "password = 48151623",
        'password = ["48151623"]',
        'password = {is = "48151623"}',
        'password = "48151623\\u0000"',
        'url = ["postgresql://u:48151623@h/d"]',
        'url = "postgresql:/u:48151623@h/d"',
        'url = "u:48151623@h/d"',
        'url = "host=h password=48151623"',
        'url = "mysql://u:x?48151623@h/d"',
        'url = "mysql://u:x/48151623@h/d"',
        'url = "mysql://u:x@48151623@h/d"',
        'url = "postgresql://u:x/48151623@h/d"',
        'url = "postgresql://u:48151623/x@h/d"',
        'url = "postgresql://u:x@48151623@h/d"',
        'url = "postgresql://u:x 48151623@h/d"',
        'url = "postgresql://u:48151623%zz@h/d"',
        'password_file = "48151623"',
        "password_file = 48151623",
    ],
)
def test_no_error_quotes_a_secret(write, line):
    with pytest.raises(ConfigError) as caught:
        load.load(write(f"{SITE}[database]\n{line}\n"))
    assert "48151623" not in str(caught.value)
    assert "[database] " in str(caught.value)


@pytest.mark.promise
@pytest.mark.parametrize("command", ["scp {batch} 'x", "scp -p48151623 {batch} 'x", "scp ${PW}"])
def test_no_error_quotes_a_command(write, command):
    text = HANDOFF.replace("scp {batch} {host}:{dest}", command)
    _, problems = load.examine_file(write(SITE + text), registry)
    assert "48151623" not in "".join(problems)
    assert any("transfer" in problem for problem in problems)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:pa?ss%2F@h/d",
        "postgresql://u@h:5432/d?application_name=a@b",
        "postgresql://h:5432/d?application_name=a@b",
        "postgresql://h/d",
        "postgres:///d?host=/run/postgresql",
        "sqlite:////var/a:b@c/d",
    ],
)
def test_a_sound_url_is_taken(write, url):
    assert load.load(write(f'{SITE}[database]\nurl = "{url}"\n')).database.url == url


@pytest.mark.parametrize(
    ("keys", "remote"),
    [
        ('host = "far"', "{host} {command}"),
        ('host = "far"\nuser = "dbb"', "-l {user} {host} {command}"),
        ('host = "far"\nremote = "rsh {host} {command}"', "rsh {host} {command}"),
        ("", ""),
    ],
)
def test_a_host_is_reached_by_ssh_unless_a_command_is_given(write, keys, remote):
    text = HANDOFF.replace('host = "far"', keys).replace("{host}:", "")
    found = load.load(write(SITE + text)).handoff["a"].endpoint.remote
    assert found.endswith(remote)
    assert found.startswith("ssh -o BatchMode=yes ") == ("host" in keys and "remote" not in keys)


@pytest.mark.parametrize(
    ("handoff", "endpoint", "problem"),
    [
        ("success_codes = [0, 24]", "", "[handoff.a] success_codes: the built-in stream has no"),
        ("", 'tranfser = "cp {batch} {dest}"', "[handoff.a.endpoint] tranfser: no command uses it"),
        ("", 'tranfser = "cp {batch} {dest}"', "did you mean 'transfer'?"),
        ("", 'partials = "x"', "[handoff.a.endpoint] partials: no command uses it"),
        (
            'bandwidth = "1 MB/s"',
            'transfer = "cp {batch} {dest}"',
            "[handoff.a] bandwidth: limits the built-in stream only",
        ),
        (
            'resume_from = "1 GB"',
            'transfer = "cp {batch} {dest}"',
            "[handoff.a] resume_from: continues files of the built-in stream only",
        ),
    ],
)
def test_a_key_that_its_way_of_sending_does_not_know_is_refused(write, handoff, endpoint, problem):
    text = HANDOFF.replace('transfer = "scp {batch} {host}:{dest}"', endpoint)
    text = text.replace("[handoff.a]", f"[handoff.a]\n{handoff}")
    with pytest.raises(ConfigError) as caught:
        refuse(write(SITE + text))
    assert problem in str(caught.value)


def test_without_a_command_the_built_in_stream_sends_the_files(write):
    text = HANDOFF.replace('transfer = "scp {batch} {host}:{dest}"', 'port = 1\nuser = "u"')
    text += 'remote = "ssh -p {port} {host} {command}"\n'
    handoff = load.load(write(SITE + text)).handoff["a"]
    assert handoff.has_stream
    assert not load.load(write(SITE + HANDOFF)).handoff["a"].has_stream


# ---- [alert] -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("comand = 'x'", "did you mean 'command'"),
        ("command = 'mail ${PASSWORD}'", "command: "),
        ("command = 'mail {sub}'", "{subject} has one"),
        ("ping = 'ftp://h/x'", "ping: expected a URL"),
        ("ping = 'https://user@h/x'", "ping: expected a URL"),
        ("ping = 'https://h/{nme}'", "ping: expected a URL"),
        ("ping = 'http://['", "ping: expected a URL"),
        ("ping = 'http://h:99999999/'", "ping: expected a URL"),
        ("limit = 0", "limit: expected more than 0 s"),
    ],
)
def test_what_is_wrong_with_alerts_stops_no_pass(write, key, expected):
    settings = load.load(write(SITE + HANDOFF + f"[alert]\n{key}\n"))
    assert list(settings.handoff) == ["a"]
    (problem,) = settings.wrong["alert"]
    assert "[alert] " in problem
    assert expected in problem
    assert settings.alert.command is settings.alert.ping is None
    assert problem in load.examine_file(settings.path, registry)[1]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("kind = 'dusk'", "kind: expected one of threads, dask"),
        ("kind = 'dask'", 'scheduler: with kind = "dask", set this or `command`, and not both'),
        ("scheduler = 'tcp://archive:8786'", "expected tls://HOST:PORT, or tcp://127.0.0.1:PORT"),
        ("scheduler = 'tcp://127.0.0.1.example.org:1'", "can run programs as its user"),
        ("scheduler = 'archive:8786'", "scheduler: expected tls://HOST:PORT"),
        ("kind = 'dask'\nscheduler = 'tls://archive:8786'", "tls_ca, tls_cert and tls_key"),
        ("kind = 'dask'\nscheduler = 'tcp://127.0.0.1:1'\ncommand = 'x'", "and not both"),
        ("tls_ca = 'ca.pem'", "tls_ca: expected an absolute path"),
    ],
)
def test_what_is_wrong_with_the_executor_makes_it_threads(write, keys, expected):
    settings = load.load(write(SITE + HANDOFF + f"[executor]\n{keys}\n"))
    assert list(settings.handoff) == ["a"]
    (problem,) = settings.wrong["executor"]
    assert "[executor] " in problem
    assert expected in problem
    assert settings.executor.kind == "threads"


def test_a_scheduler_is_reached_by_tls_or_on_this_machine(write):
    files = "".join(f"tls_{name} = '/etc/dbb/{name}.pem'\n" for name in ("ca", "cert", "key"))
    for address in ("tls://archive.example.org:8786", "tcp://127.0.0.1:8786", "tcp://[::1]:8786"):
        keys = f"[executor]\nkind = 'dask'\nscheduler = '{address}'\n{files}"
        settings = load.load(write(SITE + keys))
        assert (settings.wrong, settings.executor.scheduler) == ({}, address)


def test_alerts_may_name_the_section_in_a_url_and_the_subject_in_a_command(write):
    keys = "command = 'mail -s {subject} a@b'\nping = 'http://h/{label}/{kind}-{name}?create=1'\n"
    settings = load.load(write(SITE + "[alert]\n" + keys))
    assert settings.wrong == {}
    assert settings.alert.limit == 5
