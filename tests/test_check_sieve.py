"""check_mail_sieve against a real Dovecot and Cyrus: the scripts of a user, and that they are left as they were.

Logins and TLS, which are the same in all protocols, are in test_credentials.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from . import running
from .running import NOISE_SECONDS, Outcome
from .scripted import Scripted
from .servers import USER, Server, wait_until
from .servers.certificates import CertificateAuthority
from .servers.cyrus import Cyrus
from .servers.dovecot import (
    ACTIVE_SCRIPT,
    PASSWORD,
    READER,
    SCRIPTS,
    SIEVE_ACTIVE,
    SIEVE_FULL,
    SIEVE_INACTIVE,
    STRICT,
    Dovecot,
)
from .test_check_smtp import in_order, report, starttls, transcript

GOOD = 'require ["fileinto", "vacation"];\r\nif header :contains "Subject" "Grüße {5}\\r\\n" { fileinto "x"; }\r\n'


def check(server: Server, *arguments: object, host: str = STRICT) -> Outcome:
    return running.check("sieve", "-H", host, "-p", server.ports["sieve"], *arguments, env={"PW": PASSWORD})


def login(name: str, *mechanism: str) -> tuple[str, ...]:
    return ("--username", name, "--password-env", "PW", *(("--mechanism", *mechanism) if mechanism else ()))


def passes(outcome: Outcome) -> Outcome:
    assert outcome.code == 0, outcome.output
    assert outcome.errors == ""
    assert outcome.first_line.startswith("SIEVE OK - ")
    outcome.perfdata()
    return outcome


def script_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "script.sieve"
    path.write_bytes(text.encode())
    return path


def stored(dovecot: Dovecot) -> dict[str, object]:
    """All scripts of all users: names, contents, dates, and which ones are active."""
    home = dovecot.directory / "home"
    found: dict[str, object] = {}
    for path in sorted(home.rglob("*")):
        # Dovecot puts the compiled scripts of whoever it runs for and its log there; no client does.
        if path.suffix == ".sieve":
            found[str(path.relative_to(home))] = (path.read_bytes(), path.lstat().st_mtime, path.is_symlink())
    return found


@contextmanager
def logged(dovecot: Dovecot) -> Iterator[list[str]]:
    """What Dovecot logs until it has logged the end of a conversation."""
    start = len(dovecot.log())
    lines: list[str] = []
    yield lines
    wait_until(lambda: "isconnected: " in dovecot.log()[start:], "Dovecot to log the end", seconds=5)
    lines += dovecot.log()[start:].splitlines()


# What works.


@pytest.mark.parametrize("server_name", ["dovecot", "cyrus"])
@pytest.mark.parametrize("mode", ["none", "starttls"])
def test_a_server_that_greets_is_ok_without_a_login(
    request: pytest.FixtureRequest, ca: CertificateAuthority, server_name: str, mode: str
) -> None:
    server = request.getfixturevalue(server_name)
    tls = () if mode == "none" else starttls(ca)
    outcome = passes(check(server, *tls, host="127.0.0.1"))
    banner = {"dovecot": r"Dovecot \(Debian\) Pigeonhole", "cyrus": "Cyrus timsieved .*"}[server_name]
    security = "" if mode == "none" else r"TLSv1\.[23], certificate valid for 89 days, "
    expected = rf"SIEVE OK - 127.0.0.1:{server.sieve}: '{banner}', {security}in 0\.\d{{3}} s \| "
    assert re.match(expected, outcome.first_line), outcome.first_line
    assert "script_count" not in outcome.perfdata()


@pytest.mark.parametrize("server_name", ["dovecot", "cyrus"])
@pytest.mark.parametrize("mode", ["none", "starttls"])
def test_the_capabilities_are_reported(
    request: pytest.FixtureRequest, ca: CertificateAuthority, server_name: str, mode: str
) -> None:
    server = request.getfixturevalue(server_name)
    tls = () if mode == "none" else starttls(ca)
    facts = report(check(server, *tls, "--json", host="127.0.0.1"))["facts"]
    assert facts["implementation"] == facts["banner"]
    assert {"fileinto", "vacation", "envelope"} <= set(facts["sieve_extensions"])
    assert {"CRAM-MD5", "SCRAM-SHA-256"} <= set(facts["auth_mechanisms"])
    assert f"IMPLEMENTATION {facts['implementation']}" in facts["capabilities"]
    assert ("STARTTLS" in facts["capabilities"]) is (mode == "none")
    assert (facts["scripts"], facts["script_count"], facts["active_script"]) == ([], None, None)


def test_the_conversation_reads_as_somebody_would_type_it(
    dovecot: Dovecot, ca: CertificateAuthority, tmp_path: Path
) -> None:
    options = ("--require-active", "--have-space", 1000, "--check-script", script_file(tmp_path, "keep;"), "-vv")
    outcome = passes(check(dovecot, *starttls(ca), *login(SIEVE_ACTIVE, "PLAIN"), *options))
    in_order(
        transcript(outcome),
        *('<-  "IMPLEMENTATION" "', '<-  "STARTTLS"', '<-  OK "', " -> STARTTLS", "<-  OK ", "=== TLS: TLSv1."),
        *('<~  "IMPLEMENTATION" "', '<~  OK "TLS', ' ~> AUTHENTICATE "PLAIN" ***', '<~  OK "Logged in."'),
        *(" ~> LISTSCRIPTS", '<~  "main" ACTIVE', '<~  OK "', ' ~> HAVESPACE "mailprobe" 1000', '<~  OK "Putscript'),
        *(" ~> CHECKSCRIPT {5+}", " ~> (5 octets of ", '<~  OK "Script checked', " ~> LOGOUT", '<~  OK "Logout'),
    )


def test_a_text_that_the_greeting_contains_can_be_expected(dovecot: Dovecot) -> None:
    passes(check(dovecot, "--expect", "Pigeonhole"))
    report(check(dovecot, "--expect", "Cyrus", "--json"), "critical", "greeting-unexpected")


# Scripts.


@pytest.mark.parametrize(
    ("username", "active", "words"),
    [
        (SIEVE_ACTIVE, ACTIVE_SCRIPT, "2 scripts, 'main' active"),
        (SIEVE_INACTIVE, None, "2 scripts, none active"),
        (READER, None, "0 scripts, none active"),
    ],
)
def test_the_scripts_are_listed(
    dovecot: Dovecot, ca: CertificateAuthority, username: str, active: str | None, words: str
) -> None:
    outcome = passes(check(dovecot, *starttls(ca), *login(username)))
    assert f", {words}, in " in outcome.first_line
    expected = [] if username == READER else sorted(SCRIPTS)
    assert outcome.perfdata()["script_count"] == f"{len(expected)};;;0"
    facts = report(check(dovecot, *starttls(ca), *login(username), "--json"))["facts"]
    assert (sorted(facts["scripts"]), facts["script_count"], facts["active_script"]) == (
        expected,
        len(expected),
        active,
    )


def test_the_scripts_are_listed_at_cyrus(cyrus: Cyrus, ca: CertificateAuthority, tmp_path: Path) -> None:
    options = ("--have-space", 1000, "--check-script", script_file(tmp_path, "keep;"))
    facts = report(check(cyrus, *starttls(ca), *login(USER.name), *options, "--json", host="127.0.0.1"))["facts"]
    assert (facts["scripts"], facts["script_count"], facts["active_script"]) == ([], 0, None)
    assert (facts["have_space"], facts["script_valid"]) == (True, True)


@pytest.mark.parametrize("name", ["a|b", "ACTIVE", "OK", "\\u202ex", 'q\\\\"q', "{5}"], ids=ascii)
def test_a_script_may_have_any_name(name: str) -> None:
    script = (
        'S: "IMPLEMENTATION" "x"\nS: "SASL" "PLAIN"\nS: OK\nC: AUTHENTICATE "PLAIN" *\nS: OK\n'
        f'C: LISTSCRIPTS\nS: "other"\nS: "{name}" ACTIVE\nS: OK\nC: LOGOUT\nS: OK'
    )
    with Scripted(script) as server:
        where = ("-H", "127.0.0.1", "-p", server.port, "--allow-plaintext-login", *login("user"))
        outcome = running.check("sieve", *where, "--require-active", "--json", env={"PW": PASSWORD})
    facts = report(outcome)["facts"]
    assert facts["scripts"][0] == "other"
    assert facts["scripts"][1] == facts["active_script"]


def test_a_script_must_be_active_when_that_is_asked_for(dovecot: Dovecot, ca: CertificateAuthority) -> None:
    passes(check(dovecot, *starttls(ca), *login(SIEVE_ACTIVE), "--require-active"))
    outcome = check(dovecot, *starttls(ca), *login(SIEVE_INACTIVE), "--require-active", "-v")
    assert outcome.code == 2
    assert ": none of 2 scripts is active [no-active-script] | " in outcome.first_line
    assert "\n[critical] no-active-script at script: " in outcome.output
    report(check(dovecot, *starttls(ca), *login(READER), "--require-active", "--json"), "critical", "no-active-script")


@pytest.mark.parametrize(
    ("username", "octets", "words"),
    [
        (SIEVE_ACTIVE, 1000, None),
        (READER, 1, None),
        (SIEVE_FULL, 1, "NO (QUOTA/MAXSCRIPTS) Script count quota exceeded (max 2 scripts)."),
        (SIEVE_ACTIVE, 99999999, "NO (QUOTA/MAXSIZE) Script is too large (max 1048576 bytes)."),
    ],
)
def test_space_for_a_script_can_be_asked_for(
    dovecot: Dovecot, ca: CertificateAuthority, username: str, octets: int, words: str | None
) -> None:
    outcome = check(dovecot, *starttls(ca), *login(username), "--have-space", octets, "--json")
    if words is None:
        assert report(outcome)["facts"]["have_space"] is True
        return
    found = report(outcome, "critical", "quota-exceeded")
    assert f"'{words}'" in found["problems"][0]["message"]
    assert found["problems"][0]["stage"] == "script"
    assert (found["facts"]["script_count"], found["facts"]["have_space"]) == (2, False)


SCRIPTS_THAT_ARE_SIEVE = ["keep;", "keep;\r\n", "# nothing\n", GOOD, "keep;" + "# x\r\n" * 5_000]


@pytest.mark.parametrize(
    ("server_name", "text"),
    # To Cyrus a script of nothing is none.
    [("dovecot", ""), *((server, text) for server in ("dovecot", "cyrus") for text in SCRIPTS_THAT_ARE_SIEVE)],
)
def test_a_script_that_is_sieve_is_ok(
    request: pytest.FixtureRequest, ca: CertificateAuthority, tmp_path: Path, server_name: str, text: str
) -> None:
    server = request.getfixturevalue(server_name)
    options = (*starttls(ca), *login(USER.name), "--check-script", script_file(tmp_path, text))
    passes(check(server, *options, host="127.0.0.1"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nosuch;", "line 1: error: unknown command 'nosuch'"),
        ('keep;\r\nrequire "nosuch";', "line 2: error: "),
        ("keep", "line 1: error: "),
        ("\0\xff\x1b[31m|", "error: "),
        ("From: somebody\r\n\r\nThis is a mail.\r\n", "line 1: error: "),
    ],
    ids=ascii,
)
def test_a_script_that_is_not_sieve_is_a_finding_with_the_line(
    dovecot: Dovecot, ca: CertificateAuthority, tmp_path: Path, text: str, words: str
) -> None:
    options = (*starttls(ca), *login(SIEVE_ACTIVE), "--check-script", script_file(tmp_path, text))
    outcome = check(dovecot, *options, "-v")
    assert outcome.code == 2
    assert re.search(rf": CHECKSCRIPT .*refused: 'NO .*{re.escape(words)}.* \[script-refused\] \| ", outcome.first_line)
    assert "\n[critical] script-refused at script: " in outcome.output
    assert outcome.output.replace("\n", "").isprintable()
    assert outcome.perfdata()["script_count"] == "2;;;0"


def test_a_script_that_is_not_sieve_is_a_finding_at_cyrus(
    cyrus: Cyrus, ca: CertificateAuthority, tmp_path: Path
) -> None:
    options = (*starttls(ca), *login(USER.name), "--check-script", script_file(tmp_path, "nosuch;"), "--json")
    found = report(check(cyrus, *options, host="127.0.0.1"), "critical", "script-refused")
    assert "line 1" in found["problems"][0]["message"]


def test_all_is_asked_though_one_thing_is_refused(dovecot: Dovecot, ca: CertificateAuthority, tmp_path: Path) -> None:
    options = ("--require-active", "--have-space", 1, "--check-script", script_file(tmp_path, "nosuch;"), "--json")
    codes = ("no-active-script", "quota-exceeded", "script-refused")
    report(check(dovecot, *starttls(ca), *login(SIEVE_FULL), *options), "critical", *codes)


def test_nothing_is_stored_and_nothing_is_activated(dovecot: Dovecot, ca: CertificateAuthority, tmp_path: Path) -> None:
    options = ("--require-active", "--have-space", 1000, "--check-script", script_file(tmp_path, GOOD), "--json")
    before = stored(dovecot)
    assert len(before) == 7
    for username in (SIEVE_ACTIVE, SIEVE_INACTIVE, SIEVE_FULL, READER):
        found = check(dovecot, *starttls(ca), *login(username), *options).json
        assert not [line for line in found["transcript"] if re.search("> (PUT|SET|DELETE|RENAME)", line)]
    assert stored(dovecot) == before


# What is refused before anything is connected.


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A server that would answer, if somebody came."""
    with Scripted('S: "IMPLEMENTATION" "x"\nS: OK\n== any OK') as scripted:
        yield scripted


def refused(server: Scripted, option: str, *arguments: object) -> Outcome:
    where = ("-H", "127.0.0.1", "-p", server.port, "-t", 2, "--allow-plaintext-login")
    outcome = running.check("sieve", *where, *arguments, env={"PW": PASSWORD})
    assert outcome.code == 3, outcome.output
    assert outcome.errors == ""
    assert outcome.output.startswith(f"SIEVE UNKNOWN - {option}: ")
    assert not re.search(r"internal error|\bNone\b", outcome.output)
    server.finish(0)
    assert server.connections == 0
    return outcome


def test_the_server_of_these_tests_would_have_answered(server: Scripted) -> None:
    running.check("sieve", "-H", "127.0.0.1", "-p", server.port)
    assert server.connections == 1


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nosuch.sieve", "No such file or directory"),
        ("", "is not a file"),
        ("large.sieve", "has more than 1048576 octets"),
    ],
)
def test_a_script_file_that_cannot_be_read_is_refused(server: Scripted, tmp_path: Path, path: str, words: str) -> None:
    (tmp_path / "large.sieve").write_bytes(b"#" * (1024 * 1024 + 1))
    assert words in refused(server, "--check-script", *login("user"), "--check-script", tmp_path / path).output


def test_a_script_file_that_is_a_pipe_without_a_writer_does_not_hold_us_up(server: Scripted, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    outcome = refused(server, "--check-script", *login("user"), "--check-script", tmp_path / "pipe")
    assert outcome.seconds < 2 + NOISE_SECONDS


@pytest.mark.parametrize(
    "option", [("--require-active",), ("--have-space", "10"), ("--check-script", __file__)], ids=" ".join
)
def test_what_needs_a_login_says_so(server: Scripted, option: tuple[str, ...]) -> None:
    assert "needs a login: give --username" in refused(server, option[0], *option).output


@pytest.mark.parametrize("octets", ["0", "-1", "ten", "1.5", "1k"])
def test_space_is_a_number_of_octets(server: Scripted, octets: str) -> None:
    refused(server, "--have-space", *login("user"), f"--have-space={octets}")


# Thresholds and manners.


@pytest.mark.parametrize("metric", ["script_count", "script_time", "auth_time", "tls_time", "quit_time"])
@pytest.mark.parametrize(("option", "code"), [("-w", 1), ("-c", 2)])
def test_every_metric_can_raise_an_alarm(
    dovecot: Dovecot, ca: CertificateAuthority, metric: str, option: str, code: int
) -> None:
    outcome = check(dovecot, *starttls(ca), *login(SIEVE_ACTIVE), option, f"{metric}=@0:")
    assert outcome.code == code, outcome.output
    assert f": {metric} is " in outcome.first_line
    warning, critical = [*outcome.perfdata()[metric].split(";"), "", ""][1:3]
    assert (warning, critical) == (("@0:", "") if option == "-w" else ("", "@0:"))


@pytest.mark.parametrize(("given", "code"), [("1:", 0), ("3:", 2), ("2", 0), ("1", 2)])
def test_a_range_judges_the_number_of_scripts(
    dovecot: Dovecot, ca: CertificateAuthority, given: str, code: int
) -> None:
    assert check(dovecot, *starttls(ca), *login(SIEVE_ACTIVE), "-c", f"script_count={given}").code == code


def test_a_range_for_the_scripts_without_a_login_is_unknown(dovecot: Dovecot) -> None:
    outcome = check(dovecot, "-c", "script_count=1:")
    assert outcome.code == 3
    assert "script_count was not measured" in outcome.first_line


@pytest.mark.parametrize(
    ("options", "farewell"),
    [
        ((), "no auth attempts in "),
        (("STARTTLS",), "no auth attempts in "),
        (("--expect", "another banner"), "no auth attempts in "),
        (("STARTTLS", "LOGIN", "--have-space", "1"), "Logged out "),
        (("STARTTLS", "LOGIN", "--check-script", __file__), "Logged out "),
        (("STARTTLS", "LOGIN", "--expect-login-refused"), "Logged out "),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value).replace(__file__, "not sieve"),
)
def test_dovecot_logs_one_polite_client_that_says_logout(
    dovecot: Dovecot, ca: CertificateAuthority, options: tuple[str, ...], farewell: str
) -> None:
    stand_for = {"STARTTLS": starttls(ca), "LOGIN": login(SIEVE_ACTIVE)}
    with logged(dovecot) as lines:
        outcome = check(dovecot, *(word for option in options for word in stand_for.get(option, (option,))))
    assert outcome.code in (0, 2)
    ends = [line for line in lines if "isconnected: " in line]
    assert len(ends) == 1, lines
    assert farewell in ends[0]
    assert "Logged out " in ends[0] or "Aborted login by logging out" in ends[0]
    assert not [line for line in lines if re.search("Error|Warning|Fatal|Panic|Connection closed", line)]


KEYS = (
    "banner capabilities auth_mechanisms mechanism login implementation sieve_extensions scripts script_count"
    " active_script have_space script_valid"
)


@pytest.mark.parametrize("options", [(), ("LOGIN",), ("--expect", "another")], ids=str)
def test_json_has_every_key_and_the_same_exit_code(
    dovecot: Dovecot, ca: CertificateAuthority, options: tuple[str, ...]
) -> None:
    given = (*starttls(ca), *(login(SIEVE_ACTIVE) if options == ("LOGIN",) else options))
    outcome = check(dovecot, *given, "--json")
    assert set(outcome.json["facts"]) == set(KEYS.split())
    assert outcome.code == outcome.json["exit_code"] == check(dovecot, *given).code
    assert outcome.json["protocol"] == "sieve"


@pytest.mark.parametrize("mode", ["none", "starttls", "implicit"])
def test_the_port_is_the_one_of_the_protocol(mode: str) -> None:
    assert running.check("sieve", "-H", "127.0.0.1", "--tls", mode, "-t", 2, "--json").json["port"] == 4190
