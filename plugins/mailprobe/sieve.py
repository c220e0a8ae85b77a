"""ManageSieve (RFC 5804): the conversation up to the scripts of a user. Nothing is ever stored or activated."""

from __future__ import annotations

import os
import re
import stat
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Union

from .codes import Code, Severity, Stage
from .conversation import MAX_REPLY_LINES, Conversation, Turn
from .families import PromiseOptions
from .login import log_in
from .options import UsageError, option, shown
from .report import Facts, Report, Unfinished
from .run import hold
from .stream import MAX_LITERAL, MAX_LITERALS
from .text import BLOT, printable

# RFC 5804 4: octets of a quoted text.
MAX_QUOTED = 1024
# RFC 5804 does not limit scripts; servers do, at 1 MiB (Dovecot) or less.
MAX_SCRIPT = 1024 * 1024


@dataclass(frozen=True)
class SieveOptions(PromiseOptions):
    """What can be asked of a ManageSieve server."""

    PROTOCOL: ClassVar[str] = "sieve"
    # RFC 5804 1.8; for implicit TLS there is none, so that whoever has it has it here.
    PORTS: ClassVar[Mapping[str, int]] = {"none": 4190, "starttls": 4190, "implicit": 4190}

    require_active: bool = option("A script must be active.", default=False)
    have_space: int | None = option(
        "Ask whether a script of so many octets may be stored (HAVESPACE).", default=None, minimum=1, metavar="OCTETS"
    )
    check_script: str | None = option(
        "File with a Sieve script that the server shall check (CHECKSCRIPT); it is not stored.",
        default=None,
        path=True,
        metavar="FILE",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.username is None:
            for name in ("require_active", "have_space", "check_script"):
                if getattr(self, name):
                    raise UsageError(name, "needs a login: give {username}")

    def prepare(self) -> None:
        """Also: read the script to check."""
        super().prepare()
        dummy = self.script  # read once, and kept

    @cached_property
    def script(self) -> bytes | None:
        """The script to check. Raises `UsageError` when it cannot be read."""
        if self.check_script is None:
            return None
        try:
            if not stat.S_ISREG(os.stat(self.check_script).st_mode):
                raise UsageError("check_script", f"{shown(self.check_script)} is not a file")
            with open(self.check_script, "rb") as stream:
                script = stream.read(MAX_SCRIPT + 1)
        except OSError as error:
            words = f"{shown(self.check_script)} cannot be read: {error.strerror}"
            raise UsageError("check_script", words) from None
        if len(script) > MAX_SCRIPT:
            raise UsageError("check_script", f"has more than {MAX_SCRIPT} octets")
        return script


@dataclass
class SieveFacts(Facts):
    """What the server told. `script_count` is None when the scripts were not listed."""

    implementation: str | None = None
    sieve_extensions: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    script_count: int | None = None
    active_script: str | None = None
    have_space: bool | None = None
    script_valid: bool | None = None


def probe(options: SieveOptions) -> Report[SieveFacts]:
    """Talk to a ManageSieve server and report what it said. Raises `UsageError` before anything is connected."""
    return hold(Sieve, options, SieveFacts(), _talk)


def _talk(sieve: Sieve, options: SieveOptions, facts: SieveFacts) -> None:
    sieve.begin()
    if options.username is None or sieve.inspecting or not log_in(sieve, facts):
        return
    with sieve.stage(Stage.SCRIPT):
        _list_scripts(sieve, options, facts)
        if options.have_space is not None:
            facts.have_space = sieve.judge(sieve.ask(f'HAVESPACE "mailprobe" {options.have_space}'))
        if options.script is not None:
            reply = sieve.check_script(options.script, options.check_script or "")
            facts.script_valid = sieve.judge(reply)
            if facts.script_valid and reply.response_code == "WARNINGS":
                sieve.remark(f"CHECKSCRIPT warns: {sieve.quoted(reply.text)}")


def _list_scripts(sieve: Sieve, options: SieveOptions, facts: SieveFacts) -> None:
    reply = sieve.ask("LISTSCRIPTS")
    if not sieve.judge(reply):
        return
    facts.scripts = [str(line[0]) for line in reply.lines]
    facts.script_count = len(facts.scripts)
    facts.active_script = next((str(line[0]) for line in reply.lines if is_active(line)), None)
    if options.require_active and facts.active_script is None:
        sieve.problem(Code.NO_ACTIVE_SCRIPT, f"none of {facts.script_count} scripts is active")


# The dialect.

# What NO and BYE are called at each stage.
REFUSALS = {
    Stage.GREETING: Code.GREETING_REFUSED,
    Stage.TLS: Code.STARTTLS_REFUSED,
    Stage.AUTH: Code.AUTH_REJECTED,
    Stage.SCRIPT: Code.SCRIPT_REFUSED,
}
# The response codes of RFC 5804 1.3 that tell more. A referral is never followed: a password would go elsewhere.
RESPONSE_CODES = {
    "AUTH-TOO-WEAK": (Code.MECHANISM_NOT_OFFERED, Severity.FAILURE),
    "ENCRYPT-NEEDED": (Code.AUTH_NOT_OFFERED, Severity.FAILURE),
    "TRANSITION-NEEDED": (Code.AUTH_FAILED, Severity.FAILURE),
    "REFERRAL": (Code.REFERRAL, Severity.FAILURE),
    "TRYLATER": (Code.SYSTEM_TEMPORARY, Severity.TEMPORARY),
    "QUOTA": (Code.QUOTA_EXCEEDED, Severity.FAILURE),
}


class Word(str):
    """A token that was not quoted: a status, ACTIVE, a number."""

    __slots__ = ()


Token = Union[Word, str]


@dataclass(frozen=True)
class Reply:
    """The lines of data of a reply, its status (`OK`, `NO`, `BYE`), the response code, and the words for people."""

    lines: tuple[tuple[Token, ...], ...]
    status: str
    response_code: str | None = None
    argument: str = ""
    text: str = ""

    def __str__(self) -> str:
        code = f"({self.response_code}) " if self.response_code else ""
        return f"{self.status} {code}{self.text}".rstrip()


class Sieve(Conversation):
    """The dialect: lines of quoted texts, literals and words, ended by OK, NO or BYE (RFC 5804 1.2, 4)."""

    harmless_command = "CAPABILITY"

    def arrive(self) -> None:
        """The greeting tells the capabilities (RFC 5804 1.7): they are not asked for again."""
        self.connect()
        with self.stage(Stage.GREETING):
            self.greet()

    def greet(self) -> None:
        """The capabilities, unasked."""
        self.ask_capabilities()
        self.report.facts.banner = self.report.facts.implementation or ""
        self.expect_text(self.report.facts.banner)

    def ask_capabilities(self) -> None:
        """Hear them: they come unasked as the greeting, and behind TLS (RFC 5804 2.2)."""
        facts = self.report.facts
        if self.encrypted and self.options.tls == "starttls":
            self.awaited = "the capabilities that follow TLS"
        reply = self.reply()
        if reply.status != "OK":
            raise self.refusal(reply)
        facts.capabilities = [" ".join(map(str, line)) for line in reply.lines]
        # A word without quotes is no value: some say NIL for an empty list.
        values = {
            str(line[0]).upper(): str(line[1]) if len(line) > 1 and not isinstance(line[1], Word) else ""
            for line in reply.lines
        }
        if "IMPLEMENTATION" not in values:  # RFC 5804 1.7: it must be there
            raise self.malformed(str(reply))
        facts.implementation = values["IMPLEMENTATION"]
        facts.auth_mechanisms = values.get("SASL", "").upper().split()
        facts.sieve_extensions = values.get("SIEVE", "").split()

    def ask_starttls(self, behind: str = "") -> None:
        """STARTTLS (RFC 5804 2.2)."""
        if not any(line.upper() == "STARTTLS" for line in self.report.facts.capabilities):
            raise Unfinished(Code.STARTTLS_NOT_OFFERED, "the server does not offer STARTTLS")
        self.say("STARTTLS", behind=behind)
        reply = self.reply()
        if reply.status != "OK":
            raise self.refusal(reply)

    def ask(self, line: str, about: str | None = None) -> Reply:
        """Say a command and hear the reply; `about` are the words of a finding about it."""
        self.say(line, about=about)
        return self.reply()

    def check_script(self, script: bytes, name: str) -> Reply:
        """CHECKSCRIPT (RFC 5804 2.12) with a non-synchronizing literal, in one piece."""
        self.awaited = f"the reply to CHECKSCRIPT of {printable(name, limit=60)}"
        line = f"CHECKSCRIPT {{{len(script)}+}}"
        self.send(line.encode() + b"\r\n" + script + b"\r\n", [line, f"({len(script)} octets of {name})"])
        return self.reply()

    def judge(self, reply: Reply) -> bool:
        """Note a refusal and go on; BYE ends the conversation, and so do data that nobody asked for."""
        if reply.lines and not self.awaited.endswith("LISTSCRIPTS"):
            raise self.unexpected(" ".join(map(" ".join, reply.lines)))
        if reply.status == "OK":
            return True
        refusal = self.refusal(reply)
        if reply.status == "BYE":
            raise refusal
        self.problem(refusal.code, refusal.words, refusal.severity)
        return False

    def reply(self) -> Reply:
        """Everything up to the status of the last command. Raises `Unfinished` for what is none."""
        lines: list[tuple[Token, ...]] = []
        while len(lines) < MAX_REPLY_LINES:
            tokens = self._tokens()
            if isinstance(tokens[0], Word):
                return self._status(lines, tokens)
            lines.append(tokens)
        raise self.endless(len(lines))

    def _status(self, lines: list[tuple[Token, ...]], tokens: tuple[Token, ...]) -> Reply:
        status, *rest = tokens
        code, argument = None, ""
        if status.upper() not in ("OK", "NO", "BYE"):
            raise self.malformed(" ".join(tokens))
        if rest and isinstance(rest[0], Word) and rest[0].startswith("("):
            inner = parse_tokens([rest.pop(0)[1:-1]])
            code, argument = (str(inner[0]).upper(), " ".join(inner[1:])) if inner else (None, "")
        self.our_turn = status.upper() != "BYE"
        words = " ".join(rest).strip().replace("\r\n", " ").replace("\n", " ")
        return Reply(tuple(lines), status.upper(), code, argument, words)

    def _tokens(self) -> tuple[Token, ...]:
        """One line with its literals."""
        pieces: list[str] = []
        line = self.hear()
        while announced := re.search(r"\{([0-9]+)\+?\}$", line):
            if len(pieces) > MAX_LITERALS:
                raise self.endless(len(pieces))
            if len(announced[1]) > 9 or int(announced[1]) > MAX_LITERAL:
                raise Unfinished(Code.REPLY_TOO_LONG, f"a literal of {announced[1][:20]} octets in {self.awaited}")
            octets = self.hear_octets(int(announced[1]))
            pieces += [line[: announced.start()], '"' + octets.replace("\\", "\\\\").replace('"', '\\"') + '"']
            line = self.hear()
        try:
            tokens = parse_tokens([*pieces, line])
        except ValueError:
            tokens = ()
        if not tokens:
            raise self.malformed(line)
        return tokens

    def refusal(self, reply: Reply) -> Unfinished:
        """The finding for a reply that is not OK."""
        if reply.status == "OK":
            return self.unexpected(str(reply))
        usual = self.usual_refusal(REFUSALS, reply.text)
        if usual is Code.AUTH_REJECTED and reply.response_code is not None:
            usual = Code.AUTH_FAILED  # there is none for a wrong password
        if reply.status == "BYE" and self._stage is not Stage.GREETING:
            usual = Code.CONNECTION_CLOSED  # which judges nothing that was asked
        code, severity = RESPONSE_CODES.get((reply.response_code or "").partition("/")[0], (usual, Severity.FAILURE))
        return self.refused(str(reply), code, severity, limits=reply.response_code is None)

    def begin_login(self, mechanism: str, initial: bytes | None) -> Turn:
        """AUTHENTICATE (RFC 5804 2.1)."""
        line = f'AUTHENTICATE "{mechanism}"'
        if initial is None:
            self.say(line)
        else:
            self._say_encoded(f"{line} ", initial, f"{line} ***")
        return self._turn()

    def continue_login(self, response: bytes) -> Turn:
        """A quoted text of base64."""
        self._say_encoded("", response, BLOT)
        return self._turn()

    def _say_encoded(self, line: str, data: bytes, shown: str) -> None:
        """A text of base64: quoted, or a non-synchronizing literal when it is too long for that (RFC 5804 4)."""
        encoded = b64encode(data).decode()
        if len(encoded) <= MAX_QUOTED:
            self.say(f'{line}"{encoded}"', shown)
        else:
            self.awaited = f"the reply to {shown}"
            self.send(f"{line}{{{len(encoded)}+}}\r\n{encoded}\r\n".encode(), [shown])

    def cancel_login(self) -> None:
        """An asterisk (RFC 5804 2.1)."""
        self.say('"*"')
        self.reply()

    def _turn(self) -> Turn:
        tokens = self._tokens()
        if not isinstance(tokens[0], Word):
            self.our_turn = True
            return Turn(done=False, challenge=str(tokens[0]))
        reply = self._status([], tokens)
        if reply.status != "OK":
            raise self.refusal(reply)
        # RFC 5804 2.1: what SCRAM's server has to say last may come with the OK.
        return Turn(done=True, challenge=reply.argument if reply.response_code == "SASL" else "")

    def farewell(self) -> None:
        """LOGOUT (RFC 5804 2.3); some servers say BYE."""
        self.say("LOGOUT")
        reply = self.reply()
        if reply.status == "NO" or reply.lines:
            # It may belong to an earlier command, since ManageSieve has no tags.
            raise self.unexpected(str(reply), Severity.FLAW)


# Pure helpers.


def is_active(line: tuple[Token, ...]) -> bool:
    """Whether a line of LISTSCRIPTS has the mark (RFC 5804 2.7); a script may be named like it."""
    return len(line) > 1 and isinstance(line[-1], Word) and line[-1].upper() == "ACTIVE"


_TOKEN = re.compile(
    r' *(?:"(?P<string>(?:[^"\\]|\\.)*)"|(?P<group>\((?:"(?:[^"\\]|\\.)*"|[^()"])*\))|(?P<word>[^() "]+))'
)


def parse_tokens(pieces: list[str]) -> tuple[Token, ...]:
    """The tokens of a line: quoted texts as str, everything else, a parenthesis with all in it too, as `Word`.

    Raises ValueError for what is neither.
    """
    line = "".join(pieces).rstrip(" ")
    tokens: list[Token] = []
    position = 0
    while position < len(line):
        found = _TOKEN.match(line, position)
        if found is None:
            raise ValueError("a quoted text or a parenthesis does not end")
        position = found.end()
        if found["string"] is not None:
            tokens.append(re.sub(r"\\(.)", r"\1", found["string"]))
        else:
            tokens.append(Word(found["group"] or found["word"]))
    return tuple(tokens)
