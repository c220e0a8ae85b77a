"""What `mailprobe demo` shows: the real checks, run as commands against the demo's mail host."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass

from ..arguments import EXIT_UNKNOWN
from .host import USER, DemoError, DemoHost

STATES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
# The name, not the file: a password's place is not on a command line.
PASSWORD_VARIABLE = "DEMO_PASSWORD"  # noqa: S105


@dataclass(frozen=True)
class Scene:
    """One check: what it shows, its arguments (`{service}` is that service's port), and the state it must end in."""

    title: str
    arguments: str
    state: str
    says: str
    """A part of the status line that must be there, so that the right answer for a wrong reason is noticed."""


SENDER = "--mail-from probe@example.org"
TLS = "--tls starttls --ca-file {ca_file}"
LOGIN = f"--username {USER} --password-env {PASSWORD_VARIABLE}"

SCENES = (
    Scene("A mail server that works", "-p {smtp}", "OK", "demo.example ESMTP"),
    Scene(
        "It takes mail for the postmaster over TLS, and its certificate is good for a while",
        f"-p {{smtp}} {TLS} {SENDER} --rcpt-to postmaster@demo.example -D 30,10 -c time=5",
        "OK",
        "1 recipient accepted",
    ),
    Scene(
        "Log in at the submission port and send a message for real",
        f"-p {{submission}} {TLS} {LOGIN} {SENDER} --rcpt-to postmaster@demo.example --send",
        "OK",
        "message accepted as",
    ),
    Scene(
        "Submission with TLS from the first byte",
        f"-p {{submissions}} --tls implicit --ca-file {{ca_file}} {LOGIN}",
        "OK",
        "logged in with",
    ),
    Scene("No such user", f"-p {{smtp}} {SENDER} --rcpt-to nobody@demo.example -v", "CRITICAL", "550 5.1.1"),
    Scene("An expired certificate", f"-p {{expired}} {TLS} -v", "CRITICAL", "certificate has expired"),
    Scene("A certificate of somebody we do not know", "-p {smtp} --tls starttls -v", "CRITICAL", "certificate"),
    Scene("STARTTLS is gone", f"-p {{no_starttls}} {TLS} -v", "CRITICAL", "does not offer STARTTLS"),
    Scene("A server that has no time", "-p {busy} -v", "WARNING", "421 4.3.2"),
    Scene("A server that says nothing", "-p {silent} -t 1 -v", "CRITICAL", "no answer in 1 s"),
    Scene("Nobody there", "-p {closed} -v", "CRITICAL", "connection refused"),
    Scene("An option with a mistake in it", "-p {smtp} --rcpt-to 'no address'", "UNKNOWN", "--rcpt-to"),
    Scene("And the conversation itself, as with telnet and openssl", f"-p {{smtp}} {TLS} -vv", "OK", "TLSv1"),
)


def show() -> int:
    """Run all scenes; 0 when every check said what it should, 1 when one did not, 3 when the host cannot start."""
    try:
        with DemoHost() as host:
            wrong = [scene.title for scene in SCENES if not _play(scene, host)]
    except DemoError as error:
        sys.stdout.write(f"mailprobe: {error}\n")
        return EXIT_UNKNOWN
    if wrong:
        sys.stdout.write(f"{len(wrong)} of {len(SCENES)} checks did not say what they should: {'; '.join(wrong)}\n")
        return 1
    sys.stdout.write(f"All {len(SCENES)} checks said what they should.\n")
    return 0


def _play(scene: Scene, host: DemoHost) -> bool:
    arguments = scene.arguments.format(ca_file=host.ca_file, **host.ports)
    command = f"check_mail_smtp -H localhost {arguments}"
    # As a user would run it, but found wherever this very installation lives.
    done = subprocess.run(
        [sys.executable, "-m", "nagios_checks.smtp", *shlex.split(command)[1:]],
        env={**os.environ, PASSWORD_VARIABLE: host.password},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    sys.stdout.write(f"--- {scene.title}\n$ {command}\n{textwrap.indent(done.stdout + done.stderr, '  ')}")
    sys.stdout.write(
        f"  exit code {done.returncode} ({STATES[done.returncode] if done.returncode in range(4) else '?'})\n\n"
    )
    sys.stdout.flush()
    first_line = done.stdout.partition("\n")[0]
    return (
        first_line.startswith(f"SMTP {scene.state} - ")
        and scene.says in first_line
        and (done.returncode == STATES.index(scene.state))
    )
