"""What the tests that play scripts have in common: the files that a script's options may name, and the server."""

from __future__ import annotations

import ssl
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from .canary import CANARY, LONG_TOKEN, TOKEN, leaks
from .running import Outcome
from .scripted import Script, Scripted

DEFAULT_TIMEOUT = 5.0
# What a process may take beyond what it says itself, with all processors busy: the start of a Python and its end.
BUSY_SECONDS = 4.0
SIEVE_SCRIPT = 'require "fileinto";\r\nfileinto "INBOX.mailprobe";\r\n'


@dataclass(frozen=True)
class Files:
    """What the options of a script may name: `{ca_file}` and so on."""

    ca_file: Path
    password_file: Path
    token_file: Path
    long_token_file: Path
    sieve_file: Path

    @classmethod
    def write(cls, directory: Path, ca_file: Path) -> Files:
        """Write those that are not there yet into a directory."""
        texts = {"password": f"{CANARY}\n", "token": TOKEN, "long-token": LONG_TOKEN, "script.sieve": SIEVE_SCRIPT}
        for name, text in texts.items():
            (directory / name).write_bytes(text.encode())
        return cls(ca_file, *(directory / name for name in texts))

    def arguments(self, script: Script) -> list[str]:
        given = script.options(**{name: str(path) for name, path in vars(self).items()})
        return given if "--timeout" in given else [*given, "--timeout", str(DEFAULT_TIMEOUT)]


def serve(script: Script, tls: ssl.SSLContext) -> Scripted:
    """The server of a script, which may name the passwords."""
    return Scripted(script, tls=tls, words={"password": CANARY, "token": TOKEN, "long_token": LONG_TOKEN})


def bounded_clean_and_secret(outcome: Outcome, given: list[str]) -> None:
    """What holds for every run whatever the server does (security.md P1, P2, P7, P8)."""
    timeout = float(given[given.index("--timeout") + 1])
    took = float(outcome.perfdata()["time"].partition("s")[0])
    assert took < timeout + 1, "longer than the time limit and a second"
    assert outcome.seconds < timeout + 1 + BUSY_SECONDS, "longer than that, and it does not tell"
    assert outcome.peak_mib < 96
    assert outcome.errors == ""
    assert len(outcome.output) < 20_000
    assert not list(leaks(outcome.output))
    for character in outcome.output.replace("\n", ""):
        assert unicodedata.category(character) not in {"Cc", "Cf", "Zl", "Zp", "Cs"}, repr(character)
