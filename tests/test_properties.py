"""What holds for every input there is: the parsers, the stream, the sanitisers, the options (hypothesis)."""

from __future__ import annotations

import os
import socket
import unicodedata
from dataclasses import MISSING, fields
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailprobe import certificate, imap_dialect, mailtime, pop3, sieve, smtp_dialect, stream, text
from mailprobe.network import Deadline
from mailprobe.options import MAX_VALUE, Declaration, Options, UsageError, declarations, read, shown, spell
from mailprobe.report import Unfinished
from nagios_checks import arguments, command, common, present
from nagios_checks import imap as check_imap
from nagios_checks import pop3 as check_pop3
from nagios_checks import sieve as check_sieve
from nagios_checks import smtp as check_smtp

# The same examples on every machine and no limit of time: what fails here fails everywhere.
settings.register_profile(
    "same-everywhere",
    derandomize=True,
    deadline=None,
    max_examples=150,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("same-everywhere")

SPECS = [module.CHECK for module in (check_imap, check_pop3, check_sieve, check_smtp)]
PARSERS = {spec.name: command.parser(spec) for spec in SPECS}

# Octets that come near what servers say: their words, their marks, and anything.
WORDS = (
    *(b"220 ", b"250-", b"250 ", b"334 ", b"421 ", b"+OK", b"-ERR", b"* ", b"+ ", b"a1 OK", b"NO ", b"BYE", b"(", b")"),
    *(b'"', b"\\", b"{5}", b"{2147483647}", b"{5+}", b"[ALERT] ", b"[CAPABILITY X]", b"STATUS ", b"FETCH ", b"SEARCH"),
    *(b"\r\n", b"\n", b"\r", b".", b"..", b"\0", b"\xff", b"\xc3\xbc", "\u2028".encode(), "\u0661".encode(), b"|"),
    *(b"SIZE 1", b"AUTH PLAIN", b"<1@a>", b"=?utf-8?q?", b"Date: ", b"Received: ;", b"\x1b[31m", b"9" * 30, b"NIL"),
)
OCTETS = st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=8)), max_size=30).map(b"".join)
LINES = OCTETS.map(lambda octets: text.decoded(octets.replace(b"\n", b"")))
# Any text, lone surrogates too.
TEXTS = st.text(st.characters(exclude_categories=()), max_size=200)


# The parsers.


@given(LINES)
def test_a_line_of_smtp_is_a_reply_line_or_none(line: str) -> None:
    parts = smtp_dialect.parse_reply_line(line)
    if parts is not None:
        assert line[:3].isascii()
        assert parts.code == int(line[:3])
        assert 200 <= parts.code <= 599


@given(st.lists(LINES, min_size=1, max_size=5))
def test_what_is_in_a_reply_of_smtp_is_found_or_not(lines: list[str]) -> None:
    reply = smtp_dialect.Reply(250, tuple(lines))
    offered = smtp_dialect.capabilities(reply)
    assert all(word for word in smtp_dialect.parameters(offered, "AUTH") or [])
    size = smtp_dialect.size_limit(offered)
    assert size is None or 0 < size < 10**18
    assert len(smtp_dialect.queue_id(reply.text) or "") <= 150
    assert reply.enhanced is None or reply.enhanced in lines[0]


@given(LINES)
def test_a_line_of_pop3_is_a_reply_or_none(line: str) -> None:
    reply = pop3.parse_reply(line)
    if reply is not None:
        assert line[:1] in "+-"
        pop3.response_code_meaning(reply.response_code)
    numbers = pop3.two_numbers(line)
    assert numbers is None or (numbers[0] < 10**10 and numbers[1] < 10**18 and line[:1].isascii())
    stamp = pop3.apop_timestamp(line)
    assert stamp in line
    assert stamp.isascii()


@given(st.lists(st.one_of(LINES, LINES.map(imap_dialect.Literal)), min_size=1, max_size=6))
def test_pieces_of_imap_are_a_response_or_a_value_error(pieces: list[str]) -> None:
    try:
        response = imap_dialect.parse_response(pieces)
    except ValueError:
        return
    assert response.tag in ("*", "+") or (response.tag.isascii() and response.tag.isalnum())
    assert response.kind == response.kind.upper()
    assert depth(list(response.tokens)) <= imap_dialect.MAX_DEPTH + 1


def depth(token: Any) -> int:
    return 1 + max(map(depth, token), default=0) if isinstance(token, list) else 0


@given(LINES)
def test_a_token_is_a_number_of_ascii_digits_or_none(token: str) -> None:
    number = imap_dialect.number(imap_dialect.Atom(token))
    assert number is None or (token.isascii() and token.isdigit() and 0 <= number < 2**63)


@given(TEXTS.filter(lambda name: not any(unicodedata.category(character) == "Cs" for character in name)))
def test_every_folder_name_goes_there_and_back(name: str) -> None:
    encoded = imap_dialect.encode_folder(name)
    assert encoded.isascii()
    assert imap_dialect.decode_folder(encoded) == name


@given(LINES)
def test_whatever_a_server_calls_a_folder_is_a_text(name: str) -> None:
    assert isinstance(imap_dialect.decode_folder(name), str)


@given(st.lists(LINES, min_size=1, max_size=6))
def test_pieces_of_sieve_are_tokens_or_a_value_error(pieces: list[str]) -> None:
    try:
        tokens = sieve.parse_tokens(pieces)
    except ValueError:
        return
    assert all(isinstance(token, str) for token in tokens)
    sieve.is_active(tokens)


@given(st.lists(LINES, max_size=10))
def test_a_header_has_an_age_or_none(header: list[str]) -> None:
    age = mailtime.age_of_message(header)
    assert age is None or age >= 0


@given(
    st.one_of(
        LINES, st.datetimes(min_value=datetime(1900, 1, 1)).map(lambda moment: f"{moment:%a, %d %b %Y %H:%M:%S} +0000")
    )
)
def test_a_text_is_a_date_or_none(words: str) -> None:
    moment = mailtime.parse_date(words)
    assert moment is None or moment.tzinfo is not None


@given(
    st.lists(TEXTS, max_size=5), st.sampled_from(["mx.example.org", "192.0.2.1", "::1", "bücher.example", "localhost"])
)
def test_any_names_of_a_certificate_match_or_not(names: list[str], wanted: str) -> None:
    assert certificate.matches(names, wanted) in (True, False)
    assert certificate.matches([*names, wanted.encode("idna").decode()], wanted)


@given(TEXTS.filter(lambda name: "mx.example.org" not in name.lower() and "*.example.org" not in name.lower()))
def test_no_other_name_matches(name: str) -> None:
    assert not certificate.matches([name], "mx.example.org")


# The stream: the same octets in any segments are the same lines.


class Segments:
    """A socket that has these segments, and then its end; it is always ready to be read."""

    family = socket.AF_UNIX
    ready = os.open(os.devnull, os.O_RDONLY)

    def __init__(self, segments: list[bytes]) -> None:
        self.segments = [segment for segment in segments if segment]

    def setblocking(self, blocking: bool) -> None:
        assert not blocking

    def fileno(self) -> int:
        return self.ready

    def recv(self, size: int) -> bytes:
        if not self.segments:
            return b""
        segment, rest = self.segments[0][:size], self.segments[0][size:]
        self.segments[:1] = [rest] if rest else []
        return segment


def events(segments: list[bytes], literals: bool) -> list[object]:
    """What a reader hears: lines, octets that a line announces, a limit or the end."""
    found: list[object] = []
    reader: Any = Segments(segments)
    connected = stream.Stream(reader, Deadline(60))
    try:
        while (line := connected.read_line()) is not None:
            found.append(line)
            assert len(connected.waiting) <= stream.MAX_LINE + stream.CHUNK
            if literals and line.endswith(b"}"):
                found.append(connected.read_octets(len(line)))
    except Unfinished as unfinished:
        found.append(unfinished.code)
    return found


@st.composite
def segmented(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """Octets, and the same in segments; some of them longer than a line may be."""
    octets = draw(OCTETS) + b"x" * draw(st.sampled_from([0, 0, 100, stream.MAX_LINE - 3, stream.MAX_LINE + 1]))
    octets += draw(OCTETS)
    cuts = sorted(draw(st.lists(st.integers(0, len(octets)), max_size=20)))
    return octets, [octets[start:end] for start, end in zip([0, *cuts], [*cuts, len(octets)])]


@given(segmented(), st.booleans())
def test_the_same_octets_are_the_same_lines_in_any_segments(whole: tuple[bytes, list[bytes]], literals: bool) -> None:
    octets, segments = whole
    heard = events([octets], literals)
    assert events(segments, literals) == heard
    assert events([octets[place : place + 1] for place in range(len(octets))], literals) == heard


@given(st.integers(1, 64), st.sampled_from([b"x", b"\r", b"250-x\r\n", b"* OK\n"]))
def test_what_a_server_may_say_to_one_command_is_bounded(segment: int, words: bytes) -> None:
    flood = [words * (segment * 1024)] * (stream.MAX_SAID // (len(words) * segment * 1024) + 2)
    heard = events(flood, literals=False)
    assert sum(len(line) for line in heard if isinstance(line, bytes)) <= stream.MAX_SAID
    assert not isinstance(heard[-1], bytes), "it was read to its end"


# The sanitisers.

ACTIVE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def is_inert(shown: str) -> bool:
    return "|" not in shown and not any(unicodedata.category(character) in ACTIVE for character in shown)


@given(TEXTS, st.one_of(st.none(), st.integers(1, 300)))
def test_any_text_is_inert_when_printable_has_seen_it(words: str, limit: int | None) -> None:
    shown = text.printable(words, limit)
    assert is_inert(shown)
    assert limit is None or len(shown) <= limit
    assert text.printable(shown) == shown
    shown.encode("utf-8")


@given(st.binary(max_size=200))
def test_any_octets_are_a_text_that_can_be_printed(octets: bytes) -> None:
    text.decoded(octets).encode("utf-8")


@given(TEXTS, st.lists(TEXTS, max_size=3), TEXTS)
def test_no_secret_stays_in_any_text(before: str, secrets: list[str], behind: str) -> None:
    looked_for = [secret for secret in secrets if len("".join(secret.split())) >= text.MIN_SECRET]
    looked_for = [secret for secret in looked_for if is_utf8(secret)]
    blot = text.Blotter(looked_for)
    for secret in looked_for:
        assert secret not in blot(before + secret + behind).replace(text.BLOT, "\0")


def is_utf8(words: str) -> bool:
    return not any(unicodedata.category(character) == "Cs" for character in words)


@given(st.lists(TEXTS, max_size=40), st.integers(0, 2))
def test_whatever_a_check_has_to_say_is_short_and_inert(said: list[str], verbose: int) -> None:
    limit = present.MAX_OUTPUT if verbose < 2 else present.MAX_TRANSCRIPT
    lines = present._shortened(["SMTP OK - all is well | time=1s", *said], limit)
    assert all(is_inert(line) for line in lines[1:])
    assert sum(len(line) + 1 for line in lines) <= limit + (present.TAIL + 1) * present.MAX_LINE


# The options.


def values_of(declared: Declaration) -> st.SearchStrategy[Any]:
    """Values that the declaration allows; whether they go together is another matter."""
    line = st.text(
        st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"), exclude_characters="\0"), min_size=1, max_size=20
    )
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "str": st.sampled_from(declared.choices) if declared.choices else line,
        "int": st.integers(int(declared.minimum or 0), int(declared.maximum or 10**6)),
        "float": st.integers(int(declared.minimum or 0) + 1, 1000).map(float),
        "bool": st.booleans(),
    }
    kind = kinds[declared.kind]
    # An empty list where there is a default cannot be said on a command line.
    return st.lists(kind, min_size=1 if declared.default else 0, max_size=3).map(tuple) if declared.many else kind


def given_values(options: type[Options]) -> st.SearchStrategy[dict[str, Any]]:
    declared = [each for each in declarations(options) if not each.secret and not each.path]
    required = {"host": st.sampled_from(["mx.example.org", "192.0.2.1", "2001:db8::1", "bücher.example"])}
    return st.fixed_dictionaries(
        required, optional={each.name: values_of(each) for each in declared if each.name != "host"}
    )


def read_or_none(options: type[Options], values: dict[str, Any]) -> Options | None:
    try:
        return read(options, values)
    except UsageError:
        return None


def command_line(declared: tuple[Declaration, ...], values: dict[str, Any]) -> list[str]:
    """The arguments that say the same."""
    words = []
    for each in declared:
        value = values.get(each.name)
        if each.kind == "bool":
            words += [arguments.flag(each)] if value is not None and value != each.default else []
        elif value is not None:
            words += [f"{arguments.flag(each)}={item}" for item in (value if each.many else [value])]
    return words


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@settings(max_examples=100)
@given(data=st.data())
def test_options_are_the_same_from_a_mapping_and_from_a_command_line(
    spec: common.CheckSpec, data: st.DataObject
) -> None:
    values = data.draw(given_values(spec.options))
    wanted = read_or_none(spec.options, values)
    try:
        parsed, secrets = arguments.parse(
            PARSERS[spec.name], spec.options, command_line(declarations(spec.options), values)
        )
        found = arguments.to_options(spec.options, parsed, secrets)
    except arguments.Misuse:
        found = None
    assert found == wanted


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@settings(max_examples=100)
@given(data=st.data())
def test_options_are_the_same_from_a_mapping_with_everything_in_it(spec: common.CheckSpec, data: st.DataObject) -> None:
    """Ansible hands on every option, None or the default where it was not given, and lists for tuples."""
    wanted = read_or_none(spec.options, data.draw(given_values(spec.options)))
    if wanted is None:
        return
    everything = {f.name: getattr(wanted, f.name) for f in fields(wanted)}
    listed = {name: list(value) if isinstance(value, tuple) else value for name, value in everything.items()}
    assert read(spec.options, listed) == wanted
    # What is the default need not be given.
    defaults = {f.name: f.default for f in fields(wanted) if f.default is not MISSING}
    assert read(spec.options, {name: v for name, v in everything.items() if defaults.get(name, MISSING) != v}) == wanted


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@settings(max_examples=100)
@given(data=st.data())
def test_any_value_of_any_option_is_taken_or_refused_in_one_clean_line(
    spec: common.CheckSpec, data: st.DataObject
) -> None:
    declared = data.draw(st.sampled_from(declarations(spec.options)))
    wild = st.one_of(TEXTS, st.integers(), st.floats(), st.booleans(), st.none(), st.lists(TEXTS, max_size=3))
    values = {"host": "mx.example.org", declared.name: data.draw(wild)}
    said = ""
    try:
        read(spec.options, values)
    except UsageError as error:
        said = str(error)
    assert is_inert(said)
    assert len(said) < 1000


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@settings(max_examples=100)
@given(words=st.lists(st.one_of(TEXTS, st.sampled_from(["-H", "--host", "-w", "-D", "--tls", "--", "-", "--state"]))))
def test_any_command_line_is_options_or_misuse(spec: common.CheckSpec, words: list[str]) -> None:
    words = [word for word in words if "extra-opts" not in word]
    try:
        parsed, secrets = arguments.parse(PARSERS[spec.name], spec.options, words)
        arguments.to_options(spec.options, parsed, secrets)
        arguments.to_ranges(parsed, ["time"])
    except arguments.Misuse as misuse:
        said = str(misuse)
    except SystemExit as end:  # -h and -V
        said = str(end.code)
    else:
        said = ""
    assert is_inert(text.printable(said))
    assert len(said) < 2000


@given(st.text(max_size=MAX_VALUE * 2))
def test_a_value_for_a_user_is_shown_inert_and_short(value: str) -> None:
    assert is_inert(spell(shown(value), str.upper))
    assert len(shown(value)) <= 250
