"""Wrong and contradictory options: one line that names the option, exit code 3, and nothing was connected."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailprobe.options import declarations
from mailprobe.smtp import RESERVED_COMMANDS, SmtpOptions
from mailprobe.version import __version__

from .running import Outcome, check_smtp
from .scripted import Scripted

CONTROL_CHARACTERS = ["\r", "\n", "\t", "\x01", "\x1b", "\x7f", "\x85", "\x9b"]  # argv has no place for NUL
# What some program takes for the end of a line; none of them is a control character in the narrow sense.
LINE_SEPARATORS = ["\u2028", "\u2029"]
TEXT_OPTIONS = [
    "--" + declared.name.replace("_", "-")
    for declared in declarations(SmtpOptions)
    if declared.kind == "str" and not declared.secret and not declared.choices
]


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A server that would answer, if somebody came."""
    with Scripted("S: 220 mx.example.org ESMTP\n== any") as scripted:
        yield scripted


def refused(server: Scripted, option: str, *arguments: object, env: dict[str, str] | None = None) -> Outcome:
    """Run the check on the server, and hold the outcome to all that bad input must come to."""
    outcome = check_smtp("-H", "127.0.0.1", "-p", server.port, "-t", "3", *arguments, env=env)
    assert outcome.code == 3, outcome.output
    assert outcome.errors == ""
    assert outcome.output.count("\n") == 1
    assert outcome.output.endswith("\n")
    assert outcome.output.startswith("SMTP UNKNOWN - ")
    assert option in outcome.output
    assert "internal error" not in outcome.output
    assert outcome.output.rstrip("\n").isprintable()
    assert "|" not in outcome.output
    server.finish(0)
    assert server.connections == 0
    return outcome


def test_the_server_of_these_tests_would_have_answered(server: Scripted) -> None:
    outcome = check_smtp("-H", "127.0.0.1", "-p", server.port, "-t", "3")
    assert outcome.code == 0, outcome.output
    assert server.connections == 1


# Control characters.


@pytest.mark.parametrize(
    ("option", "character"),
    [
        (option, character)
        for option in TEXT_OPTIONS
        for character in CONTROL_CHARACTERS
        if option != "--body" or character not in "\r\n\t"  # a text of several lines
    ],
    ids=ascii,
)
def test_a_control_character_is_refused(server: Scripted, option: str, character: str) -> None:
    refused(server, option, option, f"a@b{character}.example")


@pytest.mark.parametrize("character", LINE_SEPARATORS, ids=ascii)
@pytest.mark.parametrize("option", ["--subject", "--helo", "--mail-from", "--rcpt-to", "--command"])
def test_a_line_separator_is_refused_where_there_is_one_line(server: Scripted, option: str, character: str) -> None:
    refused(server, option, option, f"a@b{character}.example")


@pytest.mark.parametrize("option", TEXT_OPTIONS)
def test_what_is_not_utf8_is_refused(server: Scripted, option: str) -> None:
    refused(server, option, option, "a\udcffb")


@pytest.mark.parametrize("option", TEXT_OPTIONS)
def test_a_value_of_great_length_is_refused_in_a_short_line(server: Scripted, option: str) -> None:
    outcome = refused(server, option, option, "x" * 5000)
    assert len(outcome.output) < 300


def test_a_control_character_in_a_second_value_is_refused_too(server: Scripted) -> None:
    outcome = refused(server, "--rcpt-to", "--rcpt-to", "a@example.org", "--rcpt-to", "b@example.org\r\nDATA")
    assert "value 2" in outcome.output
    assert r"\x0d\x0aDATA" in outcome.output


# Addresses.


@pytest.mark.parametrize(
    "address",
    [
        *("user", "user@", "@example.org", "a b@example.org", "a@exam ple.org", " a@example.org", "a@example.org "),
        *("a@example.org,b@example.org", "a@example.org b@example.org", "a@b@example.org", "<a@b.org>,<c@d.org>"),
        *("<a@example.org", "a@example.org>", "<<a@example.org>>", "A User <a@example.org>", '"a b"@example.org'),
        *("a@example.org> SIZE=1", "a@example.org SIZE=1", "a@example.org>\tX", "a..b@example.org", ".a@example.org"),
        *("a.@example.org", "a@example..org", "a@.example.org", "a@[]", "ü@example.org", "a@ü.example", "a\\@b"),
        *("a@example.org;b@example.org", "@relay:a@example.org", "a@[192.0.2.1", "x" * 260 + "@example.org"),
    ],
    ids=ascii,
)
@pytest.mark.parametrize("option", ["--mail-from", "--rcpt-to"])
def test_what_is_not_one_plain_address_is_refused(server: Scripted, option: str, address: str) -> None:
    refused(server, option, option, address)


@pytest.mark.parametrize("address", ["", "<>"])
def test_a_recipient_cannot_be_null(server: Scripted, address: str) -> None:
    refused(server, "--rcpt-to", "--rcpt-to", address)


# Where to connect.


@pytest.mark.parametrize(
    "host",
    [
        *("", " ", "a b", ".example.org", "mx..example.org", "x" * 64 + ".example.org", "mx.example.org:25"),
        *("127.0.0.1:25", "[::1", "::1]", "[]", "[127.0.0.1]:25", ":::", "1::2::3"),
    ],
)
def test_what_is_no_host_is_refused(server: Scripted, host: str) -> None:
    refused(server, "--host", "-H", host)


def test_the_path_of_a_socket_that_is_longer_than_the_kernel_takes_is_refused() -> None:
    outcome = check_smtp("-H", "/" + "x" * 200)
    assert outcome.code == 3, outcome.output
    assert "--host" in outcome.first_line
    assert "internal error" not in outcome.output


@pytest.mark.parametrize(
    "port", ["0", "65536", "-1", "abc", "25abc", "2.5", "", " 25", "0x19", "1e2", "\u0662\u0665", "9" * 30]
)
def test_what_is_no_port_is_refused(server: Scripted, port: str) -> None:
    refused(server, "--port", f"--port={port}")


@pytest.mark.parametrize(
    "timeout", ["0", "-1", "nan", "inf", "-inf", "abc", "", "1e3", "5s", "0.01", "86401", "9" * 30, "\u0661"]
)
def test_what_is_no_time_limit_is_refused(server: Scripted, timeout: str) -> None:
    refused(server, "--timeout", f"--timeout={timeout}")


@pytest.mark.parametrize(
    "arguments",
    [("-4", "-6"), ("-6", "-4"), ("-4", "--family", "ipv6")],
    ids=" ".join,
)
def test_two_families_contradict_each_other(server: Scripted, arguments: tuple[str, ...]) -> None:
    outcome = refused(server, "", "-H", "localhost", *arguments)
    assert any(option in outcome.output for option in ("-4", "-6", "--family"))


def test_a_family_contradicts_an_address_of_the_other(server: Scripted) -> None:
    refused(server, "--family", "-6")
    refused(server, "--family", "-4", "-H", "::1")
    refused(server, "--family", "-4", "-H", "[::1]")
    refused(server, "--family", "--family", "ipv6", "-H", "127.0.0.1")


@pytest.mark.parametrize("option", ["--port", "--family"])
def test_a_unix_socket_has_neither_port_nor_family(tmp_path: Path, option: str) -> None:
    with Scripted("S: 220 mx.example.org ESMTP\n== any", path=tmp_path / "smtp") as unix:
        outcome = check_smtp("-H", unix.path, option, {"--port": "25", "--family": "ipv4"}[option])
        assert unix.connections == 0
    assert outcome.code == 3
    assert outcome.first_line.startswith(f"SMTP UNKNOWN - {option}: ")
    assert "--host" in outcome.first_line


def test_a_certificate_cannot_be_verified_over_a_unix_socket_without_a_name(tmp_path: Path) -> None:
    with Scripted("S: 220 mx.example.org ESMTP\n== any", path=tmp_path / "smtp") as unix:
        outcome = check_smtp("-H", unix.path, "--tls", "starttls")
        assert unix.connections == 0
    assert outcome.code == 3
    assert outcome.first_line.startswith("SMTP UNKNOWN - --tls-server-name: ")


# TLS.


@pytest.mark.parametrize("name", ["", "a b", "x..y", "mx.example.org:25", "x" * 64])
def test_what_is_no_name_for_a_certificate_is_refused(server: Scripted, name: str) -> None:
    refused(server, "--tls-server-name", "--tls", "starttls", "--tls-server-name", name)


@pytest.mark.parametrize("option", ["--ca-file", "--tls-server-name"])
def test_what_goes_with_tls_is_refused_without_it(server: Scripted, option: str, ca_text: Path) -> None:
    outcome = refused(server, option, option, ca_text if option == "--ca-file" else "mx.example.org")
    assert "--tls" in outcome.output


@pytest.fixture
def ca_text(localhost_tls: tuple[object, Path]) -> Path:
    return localhost_tls[1]


@pytest.mark.parametrize("content", [None, "", "no certificate in here\n", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
@pytest.mark.parametrize("mode", ["starttls", "implicit"])
def test_a_file_without_certificates_is_refused(
    server: Scripted, tmp_path: Path, content: str | None, mode: str
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    outcome = refused(server, "--ca-file", "--tls", mode, "--ca-file", path)
    assert "ca.pem" in outcome.output


def test_a_directory_is_no_file_with_certificates(server: Scripted, tmp_path: Path) -> None:
    refused(server, "--ca-file", "--tls", "starttls", "--ca-file", tmp_path)


# The login.


def test_a_name_and_a_password_need_each_other(server: Scripted, password_file: Path) -> None:
    refused(server, "--password-file", "--tls", "starttls", "--username", "probe")
    outcome = refused(server, "--password-file", "--tls", "starttls", "--password-file", password_file)
    assert "--username" in outcome.output
    refused(server, "--username", "--tls", "starttls", "--username", "", "--password-file", password_file)


def test_a_password_is_not_sent_without_tls(server: Scripted, password_file: Path) -> None:
    outcome = refused(server, "--username", "--username", "probe", "--password-file", password_file)
    assert "--tls" in outcome.output
    assert "--allow-plaintext-login" in outcome.output


def test_a_mechanism_goes_with_a_login(server: Scripted) -> None:
    refused(server, "--mechanism", "--tls", "starttls", "--mechanism", "PLAIN")


@pytest.mark.parametrize("name", ["missing", "directory", "empty", "line-end", "latin-1", "two-lines", "nul", "long"])
def test_a_file_without_a_usable_password_is_refused(server: Scripted, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    contents = {
        "empty": b"",
        "line-end": b"\n",
        "latin-1": b"geheim\xfc\n",
        "two-lines": b"geheim\ngeheim\n",
        "nul": b"geheim\0geheim",
        "long": b"geheim" * 10_000,
    }
    if name == "directory":
        path.mkdir()
    elif name in contents:
        path.write_bytes(contents[name])
    login = ("--tls", "starttls", "--username", "probe")
    outcome = refused(server, "--password-file", *login, "--password-file", path)
    assert "geheim" not in outcome.output


def test_a_file_that_may_not_be_read_is_refused(server: Scripted) -> None:
    # Root may read whatever has a mode; this not even root can.
    refused(server, "--password-file", "--tls", "starttls", "--username", "u", "--password-file", "/proc/self/mem")


def test_an_environment_without_the_password_is_refused(server: Scripted, password_file: Path) -> None:
    login = ("--tls", "starttls", "--username", "probe", "--password-env")
    refused(server, "--password-env", *login, "NO_SUCH_VARIABLE")
    refused(server, "--password-env", *login, "")
    refused(server, "--password-", *login, "MAILPROBE_PW", env={"MAILPROBE_PW": ""})
    outcome = refused(server, "--password-", *login, "MAILPROBE_PW", env={"MAILPROBE_PW": "geheim\ngeheim"})
    assert "geheim" not in outcome.output


def test_a_password_comes_from_one_place(server: Scripted, password_file: Path) -> None:
    both = ("--password-file", password_file, "--password-env", "MAILPROBE_PW")
    login = ("--tls", "starttls", "--username", "probe")
    outcome = refused(server, "--password-env", *login, *both, env={"MAILPROBE_PW": "geheim"})
    assert "--password-file" in outcome.output
    assert "geheim" not in outcome.output


def test_a_password_is_no_argument_that_ps_would_show(server: Scripted) -> None:
    refused(server, "--password", "--tls", "starttls", "--username", "probe", "--password", "geheim")


# The conversation.


@pytest.mark.parametrize("name", ["", "a b", "mx.exämple.org", "x" * 256, " x"])
def test_what_is_no_name_to_say_hello_with_is_refused(server: Scripted, name: str) -> None:
    refused(server, "--helo", "--helo", name)


@pytest.mark.parametrize("name", ["x,y", "<x>", "x;y", "a@b", '"', "(", "\\"])
def test_a_name_that_would_spoil_the_header_of_a_message_is_refused(server: Scripted, name: str) -> None:
    refused(server, "--helo", "--helo", name, "--rcpt-to", "user@example.test", "--send")


@pytest.mark.parametrize(
    "command", sorted(RESERVED_COMMANDS | {"data", "Quit", "StartTls", "AUTH PLAIN AAAA", "BDAT 5 LAST"})
)
def test_a_command_that_is_the_conversations_own_is_refused(server: Scripted, command: str) -> None:
    refused(server, "--command", "--command", "NOOP", "--command", command)


def test_the_commands_that_would_deliver_leak_or_derail_are_reserved() -> None:
    assert {"DATA", "BDAT", "QUIT", "STARTTLS", "AUTH"} <= RESERVED_COMMANDS


@pytest.mark.parametrize(
    "command", ["", " ", " NOOP", "NÖÖP", "NOOP " + "x" * 506], ids=lambda command: ascii(command[:9])
)
def test_what_is_no_command_is_refused(server: Scripted, command: str) -> None:
    refused(server, "--command", "--command", command)


@pytest.mark.parametrize("pattern", ["(", "[", "*", "(?P<x", "a{2,1}", "(?z)", "\\", "a{99999999999}", "(" * 3000])
def test_a_bad_regular_expression_is_refused(server: Scripted, pattern: str) -> None:
    refused(server, "--response", "--command", "NOOP", f"--response={pattern}")


def test_there_are_no_more_responses_than_commands(server: Scripted) -> None:
    outcome = refused(server, "--response", "--response", "250")
    assert "--command" in outcome.output
    refused(server, "--response", "--command", "NOOP", "--response", "250", "--response", "250")


def test_what_is_sent_needs_a_recipient(server: Scripted) -> None:
    outcome = refused(server, "--send", "--send")
    assert "--rcpt-to" in outcome.output
    refused(server, "--send", "--send", "--mail-from", "a@example.org")


# Thresholds.

BAD_RANGES = [
    *("", "abc", "1e3", "nan", "inf", "5:1", "@", ":", "@:", "1:2:3", "1..2", "~", "~:~", "5,10", " 5", "5 ", "0x5"),
    *("time=", "=5", "no_such_metric=5", "time=5=6", "TIME=5", "time =5", "5;6", "\u0661", "-5", "5\n", "9" * 40),
]


@pytest.mark.parametrize("text", BAD_RANGES, ids=ascii)
@pytest.mark.parametrize("option", ["--warning", "--critical"])
def test_what_is_no_range_is_refused(server: Scripted, option: str, text: str) -> None:
    refused(server, option, f"{option}={text}")


@pytest.mark.parametrize("option", ["-w", "-c"])
def test_a_metric_has_one_range(server: Scripted, option: str) -> None:
    refused(server, option, option, "5", option, "time=6")


@pytest.mark.parametrize(
    "text", ["", "abc", "10,30", "-1", "10,", ",5", "1,2,3", "1.5", "10:", "@5", "999999", " 5", "5d"]
)
def test_what_are_no_days_are_refused(server: Scripted, text: str) -> None:
    refused(server, "--certificate", "--tls", "starttls", f"--certificate={text}")


@pytest.mark.parametrize("option", ["-w", "-c"])
def test_the_days_of_the_certificate_are_judged_once(server: Scripted, option: str) -> None:
    refused(server, "--certificate", "--tls", "starttls", "-D", "30", option, "certificate_days=20:")


@pytest.mark.parametrize(
    "arguments", [("-D", "30"), ("-w", "certificate_days=30:"), ("-c", "tls_time=1")], ids=" ".join
)
def test_what_only_tls_measures_cannot_be_judged_without_it(server: Scripted, arguments: tuple[str, str]) -> None:
    refused(server, "--tls", *arguments)


# The command line itself.


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            ("--tlss", "starttls"),
            ("--no-such-option",),
            ("--validate-certs",),
            ("-x",),
            ("--rcpt_to", "a@example.org"),
        ),
        *(("--time", "5"), ("--ver",), ("--hel", "x"), ("--rcpt", "a@example.org"), ("--no-validate",)),
    ],
    ids=" ".join,
)
def test_an_unknown_or_abbreviated_option_is_refused(server: Scripted, arguments: tuple[str, ...]) -> None:
    refused(server, arguments[0], *arguments)


@pytest.mark.parametrize("option", ["--tls", "--family", "--mechanism"])
@pytest.mark.parametrize("value", ["", "yes", "Starttls", "ipv5", "plain", "implicit,starttls"])
def test_a_choice_that_there_is_not_is_refused(server: Scripted, option: str, value: str) -> None:
    refused(server, option, option, value)


@pytest.mark.parametrize("option", ["--host", "--port", "--helo", "--rcpt-to", "--warning", "--password-file"])
def test_an_option_without_its_value_is_refused(server: Scripted, option: str) -> None:
    refused(server, option, option)


@pytest.mark.parametrize("option", ["--send", "--lmtp", "--json", "--no-validate-certs"])
def test_a_switch_takes_no_value(server: Scripted, option: str) -> None:
    refused(server, option, f"{option}=yes")


def test_an_argument_that_belongs_to_no_option_is_refused(server: Scripted) -> None:
    refused(server, "mx.example.org", "mx.example.org")
    refused(server, r"\x1b", "\x1b[31m|")


@pytest.mark.parametrize("arguments", [(), ("-p", "25"), ("--json",), ("-vv",)], ids=" ".join)
def test_a_host_is_needed(arguments: tuple[str, ...]) -> None:
    outcome = check_smtp(*arguments)
    assert outcome.code == 3
    assert outcome.errors == ""
    assert outcome.output.count("\n") == 1
    assert outcome.output.startswith("SMTP UNKNOWN - ")
    assert "--host" in outcome.output


@pytest.mark.parametrize("more", [("--json",), ("-vv",)], ids=" ".join)
def test_it_is_one_line_however_much_output_was_asked_for(server: Scripted, more: tuple[str, ...]) -> None:
    refused(server, "--port", "--port", "0", *more)


def test_braces_in_a_value_are_no_names_of_options(server: Scripted) -> None:
    assert "{host}" in refused(server, "--helo", "--helo", "{host} {}").output


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_goes_to_standard_output_ends_with_3_and_names_every_option(option: str) -> None:
    outcome = check_smtp(option)
    assert outcome.code == 3
    assert outcome.errors == ""
    words = set(outcome.output.replace(",", " ").split())
    for declared in declarations(SmtpOptions):
        name = declared.name.replace("_", "-")
        expected = f"{name}-file" if declared.secret else f"no-{name}" if declared.default is True else name
        assert f"--{expected}" in words
    own = ("-H", "-p", "-t", "-4", "-6", "-w", "-c", "-D", "-v", "-V", "--json", "--version", "--password-env")
    assert words.issuperset(own)


def test_help_names_the_option_that_goes_with_another_as_it_is_spelled_here() -> None:
    output = check_smtp("--help").output
    assert not re.search(r"\{[a-z_]+\}", output)
    assert "rcpt_to" not in output


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_goes_to_standard_output_and_ends_with_3(option: str) -> None:
    outcome = check_smtp(option)
    assert (outcome.code, outcome.errors) == (3, "")
    assert outcome.output == f"check_mail_smtp {__version__}\n"
