"""What `mailprobe demo` shows: the real checks, run as commands against the demo's mail host."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass

from ..arguments import EXIT_UNKNOWN
from . import USER
from .host import DemoError, DemoHost

STATES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
# The environment variable with the password, whose place is not on a command line.
VARIABLE = "DEMO_PASSWORD"


@dataclass(frozen=True)
class Scene:
    """One check: what it shows, its arguments (`{service}` is that service's port), and the state it must end in."""

    title: str
    protocol: str
    arguments: str
    state: str
    says: str
    """A part of the status line that must be there, so that the right answer for a wrong reason is noticed."""


SENDER = "--mail-from probe@example.org"
TLS = "--tls starttls --ca-file {ca_file}"
IMPLICIT = "--tls implicit --ca-file {ca_file}"
LOGIN = f"--username {USER} --password-env {VARIABLE}"

SCENES = (
    Scene("A mail server that works", "smtp", "-p {smtp}", "OK", "demo.example ESMTP"),
    Scene(
        "It takes mail for the postmaster over TLS, and its certificate is good for a while",
        "smtp",
        f"-p {{smtp}} {TLS} {SENDER} --rcpt-to postmaster@demo.example -D 30,10 -c time=5",
        "OK",
        "1 recipient accepted",
    ),
    Scene(
        "Log in at the submission port and send a message for real",
        "smtp",
        f"-p {{submission}} {TLS} {LOGIN} {SENDER} --rcpt-to postmaster@demo.example --send",
        "OK",
        "message accepted as",
    ),
    Scene(
        "Submission with TLS from the first byte",
        "smtp",
        f"-p {{submissions}} {IMPLICIT} {LOGIN}",
        "OK",
        "logged in with",
    ),
    Scene("No such user", "smtp", f"-p {{smtp}} {SENDER} --rcpt-to nobody@demo.example -v", "CRITICAL", "550 5.1.1"),
    Scene("An expired certificate", "smtp", f"-p {{expired}} {TLS} -v", "CRITICAL", "certificate has expired"),
    Scene("A certificate of somebody we do not know", "smtp", "-p {smtp} --tls starttls -v", "CRITICAL", "certificate"),
    Scene("STARTTLS is gone", "smtp", f"-p {{no_starttls}} {TLS} -v", "CRITICAL", "does not offer STARTTLS"),
    Scene("A server that has no time", "smtp", "-p {busy} -v", "WARNING", "421 4.3.2"),
    Scene("A server that says nothing", "smtp", "-p {silent} -t 1 -v", "CRITICAL", "no answer in 1 s"),
    Scene("Nobody there", "smtp", "-p {closed} -v", "CRITICAL", "connection refused"),
    Scene("An option with a mistake in it", "smtp", "-p {smtp} --rcpt-to 'no address'", "UNKNOWN", "--rcpt-to"),
    Scene("A POP3 mailbox: log in and look into it", "pop3", f"-p {{pop3}} {TLS} {LOGIN}", "OK", "4 messages"),
    Scene("Somebody has locked it", "pop3", f"-p {{pop3_locked}} {TLS} {LOGIN} -v", "WARNING", "[mailbox-in-use]"),
    Scene(
        "IMAP: two folders, and what nobody has seen yet",
        "imap",
        f"-p {{imaps}} {IMPLICIT} {LOGIN} --folder INBOX --folder Archive",
        "OK",
        "INBOX: 4 messages, 1 unseen",
    ),
    Scene(
        "Mail that lies about for longer than a week",
        "imap",
        f"-p {{imap}} {TLS} {LOGIN} -w oldest_age=604800",
        "WARNING",
        "oldest_age is",
    ),
    Scene(
        "A leaked password must not work any more, and does",
        "imap",
        f"-p {{imaps}} {IMPLICIT} {LOGIN} --expect-login-refused",
        "CRITICAL",
        "[login-not-refused]",
    ),
    Scene(
        "A promise that is kept: nobody logs in without TLS",
        "smtp",
        f"-p {{submission}} {TLS} --refuse-plaintext-login",
        "OK",
        "demo.example ESMTP",
    ),
    Scene(
        "A promise that is broken: what comes in clear behind STARTTLS is answered inside TLS",
        "smtp",
        f"-p {{smtp}} {TLS} --refuse-starttls-injection -v",
        "CRITICAL",
        "[injection-not-refused]",
    ),
    Scene("An IMAP server that turns us away", "imap", "-p {imap_bye} -v", "CRITICAL", "BYE Too busy"),
    Scene("Asked for IMAP, got POP3", "imap", "-p {pop3} -v", "CRITICAL", "looks like POP3"),
    Scene("And the conversation itself, as with telnet and openssl", "smtp", f"-p {{smtp}} {TLS} -vv", "OK", "TLSv1"),
)


def show() -> int:
    """Run all scenes; 0 when every check said what it should, 1 when one did not, 3 when the host cannot start."""
    try:
        with DemoHost() as host:
            wrong = [scene.title for scene in SCENES if not _play(scene, host)]
    except DemoError as error:
        sys.stderr.write(f"mailprobe demo: {error}\n")
        return EXIT_UNKNOWN
    if wrong:
        sys.stdout.write(f"{len(wrong)} of {len(SCENES)} checks did not say what they should: {'; '.join(wrong)}\n")
        return 1
    sys.stdout.write(f"All {len(SCENES)} checks said what they should.\n")
    return 0


def _play(scene: Scene, host: DemoHost) -> bool:
    arguments = scene.arguments.format(ca_file=host.ca_file, **host.ports)
    command = f"check_mail_{scene.protocol} -H localhost {arguments}"
    # As a user would run it, but found wherever this very installation lives.
    done = subprocess.run(
        [sys.executable, "-m", f"nagios_checks.{scene.protocol}", *shlex.split(command)[1:]],
        env={**os.environ, VARIABLE: host.password},
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
        first_line.startswith(f"{scene.protocol.upper()} {scene.state} - ")
        and scene.says in first_line
        and (done.returncode == STATES.index(scene.state))
    )
