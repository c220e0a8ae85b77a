"""Where secrets come from, that they stay secret, and that they open mailboxes by every mechanism of every protocol."""

from __future__ import annotations

import itertools
import json
import os
import re
import ssl
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from . import running
from .canary import CANARY
from .running import Outcome, run
from .scripted import Scripted
from .servers import AWKWARD_USER, USER, Login, Server
from .servers.certificates import CertificateAuthority
from .servers.cyrus import Cyrus
from .servers.dovecot import (
    BROKEN,
    CLIENT_CERTIFICATES,
    CLOSED,
    CLOSED_REASON,
    EXPIRED,
    LOCKED,
    NO_TLS,
    PASSWORD,
    READER,
    SINGLE,
    STRICT,
    UNAVAILABLE,
    Dovecot,
)
from .test_check_smtp import implicit, in_order, report, starttls, transcript
from .test_mailbox_servers import Client

PROTOCOLS = ("pop3", "imap", "sieve")
protocols = pytest.mark.parametrize("protocol", PROTOCOLS)

PASSWORD_VARIABLE = "MAILPROBE_PASSWORD"


def check(
    protocol: str, server: Server, *arguments: object, host: str = STRICT, service: str = "", password: str = PASSWORD
) -> Outcome:
    """Run the check of a protocol on a server; the environment has the password for `named()`."""
    port = server.ports[service or protocol]
    return running.check(protocol, "-H", host, "-p", port, *arguments, env={PASSWORD_VARIABLE: password})


def named(username: str, mechanism: str | None = None) -> tuple[str, ...]:
    """The options of a login with the password that `check()` has."""
    options = ("--username", username, "--password-env", PASSWORD_VARIABLE)
    return options if mechanism is None else (*options, "--mechanism", mechanism)


def passes(outcome: Outcome, *words: str) -> Outcome:
    assert outcome.code == 0, outcome.output
    assert outcome.errors == ""
    assert re.match("(POP3|IMAP|SIEVE) OK - ", outcome.first_line)
    for part in words:
        assert part in outcome.first_line
    return outcome


# Sources.

# Both ends of the password are visible ones, and whatever is in the middle is left as it is.
SOURCES_OF_A_PASSWORD = {
    "file": ("--password-file", "{directory}/password"),
    "file without a line end": ("--password-file", "{directory}/bare"),
    "file from Windows": ("--password-file", "{directory}/crlf"),
    "file in a directory with blanks": ("--password-file", "{directory}/with blank/pass word"),
    "environment": ("--password-env", "PW"),
    "command": ("--password-command", "cat {directory}/password"),
    "command with quotes": ("--password-command", "cat '{directory}/with blank/pass word'"),
    "credential": ("--password-credential", "mail"),
    "section": ("--extra-opts=mail@{directory}/options.ini",),
    "section named as the program": ("--extra-opts=@{directory}/options.ini",),
    "source in a section": ("--extra-opts=file@{directory}/options.ini",),
}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A directory with the password of AWKWARD_USER in every form."""
    password = AWKWARD_USER.password
    (tmp_path / "with blank").mkdir()
    (tmp_path / "credentials").mkdir()
    for name, text in {
        "password": f"{password}\n",
        "bare": password,
        "crlf": f"{password}\r\n",
        "with blank/pass word": f"{password}\n",
        "credentials/mail": password,
        "options.ini": f"[other]\npassword = wrong\nnosuch = 1\n\n; this one is meant\n[mail]\npassword = {password}\n"
        f"[check_mail_pop3]\npassword={password}\n[file]\npassword-file = {tmp_path}/with blank/pass word\n",
    }.items():
        (tmp_path / name).write_bytes(text.encode())
    return tmp_path


def environment(directory: Path) -> dict[str, str]:
    return {"PW": AWKWARD_USER.password, "CREDENTIALS_DIRECTORY": str(directory / "credentials")}


@pytest.mark.parametrize("source", SOURCES_OF_A_PASSWORD)
def test_the_password_comes_from_every_source(
    dovecot: Dovecot, ca: CertificateAuthority, sources: Path, source: str
) -> None:
    given = [word.format(directory=sources) for word in SOURCES_OF_A_PASSWORD[source]]
    where = ("-H", STRICT, "-p", dovecot.pop3, *starttls(ca), "--username", AWKWARD_USER.name)
    outcome = passes(running.check("pop3", *where, *given, "-vv", env=environment(sources)), "logged in with SCRAM")
    assert AWKWARD_USER.password not in outcome.output
    assert AWKWARD_USER.base64_password not in outcome.output


def in_bash(script: str, *arguments: object, text: str = "") -> Outcome:
    """Run the POP3 check in a script of bash, where it is "$@"; `text` is the standard input."""
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "nagios_checks.pop3", *map(str, arguments)]
    if not text:
        return run(command)
    started = time.monotonic()
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr, time.monotonic() - started, 0)


@pytest.mark.parametrize(
    "script",
    [
        '"$@" --password-file <(cat "$FILE")',
        '"$@" --password-file <(sleep 0.5; cat "$FILE")',
        '"$@" --password-file <(head -c 5 "$FILE"; sleep 0.3; tail -c +6 "$FILE")',
        'cat "$FILE" | "$@" --password-file /dev/stdin',
    ],
    ids=["at once", "late", "in two parts", "standard input"],
)
def test_the_password_may_come_through_a_pipe(
    dovecot: Dovecot, ca: CertificateAuthority, sources: Path, script: str
) -> None:
    where = ("-H", STRICT, "-p", dovecot.pop3, *starttls(ca), "--username", AWKWARD_USER.name)
    passes(in_bash(f"FILE='{sources}/password'; {script}", *where), "logged in with")


def test_no_shell_looks_at_the_command(dovecot: Dovecot, ca: CertificateAuthority, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    command = f"echo $(touch {marker}) ; touch {marker} | touch {marker}"
    outcome = check("pop3", dovecot, *starttls(ca), "--username", USER.name, "--password-command", command, "--json")
    report(outcome, "critical", "auth-rejected")
    assert not marker.exists()


@pytest.mark.parametrize("source", ["file", "env", "command", "credential", "ini"])
def test_a_token_comes_from_every_source(
    dovecot: Dovecot, ca: CertificateAuthority, tmp_path: Path, source: str
) -> None:
    token = dovecot.token(READER)
    (tmp_path / "token").write_text(f"{token}\n")
    (tmp_path / "ini").write_text(f"[x]\ntoken = {token}\n")
    given = {
        "file": ("--token-file", tmp_path / "token"),
        "env": ("--token-env", "TOKEN"),
        "command": ("--token-command", f"cat {tmp_path}/token"),
        "credential": ("--token-credential", "token"),
        "ini": (f"--extra-opts=x@{tmp_path}/ini",),
    }[source]
    outcome = running.check(
        *("imap", "-H", STRICT, "-p", dovecot.imap, *starttls(ca), "--username", READER, *given, "-vv"),
        env={"TOKEN": token, "CREDENTIALS_DIRECTORY": str(tmp_path)},
    )
    passes(outcome, "logged in with OAUTHBEARER")
    assert not any(part in outcome.output for part in token.split("."))


def test_the_command_line_wins_over_the_section(dovecot: Dovecot, ca: CertificateAuthority, tmp_path: Path) -> None:
    (tmp_path / "ini").write_text(f"[x]\npassword = wrong\nusername = nobody\nport = 1\nca-file = {ca.pem_path}\n")
    options = ("--tls", "starttls", *named(USER.name), f"--extra-opts=x@{tmp_path}/ini")
    passes(check("pop3", dovecot, *options), "logged in with")


# Sources that have nothing.

GEHEIM = "geheim-42"


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A POP3 server that would answer, if somebody came."""
    with Scripted("S: +OK ready\nC: CAPA\nS: -ERR\nC: QUIT\nS: +OK") as scripted:
        yield scripted


def refused(server: Scripted, option: str, *arguments: object, env: dict[str, str] | None = None) -> Outcome:
    """Run the check, and hold the outcome to all that bad input must come to."""
    where = ("-H", "127.0.0.1", "-p", server.port, "-t", 1, "--allow-plaintext-login", *arguments)
    outcome = running.check("pop3", *where, env=env)
    assert outcome.code == 3, outcome.output
    assert outcome.errors == ""
    assert outcome.output.startswith(f"POP3 UNKNOWN - {option}: ")
    assert outcome.output.count("\n") == 1
    assert outcome.output.rstrip("\n").isprintable()
    assert not re.search(r"internal error|\bNone\b|\|", outcome.output)
    assert GEHEIM not in outcome.output
    assert outcome.seconds < 5 + running.NOISE_SECONDS
    server.finish(0)
    assert server.connections == 0
    return outcome


def test_the_server_of_these_tests_would_have_answered(server: Scripted) -> None:
    running.check("pop3", "-H", "127.0.0.1", "-p", server.port, "-t", 3)
    assert server.connections == 1


LOGIN = ("--username", "user")

CONTENTS = {
    "nothing": (b"", "there is no password in "),
    "a line end": (b"\n", "there is no password in "),
    "line ends": (b"\r\n\n", "there is no password in "),
    "no text": (f"{GEHEIM}ü".encode("latin-1"), "not a text in UTF-8"),
    "two lines": (f"{GEHEIM}\nmore\n".encode(), "control character"),
    "NUL": (f"{GEHEIM}\0".encode(), "control character"),
    "too much": (GEHEIM.encode() * 10_000, "characters"),
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("source", ["file", "command", "credential"])
def test_what_is_no_password_is_refused_and_not_shown(
    server: Scripted, tmp_path: Path, source: str, content: str
) -> None:
    octets, words = CONTENTS[content]
    path = tmp_path / "password"
    path.write_bytes(octets)
    given = {
        "file": ("--password-file", path),
        "command": ("--password-command", f"cat {path}"),
        "credential": ("--password-credential", "password"),
    }[source]
    # What a source has is judged with the source's name as long as nobody has read it, and as the password afterwards.
    option = given[0] if words.startswith("there is") or "UTF-8" in words else "--password-file"
    assert words in refused(server, option, *LOGIN, *given, env={"CREDENTIALS_DIRECTORY": str(tmp_path)}).output


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nosuch", "No such file or directory"),
        ("nosuch/file", "No such file or directory"),
        ("file/inside", "Not a directory"),
        ("", "Is a directory"),
        ("loop", "Too many levels of symbolic links"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(
    server: Scripted, tmp_path: Path, path: str, words: str
) -> None:
    (tmp_path / "file").write_text(GEHEIM)
    (tmp_path / "loop").symlink_to("loop")
    outcome = refused(server, "--password-file", *LOGIN, "--password-file", tmp_path / path)
    assert f"cannot be read: {words}" in outcome.output


def test_a_file_that_fails_while_it_is_read_is_refused(server: Scripted) -> None:
    refused(server, "--password-file", *LOGIN, "--password-file", "/proc/self/mem")


def test_a_pipe_into_which_nobody_writes_does_not_hold_us_up(server: Scripted, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    outcome = refused(server, "--password-file", *LOGIN, "--password-file", tmp_path / "pipe")
    assert "there is no password in" in outcome.output
    assert outcome.seconds < 2 + running.NOISE_SECONDS


def test_a_pipe_whose_writer_says_nothing_does_not_hold_us_up_for_long(server: Scripted, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        outcome = refused(server, "--password-file", *LOGIN, "--password-file", tmp_path / "pipe")
    finally:
        os.close(writer)
    assert outcome.seconds < 3 + running.NOISE_SECONDS


@pytest.mark.parametrize(("name", "words"), [("NO_SUCH", "no environment"), ("EMPTY", "no password in"), ("", "''")])
def test_an_environment_variable_that_is_not_there_or_empty_is_named(server: Scripted, name: str, words: str) -> None:
    outcome = refused(server, "--password-env", *LOGIN, "--password-env", name, env={"EMPTY": ""})
    assert words in outcome.output
    assert f"'{name}'" in outcome.output


def test_an_environment_variable_that_is_no_text_is_refused(server: Scripted) -> None:
    env = {"PW": os.fsdecode(f"{GEHEIM}ü".encode("latin-1"))}
    assert "not a text in UTF-8" in refused(server, "--password-env", *LOGIN, "--password-env", "PW", env=env).output


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/no/such/program", "No such file or directory"),
        ("/", "Permission denied"),
        ("", "'' is no command"),
        ("   ", "is no command"),
        ("echo 'x", "is no command"),
        ("false", "ended with exit code 1"),
        ("sh -c 'kill -9 $$'", "ended with exit code -9"),
        ("true", "there is no password in 'true'"),
    ],
)
def test_a_command_that_gives_nothing_is_named_with_the_reason(server: Scripted, command: str, words: str) -> None:
    assert words in refused(server, "--password-command", *LOGIN, "--password-command", command).output


def test_of_a_command_that_fails_nothing_that_it_printed_is_shown(server: Scripted, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\necho {GEHEIM}\necho {GEHEIM} >&2\nexit 3\n")
    script.chmod(0o755)
    outcome = refused(server, "--password-command", *LOGIN, "--password-command", script)
    assert f"'{script}' ended with exit code 3" in outcome.output


@pytest.mark.parametrize("command", ["sleep 60", "sh -c 'echo x; sleep 60'", "sh -c 'sleep 8 & exec sleep 8'"])
def test_a_command_that_does_not_end_is_ended(server: Scripted, command: str) -> None:
    outcome = refused(server, "--password-command", *LOGIN, "--password-command", command)
    assert f"{command.partition(' ')[0]}" in outcome.output
    assert outcome.seconds < 3 + running.NOISE_SECONDS


def test_a_command_that_prints_without_end_does_not_fill_the_memory(server: Scripted) -> None:
    outcome = refused(server, "--password-command", *LOGIN, "--password-command", "yes")
    assert outcome.peak_mib < 96


@pytest.mark.parametrize("name", ["nosuch", "", "../secret", "/etc/hostname", "sub/secret"])
def test_a_credential_that_is_none_is_named(server: Scripted, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text(GEHEIM)
    (tmp_path / "credentials" / "sub").mkdir(parents=True)
    (tmp_path / "credentials" / "sub" / "secret").write_text(GEHEIM)
    env = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    refused(server, "--password-credential", *LOGIN, "--password-credential", name, env=env)


@pytest.mark.parametrize("directory", ["", "/no/such/directory"])
def test_a_credential_without_its_directory_is_refused(server: Scripted, directory: str) -> None:
    outcome = refused(
        server, "--password-credential", *LOGIN, "--password-credential", "x", env={"CREDENTIALS_DIRECTORY": directory}
    )
    assert ("there is no $CREDENTIALS_DIRECTORY" in outcome.output) is (directory == "")


@pytest.mark.parametrize(
    ("one", "other"), list(itertools.combinations(["--password-file", "--password-env", "--password-command"], 2))
)
@pytest.mark.parametrize("turned", [False, True])
def test_two_sources_of_one_secret_contradict_each_other(server: Scripted, one: str, other: str, turned: bool) -> None:
    given = ((one, "x"), (other, "x"))
    arguments = itertools.chain.from_iterable(reversed(given) if turned else given)
    outcome = refused(server, other, *LOGIN, *arguments)
    assert f"contradicts {one}: give one of them" in outcome.output


def test_a_password_and_a_token_contradict_each_other(server: Scripted) -> None:
    env = {"PW": GEHEIM}
    refused(server, "--token-file", *LOGIN, "--password-env", "PW", "--token-env", "PW", env=env)


@pytest.mark.parametrize(
    ("option", "arguments"),
    [
        ("--password-file", ("--username", "user")),
        ("--password-file", ("--password-env", "PW")),
        ("--token-file", ("--token-env", "PW")),
        ("--token-file", ("--username", "user", "--password-env", "PW", "--mechanism", "XOAUTH2")),
        ("--password-file", ("--username", "user", "--token-env", "PW", "--mechanism", "PLAIN")),
        ("--client-cert", ("--username", "user", "--mechanism", "EXTERNAL")),
        ("--username", ("--username", "", "--password-env", "PW")),
        ("--expect-login-refused", ("--expect-login-refused",)),
        ("--mechanism", ("--mechanism", "PLAIN")),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_half_a_login_is_refused(server: Scripted, option: str, arguments: tuple[str, ...]) -> None:
    refused(server, option, *arguments, env={"PW": GEHEIM})


@protocols
def test_a_password_is_not_sent_in_the_clear_unless_that_is_asked_for(dovecot: Dovecot, protocol: str) -> None:
    outcome = check(protocol, dovecot, *named(USER.name), host=NO_TLS)
    assert outcome.code == 3
    assert "--username: a password is only sent over TLS: set --tls to starttls or implicit, or " in outcome.output
    passes(check(protocol, dovecot, *named(USER.name, "PLAIN"), "--allow-plaintext-login", host=NO_TLS))


@pytest.mark.parametrize("words", [("--password", GEHEIM), (f"--password={GEHEIM}",), ("--token", GEHEIM)])
def test_there_is_no_option_for_the_secret_itself(server: Scripted, words: tuple[str, ...]) -> None:
    refused(server, words[0].partition("=")[0], *LOGIN, *words)


# Files of options.


def ini_refused(server: Scripted, tmp_path: Path, text: str | bytes, option: str = "--extra-opts") -> Outcome:
    path = tmp_path / "options.ini"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return refused(server, option, f"--extra-opts=mail@{path}")


def test_one_letter_keys_and_flags_are_options(dovecot: Dovecot, ca: CertificateAuthority, tmp_path: Path) -> None:
    (tmp_path / "ini").write_text(
        f"[x]\n  H = {STRICT}\np={dovecot.pop3}\nt =7\n4 =\nv\t=\n# a comment\n;another\nw = time=9\nc = 8\njson =\n"
        f"tls = starttls\nca-file = {ca.pem_path}\n\n"
        f"username = {AWKWARD_USER.name}\npassword = {AWKWARD_USER.password}\n",
        encoding="utf-8",
    )
    outcome = running.check("pop3", f"--extra-opts=x@{tmp_path}/ini")
    found = report(outcome)
    assert (found["host"], found["address"], found["facts"]["login"]) == (STRICT, STRICT, "accepted")
    assert any(re.fullmatch("time=.*s;9;8;0;7", datum) for datum in found["perfdata"])


@pytest.mark.parametrize(
    "line", ["w = -5:100", "w = -5:", "w = ~:100", "w = @-5:-1", "warning = -5:100", "w = time=-5:"]
)
def test_the_value_of_a_key_may_begin_with_anything(server: Scripted, tmp_path: Path, line: str) -> None:
    (tmp_path / "ini").write_text(f"[x]\n{line}\n")
    outcome = running.check("pop3", "-H", "127.0.0.1", "-p", server.port, f"--extra-opts=x@{tmp_path}/ini")
    assert outcome.code == 0, outcome.output


def test_a_repeated_key_is_an_option_given_more_than_once(
    dovecot: Dovecot, ca: CertificateAuthority, tmp_path: Path
) -> None:
    text = f"[x]\nfolder = INBOX\nfolder = Entwürfe/日本\npassword = {PASSWORD}\n[y]\nfolder = Empty\n"
    (tmp_path / "ini").write_text(text, encoding="utf-8")
    options = (*starttls(ca), "--username", READER, f"--extra-opts=x@{tmp_path}/ini", "--json")
    found = report(check("imap", dovecot, *options))
    assert [folder["folder"] for folder in found["facts"]["folders"]] == ["INBOX", "Entwürfe/日本"]


def test_several_sections_and_several_places_of_one_add_up(server: Scripted, tmp_path: Path) -> None:
    (tmp_path / "ini").write_text("[x]\ntimeout = 5\n[y]\nw = 5\n[x]\nc = 6\n")
    outcome = running.check(
        *("pop3", "-H", "127.0.0.1", "-p", server.port),
        *(f"--extra-opts=x@{tmp_path}/ini", f"--extra-opts=y@{tmp_path}/ini"),
    )
    assert outcome.code == 0, outcome.output
    assert outcome.perfdata()["time"].endswith("s;5;6;0;5")


@pytest.mark.parametrize("value", ['"quoted"', "100%", "%(x)s", "a = b", "a;b", "a#b", "$HOME", "ü 密", "\\n", "'"])
def test_a_value_is_taken_as_it_stands(server: Scripted, tmp_path: Path, value: str) -> None:
    (tmp_path / "ini").write_text(f"[x]\nexpect = {value}\n", encoding="utf-8")
    outcome = running.check("pop3", "-H", "127.0.0.1", "-p", server.port, f"--extra-opts=x@{tmp_path}/ini")
    assert f"the greeting lacks '{value}': " in outcome.first_line


def test_a_file_of_options_may_come_from_standard_input(dovecot: Dovecot, ca: CertificateAuthority) -> None:
    where = ("-H", STRICT, "-p", dovecot.pop3, *starttls(ca), "--username", AWKWARD_USER.name, "--extra-opts=x@-")
    passes(in_bash('"$@"', *where, text=f"[x]\npassword = {AWKWARD_USER.password}\n"), "logged in with")


def test_a_file_of_options_may_come_through_a_pipe(dovecot: Dovecot, ca: CertificateAuthority, sources: Path) -> None:
    where = ("-H", STRICT, "-p", dovecot.pop3, *starttls(ca), "--username", AWKWARD_USER.name)
    passes(in_bash(f"\"$@\" --extra-opts=mail@<(cat '{sources}/options.ini')", *where), "logged in with")


@pytest.mark.parametrize("variable", ["MP_CONFIG_FILE", "NAGIOS_CONFIG_PATH"])
@pytest.mark.parametrize("option", ["--extra-opts", "--extra-opts=check_mail_pop3"])
def test_the_file_of_options_is_looked_for_where_the_monitoring_plugins_do(
    server: Scripted, tmp_path: Path, variable: str, option: str
) -> None:
    (tmp_path / "plugins.ini").write_text("[check_mail_pop3]\nt = 4\n")
    path = {"MP_CONFIG_FILE": tmp_path / "plugins.ini", "NAGIOS_CONFIG_PATH": f"/no/such:{tmp_path}"}[variable]
    where = ("-H", "127.0.0.1", "-p", server.port)
    outcome = running.check("pop3", *where, option, env={variable: str(path)})
    assert outcome.code == 0, outcome.output
    assert outcome.perfdata()["time"].endswith(";4")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no section [mail]"),
        ("[email]\npassword = x\n", "has no section [mail]"),
        ("[Mail]\n", "has no section [mail]"),
        ("password = x\n", "has no section [mail]"),
        (f"[mail]\n\npassword: {GEHEIM}\n", "line 3: not of the form name = value"),
        (f"[mail]\n{GEHEIM}\n", "line 2: not of the form"),
        (f"[mail]\npass word = {GEHEIM}\n", "line 2: not of the form"),
        (f"[mail]\n= {GEHEIM}\n", "line 2: not of the form"),
        (f"[mail]\npassword = {GEHEIM}ü\n".encode("latin-1"), "not a text in UTF-8"),
    ],
    ids=ascii,
)
def test_a_file_of_options_that_is_wrong_is_named(
    server: Scripted, tmp_path: Path, text: str | bytes, words: str
) -> None:
    assert words in ini_refused(server, tmp_path, text).output


@pytest.mark.parametrize("path", ["/no/such/file", "/", ""])
def test_a_file_of_options_that_cannot_be_read_is_named(server: Scripted, path: str) -> None:
    assert "cannot be read: " in refused(server, "--extra-opts", f"--extra-opts=mail@{path}").output


def test_a_file_of_options_that_is_a_pipe_without_a_writer_does_not_hold_us_up(
    server: Scripted, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-m", "nagios_checks.pop3", "-H", "127.0.0.1", "-p", str(server.port)]
    outcome = run(["timeout", "4", *command, f"--extra-opts=mail@{tmp_path}/pipe"])
    assert outcome.code == 3, "it waits for a writer"
    assert outcome.output.startswith("POP3 UNKNOWN - --extra-opts: ")


def test_a_file_of_options_that_is_nowhere_is_an_error(server: Scripted, tmp_path: Path) -> None:
    env = {"MP_CONFIG_FILE": str(tmp_path / "nosuch"), "NAGIOS_CONFIG_PATH": ""}
    if any(Path(path).exists() for path in ("/etc/monitoring-plugins", "/etc/monitoring-plugins.ini", "/etc/nagios")):
        pytest.skip("this machine has a file of options")
    assert "there is no file of options" in refused(server, "--extra-opts", "--extra-opts", env=env).output


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("password =", "--password-file"),
        (f"password = {GEHEIM}\x01", "--password-file"),
        (f"password = {GEHEIM * 600}", "--password-file"),
        (f"pasword = {GEHEIM}", "--pasword"),
        (f"pasword = {GEHEIM} with blanks", "--pasword"),
        (f"pasword = part -{GEHEIM}", "--pasword"),
        (f"x = {GEHEIM}", "-x"),
        ("port = ninety", "-p/--port"),
        ("json = 1", "--json"),
    ],
    ids=lambda value: value[:20],
)
def test_a_wrong_key_is_named_and_a_secret_behind_it_is_not_shown(
    server: Scripted, tmp_path: Path, line: str, option: str
) -> None:
    ini_refused(server, tmp_path, f"[mail]\nusername = user\n{line}\n", option)


def test_a_section_that_names_another_one_is_not_ignored(server: Scripted, tmp_path: Path) -> None:
    """The other one would be expected to count; there is no end to a section that names itself."""
    (tmp_path / "ini").write_text(f"[x]\nextra-opts = y@{tmp_path}/ini\n[y]\nw = 0\n")
    outcome = running.check("pop3", "-H", "127.0.0.1", "-p", server.port, f"--extra-opts=x@{tmp_path}/ini")
    assert outcome.code == 3
    assert outcome.first_line.startswith("POP3 UNKNOWN - --extra-opts: ")


# Secrets stay secret.


@pytest.mark.parametrize("source", ["file", "env", "command", "credential", "ini", "process substitution"])
def test_no_process_shows_the_secret_in_its_command_line(tmp_path: Path, source: str) -> None:
    secret = f"{CANARY} {uuid4()}"
    (tmp_path / "secret").write_text(secret, encoding="utf-8")
    (tmp_path / "ini").write_text(f"[x]\npassword = {secret}\n", encoding="utf-8")
    given = {
        "file": f"--password-file {tmp_path}/secret",
        "env": "--password-env PW",
        "command": f"--password-command 'cat {tmp_path}/secret'",
        "credential": "--password-credential secret",
        "ini": f"--extra-opts=x@{tmp_path}/ini",
        "process substitution": f"--password-file <(cat {tmp_path}/secret)",
    }[source]
    script = "S: +OK ready\nC: CAPA\nS: -ERR\nC: USER user\nS: +OK\nC: PASS *\n== wait 0.5\nS: -ERR no\n== any"
    with Scripted(script) as server:
        command = f"{sys.executable} -m nagios_checks.pop3 -H 127.0.0.1 -p {server.port} {given}"
        with subprocess.Popen(
            ["bash", "-c", f"{command} --username user --allow-plaintext-login -vv"],
            env={**os.environ, "PW": secret, "CREDENTIALS_DIRECTORY": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            seen: set[bytes] = set()
            while process.poll() is None:
                seen |= set(command_lines())
            assert process.stdout is not None
            output = process.stdout.read().decode()
    assert process.returncode == 2, output
    assert any(b"nagios_checks.pop3" in line for line in seen)
    assert any(f"PASS {secret}" == heard for heard in server.heard[0]), "the login was not tried with it"
    for form in (secret, secret[-36:], secret[:8], json.dumps(secret)[1:-1]):
        assert form not in output
        assert not [line for line in seen if form.encode() in line]


def command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except OSError:
            continue  # it has ended


# Logins: every mechanism, in every protocol that offers it.

MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256")
SIGNS = {"pop3": " ~> AUTH ", "imap": " ~> a", "sieve": ' ~> AUTHENTICATE "'}


@pytest.mark.parametrize("login", [USER, AWKWARD_USER], ids=["usual", "awkward"])
@pytest.mark.parametrize("mechanism", [None, *MECHANISMS])
@protocols
def test_a_login_at_dovecot(
    dovecot: Dovecot, ca: CertificateAuthority, protocol: str, mechanism: str | None, login: Login
) -> None:
    start = len(dovecot.log())
    options = (*starttls(ca), *named(login.name, mechanism), "-vv")
    used = mechanism or "SCRAM-SHA-256"
    outcome = passes(check(protocol, dovecot, *options, password=login.password), f"logged in with {used}, ")
    assert f"Login: user=<{login.name}>, method={used}, " in dovecot.log()[start:]
    assert login.password not in outcome.output
    assert login.base64_password not in outcome.output
    assert b64encode(f"\0{login.name}\0{login.password}".encode()).decode() not in outcome.output
    assert not [line for line in transcript(outcome) if re.search(rf"^ -> .*({used}|PASS|LOGIN)", line)]


@pytest.mark.parametrize("login", [USER, AWKWARD_USER], ids=["usual", "awkward"])
@pytest.mark.parametrize("mechanism", [None, *MECHANISMS])
@protocols
def test_a_login_at_cyrus(
    cyrus: Cyrus, ca: CertificateAuthority, protocol: str, mechanism: str | None, login: Login
) -> None:
    options = (*starttls(ca), *named(login.name, mechanism), "-vv")
    outcome = passes(check(protocol, cyrus, *options, host="127.0.0.1", password=login.password))
    assert f"logged in with {mechanism or 'SCRAM-SHA-256'}, " in outcome.first_line
    assert login.password not in outcome.output
    assert login.base64_password not in outcome.output


@pytest.mark.parametrize("mechanism", [None, "PLAIN"])
@pytest.mark.parametrize("server_name", ["dovecot", "cyrus"])
@pytest.mark.parametrize("protocol", ["pop3", "imap"])
def test_a_login_inside_implicit_tls(
    request: pytest.FixtureRequest, ca: CertificateAuthority, protocol: str, server_name: str, mechanism: str | None
) -> None:
    server = request.getfixturevalue(server_name)
    options = (*implicit(ca), *named(USER.name, mechanism), "-vv")
    outcome = passes(check(protocol, server, *options, service=f"{protocol}s", host="127.0.0.1"))
    lines = transcript(outcome)
    assert lines[1].startswith("=== TLS: TLSv1.")
    assert not [line for line in lines if line.startswith((" -> ", "<-  "))]


@pytest.mark.parametrize("server_name", ["dovecot", "cyrus"])
@pytest.mark.parametrize("mechanism", ["APOP", "USER"])
@pytest.mark.parametrize("login", [USER, AWKWARD_USER], ids=["usual", "awkward"])
def test_the_own_logins_of_pop3(
    request: pytest.FixtureRequest, ca: CertificateAuthority, server_name: str, mechanism: str, login: Login
) -> None:
    server = request.getfixturevalue(server_name)
    options = (*starttls(ca), *named(login.name, mechanism), "-vv")
    outcome = passes(check("pop3", server, *options, host="127.0.0.1", password=login.password))
    assert f"logged in with {mechanism}, " in outcome.first_line
    said = {"APOP": (f" ~> APOP {login.name} ***",), "USER": (f" ~> USER {login.name}", "<~  +OK", " ~> PASS ***")}
    in_order(transcript(outcome), *said[mechanism], "<~  +OK", " ~> STAT")
    assert login.password not in outcome.output


@pytest.fixture(scope="module")
def tls12(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a check that does not know TLS 1.3, which Python cannot bind a login to."""
    path = tmp_path_factory.mktemp("openssl") / "openssl.cnf"
    path.write_text("openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nMaxProtocol = TLSv1.2\n")
    return {"OPENSSL_CONF": str(path), PASSWORD_VARIABLE: PASSWORD}


@pytest.mark.parametrize("mechanism", [None, "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"])
@protocols
def test_a_login_that_is_bound_to_the_channel(
    cyrus: Cyrus, ca: CertificateAuthority, tls12: dict[str, str], protocol: str, mechanism: str | None
) -> None:
    where = ("-H", "127.0.0.1", "-p", cyrus.ports[protocol], *starttls(ca))
    outcome = running.check(protocol, *where, *named(USER.name, mechanism), env=tls12)
    passes(outcome, "TLSv1.2, ", f"logged in with {mechanism or 'SCRAM-SHA-256-PLUS'}, ")


@protocols
def test_a_wrong_password_is_refused_by_a_bound_login_too(
    cyrus: Cyrus, ca: CertificateAuthority, tls12: dict[str, str], protocol: str
) -> None:
    where = ("-H", "127.0.0.1", "-p", cyrus.ports[protocol], *starttls(ca), "--json")
    env = {**tls12, PASSWORD_VARIABLE: "wrong"}
    report(running.check(protocol, *where, *named(USER.name), env=env), "critical", "auth-rejected")


@pytest.mark.parametrize("expect", [(), ("--expect-login-refused",)], ids=["expected to work", "expected not to"])
@protocols
def test_a_login_that_cannot_be_bound_is_not_tried(
    cyrus: Cyrus, ca: CertificateAuthority, protocol: str, expect: tuple[str, ...]
) -> None:
    """TLS 1.3 has no tls-unique, and Python no tls-exporter: what is not tried was not rejected by the server."""
    options = (*starttls(ca), *named(USER.name, "SCRAM-SHA-256-PLUS"), *expect, "--json")
    outcome = check(protocol, cyrus, *options, host="127.0.0.1")
    found = outcome.json
    assert found["tls"]["version"] == "TLSv1.3"
    assert [problem["code"] for problem in found["problems"]] == ["mechanism-unavailable"], outcome.output
    assert not [line for line in found["transcript"] if "SCRAM-SHA-256-PLUS ***" in line]


@pytest.mark.parametrize("source", ["file", "command"])
@pytest.mark.parametrize("mechanism", [None, "OAUTHBEARER", "XOAUTH2"])
@protocols
def test_a_login_with_a_token(
    dovecot: Dovecot, ca: CertificateAuthority, tmp_path: Path, protocol: str, mechanism: str | None, source: str
) -> None:
    token = dovecot.token(READER)
    (tmp_path / "token").write_text(token)
    given = {"file": str(tmp_path / "token"), "command": f"cat {tmp_path}/token"}[source]
    wanted = ("--mechanism", mechanism) if mechanism else ()
    outcome = check(protocol, dovecot, *starttls(ca), "--username", READER, f"--token-{source}", given, *wanted, "-vv")
    passes(outcome, f"logged in with {mechanism or 'OAUTHBEARER'}, ")
    assert not any(part in outcome.output for part in token.split("."))


@pytest.mark.parametrize("kind", ["expired", "another user's", "rubbish"])
@pytest.mark.parametrize("mechanism", ["OAUTHBEARER", "XOAUTH2"])
@protocols
def test_a_token_that_is_no_good_is_refused(
    dovecot: Dovecot, ca: CertificateAuthority, tmp_path: Path, protocol: str, mechanism: str, kind: str
) -> None:
    token = {
        "expired": dovecot.token(READER, timedelta(minutes=-1)),
        "another user's": dovecot.token(USER.name),
        "rubbish": "rubbish-rubbish",
    }[kind]
    (tmp_path / "token").write_text(token)
    options = (*starttls(ca), "--username", READER, "--token-file", tmp_path / "token", "--mechanism", mechanism)
    outcome = check(protocol, dovecot, *options, "--json")
    found = report(outcome, "critical", "auth-rejected")
    assert not any(part in outcome.output for part in token.split("."))
    assert re.search("uthentication failed", found["problems"][0]["message"])
    passes(check(protocol, dovecot, *options, "--expect-login-refused"), "login refused, as it must be")


@protocols
def test_a_login_with_a_client_certificate(dovecot: Dovecot, ca: CertificateAuthority, protocol: str) -> None:
    certificate = dovecot.client_certificate(READER)
    given = ("--client-cert", certificate.cert_path, "--client-key", certificate.key_path, "--mechanism", "EXTERNAL")
    options = (*starttls(ca), *given)
    outcome = check(protocol, dovecot, *options, "--username", READER, host=CLIENT_CERTIFICATES)
    passes(outcome, "logged in with EXTERNAL, ")
    outcome = check(protocol, dovecot, *options, "--username", USER.name, "--json", host=CLIENT_CERTIFICATES)
    report(outcome, "critical", "auth-rejected")
    outcome = check(protocol, dovecot, *options, "--username", READER, "--json", host=STRICT)
    report(outcome, "critical", "auth-rejected")


@protocols
def test_a_client_certificate_alone_does_not_choose_the_mechanism(
    dovecot: Dovecot, ca: CertificateAuthority, protocol: str
) -> None:
    certificate = dovecot.client_certificate(READER)
    options = (*starttls(ca), "--client-cert", certificate.cert_path, "--client-key", certificate.key_path)
    passes(check(protocol, dovecot, *options, *named(READER), host=CLIENT_CERTIFICATES), "logged in with SCRAM-SHA-256")


# Logins that fail.


@pytest.mark.parametrize("mechanism", MECHANISMS)
@protocols
def test_a_wrong_password_is_tried_once(
    dovecot: Dovecot, ca: CertificateAuthority, protocol: str, mechanism: str
) -> None:
    start = len(dovecot.log())
    options = (*starttls(ca), *named(USER.name, mechanism))
    outcome = check(protocol, dovecot, *options, "-vv", password="not the password")
    assert outcome.code == 2
    assert re.search(
        rf": (AUTH|AUTHENTICATE) \"?{mechanism}\"?( \*\*\*)? refused: '(-ERR|NO) .*Authentication failed",
        outcome.first_line,
    ), outcome.first_line
    assert "[auth-rejected] | " in outcome.first_line
    assert "\n[critical] auth-rejected at auth: " in outcome.output
    assert "not the password" not in outcome.output
    assert re.search(r"\(auth failed, 1 attempts in \d+ secs\)", dovecot.log()[start:])
    assert "auth_time" in outcome.perfdata()
    passes(
        check(protocol, dovecot, *options, "--expect-login-refused", password="not the password"),
        f"login refused, as it must be, with {mechanism}, ",
    )


@pytest.mark.parametrize("mechanism", ["APOP", "USER"])
def test_a_wrong_password_is_refused_by_the_own_logins_of_pop3(
    dovecot: Dovecot, ca: CertificateAuthority, mechanism: str
) -> None:
    options = (*starttls(ca), *named(USER.name, mechanism))
    outcome = check("pop3", dovecot, *options, "-vv", password="not the password")
    assert outcome.code == 2
    said = {"APOP": f"APOP {USER.name} \\*\\*\\*", "USER": r"PASS \*\*\*"}[mechanism]
    assert re.search(rf": {said} refused: '-ERR \[AUTH\] Authentication failed\.' \[auth-r", outcome.first_line)
    assert "not the password" not in outcome.output


@pytest.mark.parametrize("mechanism", [None, *MECHANISMS])
@protocols
def test_a_wrong_password_at_cyrus(
    cyrus: Cyrus, ca: CertificateAuthority, protocol: str, mechanism: str | None
) -> None:
    options = (*starttls(ca), *named(USER.name, mechanism))
    outcome = check(protocol, cyrus, *options, "--json", host="127.0.0.1", password="wrong")
    report(outcome, "critical", "auth-rejected")
    outcome = check(protocol, cyrus, *options, "--expect-login-refused", host="127.0.0.1", password="wrong")
    passes(outcome, "login refused, as it must be, ")


@pytest.mark.parametrize(
    ("username", "protocol", "state", "code", "words"),
    [
        (CLOSED, "imap", "critical", "auth-rejected", f"NO [CONTACTADMIN] {CLOSED_REASON}"),
        (CLOSED, "pop3", "critical", "auth-rejected", f"-ERR [AUTH] {CLOSED_REASON}"),
        (CLOSED, "sieve", "critical", "auth-rejected", f"NO {CLOSED_REASON}"),
        (EXPIRED, "imap", "critical", "account-expired", "NO [EXPIRED] Password expired"),
        (EXPIRED, "pop3", "critical", "auth-rejected", "-ERR [AUTH] Password expired"),
        (EXPIRED, "sieve", "critical", "auth-rejected", "NO Password expired"),
        (UNAVAILABLE, "imap", "warning", "system-temporary", "NO [UNAVAILABLE] Temporary authentication failure."),
        (UNAVAILABLE, "pop3", "warning", "system-temporary", "-ERR [SYS/TEMP] Temporary authentication failure."),
        (UNAVAILABLE, "sieve", "warning", "system-temporary", "NO (TRYLATER) Temporary authentication failure."),
        (BROKEN, "imap", "critical", "connection-closed", "BYE Internal error occurred."),
        (BROKEN, "pop3", "warning", "system-temporary", "-ERR [SYS/TEMP] Internal error occurred."),
        (BROKEN, "sieve", "critical", "connection-closed", "BYE Internal error occurred."),
        (LOCKED, "imap", "warning", "rate-limited", "NO [LIMIT] Maximum number of connections from user+IP exceeded"),
        (LOCKED, "pop3", "warning", "mailbox-in-use", "-ERR [IN-USE] Maximum number of connections from user+IP exc"),
        (LOCKED, "sieve", "warning", "rate-limited", "NO Maximum number of connections from user+IP exceeded"),
    ],
)
def test_an_account_that_lets_nobody_in_has_its_state_its_code_and_the_servers_words(
    dovecot: Dovecot, ca: CertificateAuthority, username: str, protocol: str, state: str, code: str, words: str
) -> None:
    context = ssl.create_default_context(cafile=str(ca.pem_path))
    with Client(protocol, dovecot, SINGLE).start_tls(context) as other:
        other.log_in("PLAIN", Login(LOCKED, PASSWORD))
        options = (*starttls(ca), *named(username))
        outcome = check(protocol, dovecot, *options, "-v", host=SINGLE)
        expected = check(protocol, dovecot, *options, "--expect-login-refused", host=SINGLE)
    assert f"'{words}" in outcome.first_line
    assert (outcome.state, re.search(r" \[([a-z-]+)\] \| ", outcome.first_line)[1]) == (state, code)
    assert f"\n[{state}] {code} at " in outcome.output
    if username in (CLOSED, EXPIRED):
        passes(expected, "login refused, as it must be, ")
    else:
        assert expected.code in (1, 2), "trouble is no refusal"


@protocols
def test_a_login_that_works_and_must_not_is_critical(dovecot: Dovecot, ca: CertificateAuthority, protocol: str) -> None:
    outcome = check(protocol, dovecot, *starttls(ca), *named(USER.name), "--expect-login-refused", "-vv")
    assert outcome.code == 2
    assert f": the login of {USER.name} was accepted [login-not-refused] | " in outcome.first_line
    assert [line for line in transcript(outcome)[-3:] if re.match(" ~> (QUIT|LOGOUT|a[0-9]+ LOGOUT)$", line)]
    assert not re.search("STAT|EXAMINE|LISTSCRIPTS", "".join(transcript(outcome)))


@pytest.mark.parametrize(
    ("protocol", "mechanism"),
    [*((protocol, mechanism) for protocol in PROTOCOLS for mechanism in ("PLAIN", "LOGIN")), ("pop3", "USER")],
)
def test_no_password_is_sent_where_the_server_forbids_it(dovecot: Dovecot, protocol: str, mechanism: str) -> None:
    """Dovecot offers neither PLAIN nor LOGIN before TLS, POP3's USER neither, and IMAP has LOGINDISABLED."""
    start = len(dovecot.log())
    outcome = check(protocol, dovecot, *named(USER.name, mechanism), "--allow-plaintext-login", "--json")
    found = report(outcome, "critical", "mechanism-not-offered")
    assert not [
        line for line in found["transcript"] if re.match(r" -> .*\b(AUTH|AUTHENTICATE|LOGIN|USER|PASS)\b", line)
    ]
    assert "auth failed" not in dovecot.log()[start:]
    assert ("LOGINDISABLED" in found["facts"]["capabilities"]) is (protocol == "imap")


@protocols
def test_a_login_without_tls_is_by_a_mechanism_that_hides_the_password(dovecot: Dovecot, protocol: str) -> None:
    outcome = check(protocol, dovecot, *named(USER.name), "--allow-plaintext-login", "-vv")
    passes(outcome, "logged in with SCRAM-SHA-256, ")


@protocols
def test_the_mechanisms_that_were_offered_are_reported(
    dovecot: Dovecot, ca: CertificateAuthority, protocol: str
) -> None:
    """Of the login that was made, not of what is offered to who is in already."""
    for login in ((), named(USER.name)):
        offered = report(check(protocol, dovecot, *starttls(ca), *login, "--json"))["facts"]["auth_mechanisms"]
        assert {*MECHANISMS, "OAUTHBEARER", "XOAUTH2", "EXTERNAL"} <= set(offered)


# TLS.


@protocols
def test_starttls_that_is_not_offered_is_critical_and_nothing_is_said_in_the_clear(
    dovecot: Dovecot, ca: CertificateAuthority, protocol: str
) -> None:
    # Dovecot's ManageSieve announces it all the same, and then refuses it.
    code = {"sieve": "starttls-refused"}.get(protocol, "starttls-not-offered")
    found = report(check(protocol, dovecot, *starttls(ca), *named(USER.name), "--json", host=NO_TLS), "critical", code)
    assert not [line for line in found["transcript"] if re.match(" -> .*(AUTH|LOGIN|USER)", line)]


BAD_CERTIFICATES = {
    "certificate-wrong-name": ("--tls-server-name", "other.example"),
    "certificate-unknown-issuer": (),
}
MODES = [("pop3", "starttls"), ("imap", "starttls"), ("sieve", "starttls"), ("pop3", "implicit"), ("imap", "implicit")]


@pytest.mark.parametrize("code", BAD_CERTIFICATES)
@pytest.mark.parametrize(("protocol", "mode"), MODES)
def test_no_password_is_sent_where_the_certificate_is_bad(
    dovecot: Dovecot, ca: CertificateAuthority, protocol: str, mode: str, code: str
) -> None:
    start = len(dovecot.log())
    service = f"{protocol}s" if mode == "implicit" else protocol
    trust = ("--ca-file", str(ca.pem_path)) if code == "certificate-wrong-name" else ()
    options = ("--tls", mode, *trust, *BAD_CERTIFICATES[code], *named(USER.name))
    found = report(check(protocol, dovecot, *options, "--json", service=service), "critical", code)
    assert found["problems"][0]["stage"] == "tls"
    assert found["certificate"]["days_left"] == 89
    assert STRICT in found["certificate"]["names"]
    assert found["facts"]["login"] is None
    assert not [line for line in found["transcript"] if re.match(" (-|~)> .*(AUTH|LOGIN|USER)", line)]
    assert "Login: " not in dovecot.log()[start:]


@pytest.mark.parametrize(("protocol", "mode"), MODES)
def test_any_certificate_is_accepted_when_none_is_to_be_validated(dovecot: Dovecot, protocol: str, mode: str) -> None:
    service = f"{protocol}s" if mode == "implicit" else protocol
    options = ("--tls", mode, "--no-validate-certs", "--tls-server-name", "other.example", *named(USER.name))
    found = report(check(protocol, dovecot, *options, "--json", service=service))
    assert (found["tls"]["verified"], found["facts"]["login"]) == (False, "accepted")
    assert found["certificate"]["days_left"] == 89


@pytest.mark.parametrize("server_name", ["dovecot", "cyrus"])
@protocols
def test_the_capabilities_are_those_that_were_said_inside_tls(
    request: pytest.FixtureRequest, ca: CertificateAuthority, server_name: str, protocol: str
) -> None:
    server = request.getfixturevalue(server_name)
    found = report(check(protocol, server, *starttls(ca), "--json", host="127.0.0.1"))
    assert found["tls"]["verified"] is True
    assert not {"STARTTLS", "STLS", "LOGINDISABLED"} & set(found["facts"]["capabilities"])
    assert "PLAIN" in found["facts"]["auth_mechanisms"]


@pytest.mark.parametrize("mode", ["none", "starttls"])
@pytest.mark.parametrize("protocol", ["pop3", "imap"])
def test_a_port_that_speaks_tls_from_the_first_byte_is_a_finding(dovecot: Dovecot, protocol: str, mode: str) -> None:
    options = ("--tls", mode, "-t", 2)
    assert check(protocol, dovecot, *options, service=f"{protocol}s").code == 2


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(PROTOCOLS, 2)))
def test_the_port_of_another_protocol_is_named(dovecot: Dovecot, one: str, other: str) -> None:
    outcome = check(one, dovecot, "-t", 3, service=other)
    assert outcome.code == 2
    assert "[wrong-protocol]" in outcome.first_line
    assert {"pop3": "looks like POP3", "imap": "looks like IMAP", "sieve": "looks like ManageSieve"}[
        other
    ] in outcome.first_line
