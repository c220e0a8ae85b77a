"""On a host that has run out of something, and when it is stopped, a check ends in one clean line and its exit code."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from mailprobe import imap, pop3, sieve, smtp
from mailprobe.conversation import Conversation
from mailprobe.families import PromiseOptions
from mailprobe.imap_dialect import Imap
from mailprobe.network import Deadline
from mailprobe.pop3 import Pop3
from mailprobe.run import new_report
from mailprobe.sieve import Sieve
from mailprobe.smtp_dialect import Smtp

from .playing import Files, serve
from .running import REPOSITORY, run
from .scripted import Script, Scripted

CONVERSATIONS = REPOSITORY / "tests" / "conversations"
PROTOCOLS = ("imap", "pop3", "sieve", "smtp")
# What works, up to a login where there is one; and a refusal.
WORKS = {"imap": "ok-quota", "pop3": "ok-mailbox", "sieve": "ok-scripts", "smtp": "ok-message-sent"}
REFUSES = {"imap": "auth-rejected", "pop3": "auth-rejected", "sieve": "auth-rejected", "smtp": "recipient-refused"}
MUTE = "== silence"

# Runs a check after a line of Python that takes something away; imports need descriptors and memory themselves.
TAKE_AWAY = "import resource, sys; from nagios_checks.{protocol} import main; {first}; main()"
NO_DESCRIPTORS = "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))"
# Of the memory that Python has already, `more` MiB are left to take.
LITTLE_MEMORY = (
    "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + ({more} << 20);"
    " resource.setrlimit(resource.RLIMIT_AS, (size, size))"
)


def command(protocol: str, server: Scripted, first: str = "pass") -> list[str]:
    code = TAKE_AWAY.format(protocol=protocol, first=first)
    return [sys.executable, "-c", code, "-H", "127.0.0.1", "-p", str(server.port)]


def script_of(protocol: str, name: str) -> Script:
    return Script.read(CONVERSATIONS / protocol / f"{name}.txt")


# Nobody reads.


def to_a_full_disk() -> IO[bytes]:
    return open("/dev/full", "wb")


def to_a_closed_pipe() -> IO[bytes]:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "wb")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("output", [to_a_full_disk, to_a_closed_pipe])
@pytest.mark.parametrize(("names", "code"), [(WORKS, 0), (REFUSES, 2)], ids=["works", "refuses"])
def test_an_output_that_takes_nothing_does_not_change_the_exit_code(
    protocol: str,
    output: Callable[[], IO[bytes]],
    names: dict[str, str],
    code: int,
    files: Files,
    localhost_tls: tuple[object, Path],
) -> None:
    script = script_of(protocol, names[protocol])
    for verbose in ("-vv", "--json"):
        with serve(script, None) as server, output() as stream:
            words = [*command(protocol, server), verbose, *files.arguments(script)]
            done = subprocess.run(words, stdout=stream, stderr=subprocess.PIPE, check=False)
        assert (done.returncode, done.stderr) == (code, b"")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("names", "code"), [(WORKS, 0), (REFUSES, 2)], ids=["works", "refuses"])
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_do_not_change_the_exit_code(
    protocol: str, names: dict[str, str], code: int, closed: str, files: Files
) -> None:
    script = script_of(protocol, names[protocol])
    with serve(script, None) as server:
        words = shlex.join([*command(protocol, server), *files.arguments(script)])
        done = subprocess.run(["bash", "-c", f"{words} {closed}"], capture_output=True, check=False)
        server.finish()
        assert server.errors == []
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_where_neither_output_nor_descriptors_are_left_the_exit_code_is_unknown() -> None:
    with Scripted("S: 220 ready\n== any") as server, to_a_full_disk() as stream:
        words = command("smtp", server, NO_DESCRIPTORS)
        done = subprocess.run(words, stdout=stream, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (3, b"")


# Nowhere to write.


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_neither_home_nor_temporary_directory_nor_environment_is_needed(
    protocol: str, files: Files, tmp_path: Path
) -> None:
    script = script_of(protocol, WORKS[protocol])
    nowhere = {name: str(tmp_path / "nowhere") for name in ("HOME", "TMPDIR", "TMP", "TEMP", "XDG_CACHE_HOME")}
    with serve(script, None) as server:
        words = [*command(protocol, server), *files.arguments(script)]
        done = subprocess.run(words, env=nowhere, cwd="/", capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b""), done.stdout
    assert not (tmp_path / "nowhere").exists()


# Nothing left.


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_descriptors_a_check_is_unknown_in_one_line(protocol: str, files: Files) -> None:
    script = script_of(protocol, WORKS[protocol])
    words = [word for word in files.arguments(script) if "{" not in word]
    without_login = words[words.index("--timeout") :]
    with Scripted(MUTE) as server:
        outcome = run([*command(protocol, server, NO_DESCRIPTORS), *without_login])
    assert (outcome.code, outcome.errors) == (3, "")
    trouble = "trouble on this host, not the server's: OSError: [Errno 24] Too many open files"
    assert outcome.output.startswith(f"{protocol.upper()} UNKNOWN - {trouble}")
    assert outcome.output.count("\n") == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("more", [0, 1, 2, 4, 8, 32])
def test_with_little_memory_left_a_check_ends_in_one_line(
    protocol: str, more: int, files: Files, localhost_tls: tuple[object, Path]
) -> None:
    name = {"imap": "ok-starttls-everything", "pop3": "ok-starttls-mailbox", "sieve": "ok-starttls-everything"}
    script = script_of(protocol, name.get(protocol, "ok-starttls-login-and-message"))
    with serve(script, localhost_tls[0]) as server:
        words = command(protocol, server, LITTLE_MEMORY.format(more=more))
        words[words.index("127.0.0.1")] = "localhost"
        outcome = run([*words, "-4", *files.arguments(script)])
    assert outcome.errors == ""
    assert outcome.state in ("ok", "critical", "unknown")
    named = outcome.output.startswith(f"{protocol.upper()} {outcome.state.upper()} - ")
    assert named or outcome.output == "UNKNOWN - this host has no memory left\n"
    assert outcome.output.count("\n") == 1
    if outcome.state == "critical":  # what this host lacks is no word of the server's
        assert "resolver" in outcome.output or "TLS" in outcome.output, outcome.output


# Stopped.


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("options", [(), ("-vv",), ("--json",)], ids=" ".join)
def test_who_is_stopped_says_so_in_one_line(protocol: str, number: signal.Signals, options: tuple[str, ...]) -> None:
    with Scripted(MUTE) as server:
        words = [*command(protocol, server), "--timeout", "30", *options]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while server.connections == 0 and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(number)
            output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (3, "")
    assert output == f"{protocol.upper()} UNKNOWN - the check was stopped by {number.name}\n"


def test_who_is_stopped_while_a_password_is_asked_for_says_so(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    helper = tmp_path / "helper"
    helper.write_text(f"#!/bin/sh\ntouch {asked}\nexec sleep 30\n")
    helper.chmod(0o755)
    words = [sys.executable, "-m", "nagios_checks.imap", "-H", "127.0.0.1", "--username", "u"]
    words += ["--password-command", str(helper), "--allow-plaintext-login", "--timeout", "30"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not asked.exists() and process.poll() is None:
            time.sleep(0.01)
        process.terminate()
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (3, "")
    assert output == "IMAP UNKNOWN - the check was stopped by SIGTERM\n"


DIALECTS: dict[str, tuple[type[Conversation], type[PromiseOptions], object]] = {
    "imap": (Imap, imap.ImapOptions, imap.ImapFacts()),
    "pop3": (Pop3, pop3.Pop3Options, pop3.Pop3Facts()),
    "sieve": (Sieve, sieve.SieveOptions, sieve.SieveFacts()),
    "smtp": (Smtp, smtp.SmtpOptions, smtp.SmtpFacts()),
}


def begin_and_be_stopped(conversation: Conversation) -> None:
    with conversation:
        conversation.begin()
        raise KeyboardInterrupt


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_is_stopped_when_it_is_his_turn_takes_leave(protocol: str) -> None:
    dialect, options_class, facts = DIALECTS[protocol]
    names = {"imap": "ok-greeting-preauth", "pop3": "ok-without-capa", "sieve": "ok-scripts", "smtp": "ok-message-sent"}
    with serve(script_of(protocol, names[protocol]), None) as server:
        options = options_class(host="127.0.0.1", port=server.port)
        report = new_report(options, facts)
        with pytest.raises(KeyboardInterrupt):
            begin_and_be_stopped(dialect(report, options, Deadline(10), None))
        server.finish()
        assert server.heard[0][-1].split()[-1] in ("QUIT", "LOGOUT")
