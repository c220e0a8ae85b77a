"""The report's file: what it may say, what applies to which check, and every mistake as one line with its place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from mailprobe.options import declarations
from nagios_checks.report.config import load, unusable
from nagios_checks.report.plan import Config, ConfigError
from nagios_checks.report.registry import PROTOCOLS
from nagios_checks.report.yamlfile import MAX_OCTETS, MAX_VALUES

from .running import REPOSITORY

LOGIN = "username: probe, tls: starttls"


def read(path: Path, text: str) -> Config:
    path.write_text(dedent(text), encoding="utf-8")
    return load(str(path), PROTOCOLS)


def faults(path: Path, text: str | bytes) -> list[str]:
    """The mistakes of a file, less its name."""
    path.write_bytes(text if isinstance(text, bytes) else dedent(text).encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError) as caught:
        load(str(path), PROTOCOLS)
    found = [str(fault).removeprefix(f"{path}:").lstrip() for fault in caught.value.faults]
    assert all(line.isprintable() for line in found)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checks.yaml"


def test_a_file_as_the_documentation_has_it(path: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n", encoding="utf-8")
    config = read(
        path,
        f"""\
        title: Mail of example.org
        defaults:
          timeout: 12.5
          warning: {{certificate_days: "30:"}}
        checks:
          - name: inbound mail
            protocol: smtp
            host: mx1.example.org
            tls: starttls
            critical: {{time: 5, certificate_days: "7:"}}
          - name: webmail's mailboxes
            protocol: imap
            group: users
            host: imap.example.org
            tls: implicit
            username: probe
            password_file: {tmp_path}/secret
            folder: [INBOX, Archive]
        """,
    )
    smtp, imap = config.checks
    assert config.title == "Mail of example.org"
    assert (smtp.name, smtp.protocol, smtp.group, smtp.fault) == ("inbound mail", "smtp", None, None)
    assert (smtp.options.host, smtp.options.tls, smtp.options.timeout) == ("mx1.example.org", "starttls", 12.5)
    assert (smtp.warning, smtp.critical) == ({"certificate_days": "30:"}, {"time": "5", "certificate_days": "7:"})
    assert (imap.group, imap.options.password, imap.options.folder) == ("users", "s3cret", ("INBOX", "Archive"))
    assert config.advice == []


# What applies.


def test_a_check_wins_over_its_group_and_the_group_over_the_defaults(path: Path) -> None:
    config = read(
        path,
        """\
        defaults: {timeout: 1, port: 1, family: ipv4, warning: {time: 1, connect_time: 1}}
        groups:
          one: {timeout: 2, port: 2, warning: {time: 2, greeting_time: 2}}
          empty:
        checks:
          - {name: a, protocol: smtp, host: a, group: one, timeout: 3, warning: {time: 3}}
          - {name: b, protocol: smtp, host: b, group: empty}
          - {name: c, protocol: smtp, host: c}
        """,
    )
    a, b, c = config.checks
    assert (a.options.timeout, a.options.port, a.options.family) == (3, 2, "ipv4")
    assert a.warning == {"time": "3", "connect_time": "1", "greeting_time": "2"}
    assert (b.options.timeout, b.options.port) == (c.options.timeout, c.options.port) == (1, 1)


def test_defaults_apply_where_a_protocol_has_the_option_or_the_metric(path: Path) -> None:
    config = read(
        path,
        """\
        defaults: {rcpt_to: [postmaster@example.org], folder: [Archive], critical: {messages: 9, size_limit: "1:"}}
        checks:
          - {name: a, protocol: smtp, host: a}
          - {name: b, protocol: imap, host: b}
          - {name: c, protocol: sieve, host: c}
        """,
    )
    assert [check.critical for check in config.checks] == [{"size_limit": "1:"}, {"messages": "9"}, {}]
    assert config.checks[0].options.rcpt_to == ("postmaster@example.org",)


def test_null_takes_a_default_back(path: Path) -> None:
    config = read(
        path,
        """\
        defaults: {port: 2525, warning: {time: 1, connect_time: 1}}
        checks: [{name: a, protocol: smtp, host: a, port: null, warning: {time: }}]
        """,
    )
    assert config.checks[0].options.port is None
    assert config.checks[0].warning == {"connect_time": "1"}


def test_a_default_for_certificates_is_for_checks_that_see_one(path: Path) -> None:
    config = read(
        path,
        """\
        defaults: {warning: {certificate_days: "30:", tls_time: 1}}
        checks: [{name: a, protocol: smtp, host: a}, {name: b, protocol: smtp, host: b, tls: implicit}]
        """,
    )
    assert [check.warning for check in config.checks] == [{}, {"certificate_days": "30:", "tls_time": "1"}]


def test_a_default_that_is_wrong_for_one_check_is_told_where_it_stands(path: Path) -> None:
    text = """\
        defaults:
          mechanism: APOP
        checks:
          - {name: a, protocol: pop3, host: a, username: u, tls: implicit, password_env: HOME}
          - {name: b, protocol: imap, host: b, username: u, tls: implicit, password_env: HOME}
        """
    (found,) = faults(path, text)
    assert found.startswith("2: defaults.mechanism: 'APOP' is none of ")
    assert found.endswith(" (for checks[1])")


def test_anchors_and_merge_keys_work(path: Path) -> None:
    config = read(
        path,
        """\
        checks:
          - &mx {name: a, protocol: smtp, host: a, port: 2525}
          - {<<: *mx, name: b, port: 25}
        """,
    )
    assert [(check.name, check.options.host, check.options.port) for check in config.checks] == [
        ("a", "a", 2525),
        ("b", "a", 25),
    ]


@pytest.mark.parametrize(
    ("written", "ranges"),
    [
        ("{time: 1:30}", {"time": "1:30"}),  # YAML 1.1 would make 90 of it
        ("{time: 5}", {"time": "5"}),
        ("{time: 0.00001}", {"time": "0.00001"}),
        ("{time: 1.50}", {"time": "1.5"}),
        ('{time: "@1:9"}', {"time": "@1:9"}),
        ("{time: 1e1}", {"time": "10.0"}),
        ("{time: ~}", {}),
        ("{}", {}),
        ("", {}),
    ],
)
def test_a_range_is_what_is_written(path: Path, written: str, ranges: dict[str, str]) -> None:
    config = read(path, f"checks: [{{name: a, protocol: smtp, host: a, warning: {written} }}]\n")
    assert config.checks[0].warning == ranges


# Secrets.


def test_secrets_come_from_files_the_environment_and_commands(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("of a file\n", encoding="utf-8")
    monkeypatch.setenv("MAIL_SECRET", "of the environment")
    config = read(
        path,
        f"""\
        defaults: {{{LOGIN}, host: a}}
        checks:
          - {{name: a, protocol: smtp, password_file: {tmp_path}/secret}}
          - {{name: b, protocol: smtp, password_env: MAIL_SECRET}}
          - {{name: c, protocol: smtp, token_command: echo of a command}}
        """,
    )
    found = [(check.options.password, check.options.token) for check in config.checks]
    assert found == [("of a file", None), ("of the environment", None), (None, "of a command")]


def test_a_password_in_the_file_works_and_is_advised_against(path: Path) -> None:
    config = read(path, f"checks:\n- {{name: a, protocol: smtp, host: a, {LOGIN},\n   password: hunter22}}\n")
    assert config.checks[0].options.password == "hunter22"
    (advice,) = map(str, config.advice)
    assert advice == f"{path}:3: checks[0].password: whoever reads this file has the password: password_file is better"


def test_the_way_a_check_gives_its_secret_replaces_the_way_the_defaults_do(path: Path) -> None:
    config = read(
        path,
        f"""\
        defaults: {{{LOGIN}, host: a, password_file: /nonexistent}}
        checks: [{{name: a, protocol: smtp, password_command: echo mine}}]
        """,
    )
    assert config.checks[0].fault is None
    assert config.checks[0].options.password == "mine"


def test_a_secret_that_is_not_there_is_the_fault_of_its_check_only(path: Path) -> None:
    config = read(
        path,
        f"""\
        checks:
          - {{name: a, protocol: smtp, host: a}}
          - name: b
            protocol: smtp
            host: b
            {LOGIN.replace(", ", chr(10) + " " * 12)}
            password_file: /nonexistent
        """,
    )
    assert config.checks[0].fault is None
    assert str(config.checks[1].fault) == (
        f"{path}:8: checks[1].password_file: '/nonexistent' cannot be read: No such file or directory"
    )
    assert unusable(config, str(path)) == [config.checks[1].fault]


def test_a_mistake_that_many_checks_share_is_told_once(path: Path) -> None:
    checks = "".join(f"  - {{name: c{number}, protocol: smtp, host: a}}\n" for number in range(50))
    assert faults(path, f"defaults: {{{LOGIN}, password_env: X, helo: a b}}\nchecks:\n{checks}") == [
        "1: defaults.helo: 'a b' is no host name or address in brackets (for checks[0] and 49 more)"
    ]
    config = read(path, f"defaults: {{{LOGIN}, password_file: /none, ca_file: /none}}\nchecks:\n{checks}")
    assert [str(fault).removeprefix(f"{path}:") for fault in unusable(config, str(path))] == [
        "1: defaults.password_file: '/none' cannot be read: No such file or directory",
        "1: defaults.ca_file: '/none' cannot be read: No such file or directory (for checks[0] and 49 more)",
    ]


def test_a_secret_in_a_file_that_cannot_have_that_name_is_a_fault(path: Path) -> None:
    for source in ("file", "command"):
        check = f'{{name: a, protocol: smtp, host: a, {LOGIN}, password_{source}: "a\\0b"}}'
        fault = read(path, f"checks: [{check}]\n").checks[0].fault
        assert f"checks[0].password_{source}: 'a\\x00b' is no " in str(fault)


def test_a_command_that_many_checks_name_runs_once(path: Path, tmp_path: Path) -> None:
    command = tmp_path / "command"
    command.write_text(f"#!/bin/sh\necho run >> {tmp_path}/runs\necho s3cret\n", encoding="utf-8")
    command.chmod(0o755)
    checks = "".join(f"  - {{name: c{number}, protocol: smtp}}\n" for number in range(50))
    config = read(path, f"defaults: {{{LOGIN}, host: a, password_command: {command}}}\nchecks:\n{checks}")
    assert {check.options.password for check in config.checks} == {"s3cret"}
    assert (tmp_path / "runs").read_text() == "run\n"


def test_no_secret_is_ever_shown(path: Path) -> None:
    found = faults(path, "checks: [{name: a, protocol: smtp, host: a, password: hunter22, token: [hunter22]}]\n")
    assert found
    assert "hunter22" not in "".join(found)


# Mistakes.

ONE = "checks: [{name: a, protocol: smtp, host: a}]\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "is empty: there is no check"),
        ("# nothing\n", "is empty: there is no check"),
        ("- a\n", "is not a mapping with a key checks"),
        ("5\n", "is not a mapping with a key checks"),
        ("title: x\n", "1: checks: is missing"),
        ("checks: []\n", "1: checks: there is no check"),
        ("checks:\n", "1: checks: there is no check"),
        ("checks: {a: b}\n", "1: checks: is not a list"),
        (ONE + "check: 1\n", "2: check: there is no such key; did you mean checks?"),
        (ONE + "title: 5\n", "2: title: expected a text, not a whole number"),
        (ONE + 'title: "\\e[31m"\n', "2: title: has a control character as character 1: take it out"),
        (ONE + "defaults: 5\n", "2: defaults: expected a mapping of options"),
        (ONE + "groups: [a]\n", "2: groups: expected a mapping of names and options"),
        (ONE + "groups: {a: 5}\n", "2: groups.a: expected a mapping of options"),
        (
            ONE + "defaults:\n  timeuot: 5\n",
            "3: defaults.timeuot: there is no such option; did you mean timeout?",
        ),
        (ONE + "defaults: {name: x}\n", "2: defaults.name: there is no such option"),
        (ONE + "groups:\n  a:\n    tls: on\n", "4: groups.a.tls: 'on' is none of none, starttls, implicit"),
        (ONE + ONE, "2: checks is given twice, first in line 1"),
        (ONE + "---\n" + ONE, "2: has a second document: one file is one report"),
        (
            ONE + "title: !!python/name:os.system x\n",
            "2: tag:yaml.org,2002:python/name:os.system: tags have no meaning here",
        ),
        (ONE + "title: *x\n", "2: there is no anchor &x before"),
        (
            ONE + "title: {a: b\n",
            "3: is no YAML: did not find expected ',' or '}', while parsing a flow mapping",
        ),
        (ONE + "title: a\0b\n", "2: is no YAML: there is a control character"),
        (ONE + "<<: 5\n", "2: << takes a mapping, or a list of them"),
        (ONE + "5: 5\n", "2: a key is a text: put it in quotes"),
        (b"\n\xff\n", "2: is not a text in UTF-8"),
        ("[" * 100_000, "1: has more than 16 levels"),
        (b" " * (MAX_OCTETS + 1), f"has more than {MAX_OCTETS} octets"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(path: Path, text: str | bytes, found: str) -> None:
    assert faults(path, text) == [found]


def test_an_escape_beyond_unicode_is_one_line_without_the_c_library_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    found = faults(path, ONE + 'title: "\\U00110000"\n')
    assert found == ["is no YAML: an escape is for no character that there is"]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ("prot: 25", "prot: there is no such option; did you mean port?"),
        ("pssword: x", "pssword: there is no such option; did you mean password?"),
        ("TLS: starttls", "TLS: there is no such option; did you mean tls?"),
        ("tls: STARTTLS", "tls: 'STARTTLS' is none of none, starttls, implicit; did you mean starttls?"),
        ("folder: [INBOX]", "folder: there is no such option"),
        ("port: '25'", "port: expected a whole number, not a text"),
        ("port: 25.5", "port: expected a whole number, not a number"),
        ("port: true", "port: expected a whole number, not true or false"),
        ("port: 0", "port: expected a whole number >= 1"),
        ("port: 65536", "port: expected a whole number <= 65535"),
        ("timeout: 1:30", "timeout: expected a number, not a text"),
        ("timeout: .inf", "timeout: expected a number, not a text"),
        ("lmtp: yes", "lmtp: expected true or false, not a text"),
        ("helo: 5", "helo: expected a text, not a whole number"),
        ("rcpt_to: postmaster@example.org", "rcpt_to: expected a list, not a text"),
        ("rcpt_to: [a@b.example, 5]", "rcpt_to[1]: expected a text, not a whole number"),
        ("tls: startls", "tls: 'startls' is none of none, starttls, implicit; did you mean starttls?"),
        ("helo: a b", "helo: 'a b' is no host name or address in brackets"),
        ("ca_file: /x", "ca_file: goes with TLS: set tls to starttls or implicit"),
        ("warning: 5", "warning: expected a mapping of metrics and ranges"),
        ("warning: {tme: 5}", "warning.tme: there is no such metric; did you mean time?"),
        ("warning: {messages: 5}", "warning.messages: there is no such metric"),
        ("warning: {time: true}", "warning.time: expected a range like 5, 30: or 1:9"),
        ("warning: {time: [5]}", "warning.time: expected a range like 5, 30: or 1:9"),
        ("warning: {time: ''}", "warning.time: '' is not a range like 5, 30: or 1:9"),
        ("warning: {time: 9:1}", "warning.time: '9:1' begins above its end"),
        ("warning: {time: -5}", "warning.time: '-5' ends below 0, where it begins; write ~:-5"),
        (
            "warning: {certificate_days: 5}",
            "warning.certificate_days: is only known with TLS: set tls to starttls or implicit",
        ),
        ("group: 5", "group: expected a text, not a whole number"),
        ("group: ''", "group: expected a text of length >= 1"),
        ("group: ' '", "group: begins or ends with a blank: take it out"),
        ("group: 'a '", "group: begins or ends with a blank: take it out"),
        ("group: a|b", "group: has VERTICAL LINE as character 2: take it out"),
        ('group: "a\\nb"', "group: has a control character as character 2: take it out"),
        ('group: "a\\u202eb"', "group: has RIGHT-TO-LEFT OVERRIDE as character 2: take it out"),
    ],
)
def test_a_mistake_in_a_check_is_one_line(path: Path, options: str, found: str) -> None:
    text = f"checks:\n  - name: a\n    protocol: smtp\n    host: a\n    {options}\n"
    assert faults(path, text) == [f"5: checks[0].{found}"]


@pytest.mark.parametrize(
    ("check", "found"),
    [
        ("{protocol: smtp, host: a}", ["name: is missing"]),
        ("{name: , protocol: smtp, host: a}", ["name: expected a text, not nothing"]),
        ("{name: a, host: a}", ["protocol: is missing; there are smtp, pop3, imap, sieve"]),
        ("{name: a, protocol: smpt}", ["protocol: 'smpt' is none of smtp, pop3, imap, sieve; did you mean smtp?"]),
        ("{name: a, protocol: 5}", ["protocol: expected one of smtp, pop3, imap, sieve"]),
        ("{name: a, protocol: [smtp]}", ["protocol: expected one of smtp, pop3, imap, sieve"]),
        ("{name: a, protocol: smtp}", ["host: is missing"]),
        ("{name: a, protocol: smtp, host: null}", ["host: is missing"]),
        (
            "{name: 'a\u202eb', protocol: smtp, host: a}",
            ["name: has RIGHT-TO-LEFT OVERRIDE as character 2: take it out"],
        ),
        ("{name: a, protocol: smtp, host: a, username: u, tls: implicit}", ["password: is needed with username"]),
        (
            "{name: a, protocol: smtp, host: a, username: u, tls: implicit, password_env: A, password_file: B}",
            ["password_env: contradicts password_file: give one of them"],
        ),
        (
            "{name: a, protocol: smtp, host: a, username: u, tls: implicit, password_env: A, password: B}",
            ["password_env: contradicts password: give one of them"],
        ),
    ],
)
def test_a_check_that_lacks_something_is_told_where_it_begins(path: Path, check: str, found: list[str]) -> None:
    assert faults(path, f"checks:\n- {check}\n") == [f"2: checks[0].{words}" for words in found]


def test_a_check_is_a_mapping(path: Path) -> None:
    assert faults(path, "checks:\n- smtp\n") == ["2: checks[0]: expected a mapping of options"]


def test_two_checks_with_one_name_are_told_with_both_lines(path: Path) -> None:
    text = "checks:\n- {name: a, protocol: smtp, host: a}\n- {name: a, protocol: imap, host: a}\n"
    assert faults(path, text) == ["3: checks[1].name: 'a' is the name of the check in line 2, too"]


def test_a_group_that_is_not_among_the_groups_is_a_mistake(path: Path) -> None:
    text = "groups: {users: {}}\nchecks:\n- {name: a, protocol: smtp, host: a, group: user}\n"
    assert faults(path, text) == ["3: checks[0].group: there is no such group; did you mean users?"]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_lines(path: Path) -> None:
    text = """\
        defaults:
          timeout: never
          prot: 5
        checks:
          - name: a
            protocol: smtp
            host: a b
          - name: b
            protocol: smpt
            hots: x
          - name: c
            protocol: imap
            tls: maybe
            warning: {tme: 5, time: x}
          - name: a
        """
    assert [line.split(": ")[0:2] for line in faults(path, text)] == [
        ["2", "defaults.timeout"],
        ["3", "defaults.prot"],
        ["7", "checks[0].host"],
        ["9", "checks[1].protocol"],
        ["10", "checks[1].hots"],
        ["13", "checks[2].tls"],
        ["14", "checks[2].warning.tme"],
        ["14", "checks[2].warning.time"],
        ["15", "checks[3].protocol"],
        ["15", "checks[3].name"],
    ]


@pytest.mark.parametrize(("name", "words"), [("none", "No such file or directory"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / name), PROTOCOLS)
    assert [str(fault) for fault in caught.value.faults] == [f"{tmp_path / name}: cannot be read: {words}"]


def test_no_key_of_a_check_is_the_name_of_an_option() -> None:
    for spec in PROTOCOLS.values():
        assert not {"name", "protocol", "group", "warning", "critical"} & {d.name for d in declarations(spec.options)}


# Size.


def test_a_billion_laughs_end_early(path: Path) -> None:
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (found,) = faults(path, "\n".join(lines))
    assert found.endswith(f"has more than {MAX_VALUES} values, with all that its aliases repeat")


def test_ten_thousand_checks_are_read_in_less_than_150_mib(path: Path) -> None:
    check = "- {{name: check {n}, protocol: smtp, host: mx{n}.example.org, tls: starttls, critical: {{time: 5}}}}\n"
    path.write_text("checks:\n" + "".join(check.format(n=n) for n in range(10_000)), encoding="utf-8")
    code = (
        "import sys\n"
        "from tests.running import peak_kib\n"
        "from nagios_checks.report.config import load\n"
        "from nagios_checks.report.registry import PROTOCOLS\n"
        "print(len(load(sys.argv[1], PROTOCOLS).checks), peak_kib())\n"
    )
    command = [sys.executable, "-c", code, path]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    count, kib = map(int, ended.stdout.split())
    assert count == 10_000
    assert kib < 150 * 1024


def test_what_means_nothing_in_a_check_s_mode_of_tls_does_not_come_from_the_defaults(path: Path) -> None:
    content = (
        "defaults: {ca_file: /nowhere.pem, refuse_tls: [TLSv1], refuse_starttls_injection: true,"
        " refuse_plaintext_login: true}\nchecks:\n"
        "  - {name: none, protocol: smtp, host: a.example, tls: none}\n"
        "  - {name: implicit, protocol: smtp, host: a.example, tls: implicit}\n"
        "  - {name: starttls, protocol: smtp, host: a.example, tls: starttls}\n"
    )
    none, implicit, starttls = (check.options for check in read(path, content).checks)
    assert (none.ca_file, none.refuse_tls, none.refuse_plaintext_login) == (None, (), True)
    assert (implicit.ca_file, implicit.refuse_tls) == ("/nowhere.pem", ("TLSv1",))
    assert (implicit.refuse_starttls_injection, implicit.refuse_plaintext_login) == (False, False)
    assert starttls.refuse_starttls_injection


def test_what_means_nothing_in_a_check_s_mode_of_tls_is_a_mistake_at_the_check(path: Path) -> None:
    content = "checks:\n  - {name: a, protocol: smtp, host: a.example, tls: none, ca_file: /nowhere.pem}\n"
    assert "checks[0].ca_file: goes with TLS" in faults(path, content)[0]
