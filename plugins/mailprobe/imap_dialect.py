"""The dialect of IMAP: tags, untagged responses, literals, and how its texts are read and written (RFC 9051)."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Union

from .codes import Code, Severity, Stage
from .conversation import Conversation, Turn
from .report import Unfinished
from .stream import MAX_LITERAL, MAX_LITERALS

if TYPE_CHECKING:
    from .imap import ImapOptions

# Untagged responses to one command: FETCH gives one for each message, see imap.MAX_FETCHED.
MAX_RESPONSES = 10_000
# Alerts and their kin that go into a report.
MAX_TOLD = 10
# Parentheses within parentheses: BODYSTRUCTURE, which we never ask for, needs most.
MAX_DEPTH = 20

# What a response code means (RFC 5530 3, RFC 9051 7.1); what is not here is judged by the stage.
RESPONSE_CODES = {
    "AUTHENTICATIONFAILED": (Code.AUTH_REJECTED, Severity.FAILURE),
    "AUTHORIZATIONFAILED": (Code.AUTH_REJECTED, Severity.FAILURE),
    "EXPIRED": (Code.ACCOUNT_EXPIRED, Severity.FAILURE),
    "REFERRAL": (Code.REFERRAL, Severity.FAILURE),
    "PRIVACYREQUIRED": (Code.AUTH_NOT_OFFERED, Severity.FAILURE),
    "UNAVAILABLE": (Code.SYSTEM_TEMPORARY, Severity.TEMPORARY),
    "INUSE": (Code.MAILBOX_IN_USE, Severity.TEMPORARY),
    "LIMIT": (Code.RATE_LIMITED, Severity.TEMPORARY),
    "OVERQUOTA": (Code.QUOTA_EXCEEDED, Severity.FAILURE),
    "SERVERBUG": (Code.SYSTEM_PERMANENT, Severity.FAILURE),
    "CORRUPTION": (Code.SYSTEM_PERMANENT, Severity.FAILURE),
}
# What NO and BAD are called at each stage.
REFUSALS = {
    Stage.GREETING: Code.GREETING_REFUSED,
    Stage.TLS: Code.STARTTLS_REFUSED,
    Stage.AUTH: Code.AUTH_REJECTED,
    Stage.MAILBOX: Code.MAILBOX_UNAVAILABLE,
    Stage.SEARCH: Code.SEARCH_REFUSED,
    Stage.QUOTA: Code.QUOTA_UNAVAILABLE,
}


class Literal(str):
    """A text that goes, or came, as a literal: counted octets instead of quotes."""

    __slots__ = ()


class Atom(str):
    """A token that was not quoted, which is what a keyword or a number is."""

    __slots__ = ()


Token = Union[Atom, str, None, list["Token"]]


@dataclass(frozen=True)
class Response:
    """One response: its tag (`*`, `+` or ours), its status or first words in upper case, and the rest.

    For a status response `response_code` is the atom in brackets, `arguments` what follows it there, and `text` the
    words for people; for all others `tokens` are what was said.
    """

    tag: str
    kind: str
    text: str = ""
    response_code: str | None = None
    arguments: str = ""
    tokens: tuple[Token, ...] = ()

    def __str__(self) -> str:
        code = f"[{self.response_code}{' ' if self.arguments else ''}{self.arguments}] " if self.response_code else ""
        return f"{self.kind} {code}{self.text}".rstrip()


@dataclass(frozen=True)
class Reply:
    """All that a command brought: the tagged status, and the untagged responses before it."""

    status: Response
    untagged: tuple[Response, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether the command was completed."""
        return self.status.kind == "OK"

    def all(self, kind: str) -> Iterator[tuple[Token, ...]]:
        """The tokens of all untagged responses of one kind."""
        return (response.tokens for response in self.untagged if response.kind == kind)


class Imap(Conversation):
    """The dialect: every command has a tag, and its reply ends with the line that begins with it."""

    options: ImapOptions
    harmless_command = "mailprobe NOOP"
    login_changes_capabilities = True
    authenticated = False
    """Whether the server greeted with PREAUTH."""
    _tag = 0

    @cached_property
    def _told(self) -> set[str]:
        return set()

    @property
    def capabilities(self) -> list[str]:
        """What the server offers, in upper case; from CAPABILITY or any response that mentions it."""
        return [name.upper() for name in self.report.facts.capabilities]

    @property
    def has_login(self) -> bool:
        """Whether the command LOGIN may be used (RFC 9051 6.2.3)."""
        return "LOGINDISABLED" not in self.capabilities and "AUTH=LOGIN" not in self.capabilities

    def greet(self) -> None:
        """An untagged OK, PREAUTH or BYE (RFC 9051 7.1)."""
        response = self._response()
        if response.tag != "*" or response.kind not in ("OK", "PREAUTH", "BYE"):
            raise self.wrong_protocol(str(response))
        self.our_turn = response.kind != "BYE"
        self.report.facts.banner = response.text
        if response.kind == "BYE":
            raise self.refusal(response)
        self.authenticated = response.kind == "PREAUTH"
        self.expect_text(response.text)

    def ask_capabilities(self) -> None:
        """CAPABILITY (RFC 9051 6.1.1)."""
        facts = self.report.facts
        facts.capabilities = []
        self.require("CAPABILITY")
        if not facts.capabilities:
            raise self.malformed("CAPABILITY was completed, but told nothing")
        if facts.login is not None:
            return  # what is offered now is not what the login was chosen from
        mechanisms = [name.removeprefix("AUTH=") for name in self.capabilities if name.startswith("AUTH=")]
        if self.has_login and "LOGIN" not in mechanisms:
            mechanisms.append("LOGIN")
        facts.auth_mechanisms = mechanisms

    def ask_starttls(self, behind: str = "") -> None:
        """STARTTLS (RFC 9051 6.2.1)."""
        if self.authenticated:
            words = "the server greets with PREAUTH, which makes STARTTLS impossible"
            raise Unfinished(Code.STARTTLS_NOT_OFFERED, words)
        if "STARTTLS" not in self.capabilities:
            raise Unfinished(Code.STARTTLS_NOT_OFFERED, "the server does not offer STARTTLS")
        self._tag += 1
        self.say(f"a{self._tag} STARTTLS", about="STARTTLS", behind=behind)
        reply = self.reply()
        if not reply.ok:
            raise self.refusal(reply.status)

    def ask(self, *command: str, shown: str | None = None, long_lines: bool = False) -> Reply:
        """Say a command, its parts joined, and hear all that it brings. A `Literal` among them goes as a literal."""
        self._tag += 1
        about = shown or "".join(command)
        in_transcript = shown and f"a{self._tag} {shown}"
        line = f"a{self._tag} "
        for part in command:
            if isinstance(part, Literal):
                self.say(f"{line}{{{len(part.encode())}}}", in_transcript, about)
                answer = self._next([])
                if answer.kind == "OK":
                    raise self.unexpected(str(answer))  # accepted before it was heard in full
                if answer.tag != "+":
                    return Reply(answer)
                self.our_turn = False
                line = part
            else:
                line += part
        self.say(line, in_transcript, about)
        if long_lines:
            self.long_lines()
        return self.reply()

    def require(self, *command: str, shown: str | None = None) -> Reply:
        """As `ask`, but anything else than OK ends the conversation."""
        reply = self.ask(*command, shown=shown)
        if not reply.ok:
            raise self.refusal(reply.status)
        return reply

    def reply(self) -> Reply:
        """Everything up to the tagged status of the last command."""
        untagged: list[Response] = []
        response = self._next(untagged)
        if response.tag == "+":
            raise self.unexpected(str(response))
        return Reply(response, tuple(untagged))

    def _next(self, untagged: list[Response]) -> Response:
        """The next response that is not untagged; those go into the list. It is our turn afterwards."""
        while len(untagged) < MAX_RESPONSES:
            response = self._response()
            if response.tag in ("+", f"a{self._tag}"):
                self.our_turn = True
                return response
            if response.tag != "*" or response.kind == "PREAUTH":  # which is a greeting and nothing else
                raise self.unexpected(str(response))
            if response.kind == "BYE" and self._stage is not Stage.QUIT:
                raise self._ended(response)
            untagged.append(response)
        raise self.endless(len(untagged))

    def _response(self) -> Response:
        """One response with its literals. Raises `Unfinished` for what is none."""
        pieces: list[str] = []
        line = self.hear()
        # The words of a status response are for people, whatever they end with.
        while not _STATUS_LINE.match(line) and (announced := re.search(r"~?\{([0-9]+)\}$", line)):
            if len(pieces) > MAX_LITERALS:
                raise self.endless(len(pieces))
            if len(announced[1]) > 9 or int(announced[1]) > MAX_LITERAL:
                raise Unfinished(Code.REPLY_TOO_LONG, f"a literal of {announced[1][:20]} octets in {self.awaited}")
            pieces += [line[: announced.start()], Literal(self.hear_octets(int(announced[1])))]
            line = self.hear()
        pieces.append(line)
        try:
            response = parse_response(pieces)
        except ValueError as error:
            if self.awaited == "the greeting":
                raise self.wrong_protocol(pieces[0]) from None
            words = f"{self.awaited} is malformed, {error}: {self.quoted(''.join(pieces))}"
            raise Unfinished(Code.MALFORMED_REPLY, words) from None
        self._heed(response)
        return response

    def _heed(self, response: Response) -> None:
        """What a server may say at any time: its capabilities, and alerts for people (RFC 9051 7.1)."""
        if response.kind == "CAPABILITY":
            self.report.facts.capabilities = [str(token) for token in response.tokens]
        elif response.response_code == "CAPABILITY":
            self.report.facts.capabilities = response.arguments.split()
        elif response.response_code == "ALERT" and (response.tag == "*" or response.kind == "OK"):
            # An alert from before TLS may be anybody's, and is an old way to trick people (NO STARTTLS, 2021).
            words = f"the server has an alert: {self.quoted(response.text)}"
            if self.encrypted or self.options.tls == "none":
                self._tell_once(Code.ALERT, words)
        elif response.response_code == "OVERQUOTA" and response.tag == "*":
            self._tell_once(Code.QUOTA_EXCEEDED, f"the server says: {self.quoted(response.text)}")

    def _tell_once(self, code: Code, words: str) -> None:
        """Note a flaw that the server mentions by the way; some mention it with every reply."""
        if words not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(words)
            self.problem(code, words, Severity.FLAW)

    def refusal(self, response: Response) -> Unfinished:
        """The finding for a response that is not OK."""
        if response.kind not in ("NO", "BAD", "BYE"):
            return self.unexpected(str(response))
        usual = self.usual_refusal(REFUSALS, response.text)
        other_code = response.response_code not in (None, "ALERT", "CONTACTADMIN")
        if usual is Code.AUTH_REJECTED and (response.kind != "NO" or other_code):
            usual = Code.AUTH_FAILED  # BAD is about the command, and a code that we do not know about something else
        code, severity = RESPONSE_CODES.get(response.response_code or "", (usual, Severity.FAILURE))
        return self.refused(str(response), code, severity, limits=response.response_code is None)

    def _ended(self, response: Response) -> Unfinished:
        """BYE in mid-conversation; its response code may say why."""
        code, severity = RESPONSE_CODES.get(response.response_code or "", (Code.CONNECTION_CLOSED, Severity.FAILURE))
        return Unfinished(
            code, f"the server ended the conversation instead of {self.awaited}: {self.quoted(str(response))}", severity
        )

    def heed(self, line: str) -> bool:
        """An untagged response may come at any time (RFC 9051 5.3), but BYE is an end and PREAUTH a beginning.

        A literal is not waited for.
        """
        return line.startswith("* ") and not re.match(r"\* (BYE|PREAUTH)\b|.*\{[0-9]+\}$", line, re.IGNORECASE)

    def interrupted(self, line: str) -> Unfinished:
        """BYE explains an end."""
        try:
            response = parse_response([line])
        except ValueError:
            return super().interrupted(line)
        return self._ended(response) if response.kind == "BYE" else super().interrupted(line)

    def begin_login(self, mechanism: str, initial: bytes | None) -> Turn:
        """AUTHENTICATE (RFC 9051 6.2.2), with the initial response where the server has SASL-IR (RFC 4959)."""
        self._tag += 1
        command = f"a{self._tag} AUTHENTICATE {mechanism}"
        if initial is not None and "SASL-IR" in self.capabilities:
            self.say(f"{command} {b64encode(initial).decode() or '='}", f"{command} ***", f"AUTHENTICATE {mechanism}")
            return self._turn()
        self.say(command, about=f"AUTHENTICATE {mechanism}")
        turn = self._turn()
        return turn if initial is None or turn.done else self.continue_login(initial)

    def continue_login(self, response: bytes) -> Turn:
        """A line of base64."""
        self.say(b64encode(response).decode(), "***")
        return self._turn()

    def cancel_login(self) -> None:
        """A line with an asterisk (RFC 9051 6.2.2)."""
        self.say("*")
        self.reply()

    def _turn(self) -> Turn:
        response = self._next([])
        if response.tag == "+":
            return Turn(done=False, challenge=response.text.strip())
        if response.kind != "OK":
            raise self.refusal(response)
        return Turn(done=True)

    def farewell(self) -> None:
        """LOGOUT (RFC 9051 6.1.3). A tagged BYE, which some servers say, is as good."""
        reply = self.ask("LOGOUT")
        if reply.status.kind not in ("OK", "BYE"):
            self.remark(f"LOGOUT was refused: {self.quoted(str(reply.status))}")


# Pure helpers.

_STATUS = ("OK", "NO", "BAD", "PREAUTH", "BYE")
_STATUS_LINE = re.compile(rf"\S+ ({'|'.join(_STATUS)})\b", re.IGNORECASE)


def parse_response(pieces: list[str]) -> Response:
    """A response from its lines and literals. Raises ValueError for what is none."""
    tag, space, rest = pieces[0].partition(" ")
    if tag == "+":
        return Response("+", "", text=rest)
    if not re.fullmatch(r"\*|[A-Za-z0-9]+", tag) or not space:
        raise ValueError("it has no tag")
    kind, dummy, words = rest.partition(" ")
    if kind.upper() in _STATUS:
        code = re.match(r"\[([A-Za-z0-9-]+)(?: ([^\]]*))?\] ?", words)
        text = words[code.end() :] if code else words
        return Response(tag, kind.upper(), text, code[1].upper() if code else None, (code[2] or "") if code else "")
    if tag != "*":
        raise ValueError("it has no status")
    tokens = parse_tokens([rest, *pieces[1:]])
    # `* 3 EXISTS`, `* 1 FETCH (...)`: the number comes first.
    if (
        len(tokens) > 1
        and isinstance(tokens[0], Atom)
        and number(tokens[0]) is not None
        and isinstance(tokens[1], Atom)
    ):
        return Response(tag, tokens[1].upper(), tokens=(tokens[0], *tokens[2:]))
    if not tokens or not isinstance(tokens[0], Atom):
        raise ValueError("it says nothing")
    return Response(tag, tokens[0].upper(), tokens=tuple(tokens[1:]))


_TOKEN = re.compile(r' *(?:(?P<open>\()|(?P<close>\))|"(?P<string>(?:[^"\\]|\\.)*)"|(?P<atom>[^() "]+))')


def parse_tokens(pieces: list[str]) -> list[Token]:
    """Atoms, texts, NIL as None, and lists of them. Raises ValueError for unbalanced or endless nesting."""
    stack: list[list[Token]] = [[]]
    for piece in pieces:
        if isinstance(piece, Literal):
            stack[-1].append(str(piece))
            continue
        position, end = 0, len(piece.rstrip(" "))
        while position < end:
            found = _TOKEN.match(piece, position)
            if found is None:
                raise ValueError("a quoted text does not end")
            position = found.end()
            if found["open"]:
                if len(stack) > MAX_DEPTH:
                    raise ValueError("its parentheses are nested too deep")
                stack.append([])
            elif found["close"]:
                if len(stack) == 1:
                    raise ValueError("a parenthesis is closed that was not opened")
                inner = stack.pop()
                stack[-1].append(inner)
            elif found["string"] is not None:
                stack[-1].append(re.sub(r"\\(.)", r"\1", found["string"]))
            else:
                stack[-1].append(None if found["atom"].upper() == "NIL" else Atom(found["atom"]))
    if len(stack) > 1:
        raise ValueError("a parenthesis is not closed")
    return stack[0]


def number(token: Token) -> int | None:
    """A number (RFC 9051 9): ASCII digits, 63 bits at the most; None for everything else."""
    if isinstance(token, str) and re.fullmatch(r"[0-9]{1,19}", token) and int(token) < 2**63:
        return int(token)
    return None


def string(text: str) -> str:
    """A text for a command: quoted when it is ASCII without line ends, else a literal (RFC 9051 4.3)."""
    return quoted_string(text) if text.isascii() else Literal(text)


def quoted_string(text: str) -> str:
    """A quoted text; beyond ASCII only where UTF8=ACCEPT was enabled (RFC 6855 3)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def encode_folder(name: str) -> str:
    """Modified UTF-7 (RFC 3501 5.1.3)."""

    def shifted(match: re.Match[str]) -> str:
        encoded = b64encode(match[0].encode("utf-16-be")).decode().rstrip("=").replace("/", ",")
        return f"&{encoded}-"

    return re.sub(r"[^\x20-\x7e]+", shifted, name.replace("&", "&-"))


def decode_folder(name: str) -> str:
    """The name behind modified UTF-7; what is none is left as it is."""

    def plain(match: re.Match[str]) -> str:
        if not match[1]:
            return "&"
        padded = match[1].replace(",", "/") + "=" * (-len(match[1]) % 4)
        try:
            return b64decode(padded, validate=True).decode("utf-16-be")
        except ValueError:
            return match[0]

    return re.sub(r"&([A-Za-z0-9+,]*)-", plain, name)
