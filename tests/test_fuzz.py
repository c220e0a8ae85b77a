"""The fuzz target: what was ever found stays found, and a broken promise would be noticed (tests/fuzz/run fuzzes)."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from unittest import mock

import pytest

from mailprobe.pop3 import Pop3
from mailprobe.speech import Speech

from .canary import CANARY
from .fuzz import seeds, target
from .fuzz.wire import SEGMENT, TURN
from .mutation import CONVERSATIONS
from .scripted import Script

pytestmark = pytest.mark.once

CORPUS = Path(target.__file__).parent / "corpus"
PROTOCOLS = sorted(target.ASKS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_corpus_breaks_no_promise(protocol: str) -> None:
    states = {target.converse(protocol, path.read_bytes()) for path in (CORPUS / protocol).iterdir()}
    assert states >= {"ok", "critical"}, "it does not reach what it is for"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_corpus_is_small(protocol: str) -> None:
    sizes = [path.stat().st_size for path in (CORPUS / protocol).iterdir()]
    assert len(sizes) < 400
    assert sum(sizes) < 300_000


@pytest.mark.parametrize("protocol", ["imap", "pop3", "sieve", "smtp"])
def test_a_scripted_conversation_is_an_input(protocol: str) -> None:
    name = {"imap": "ok-login-command", "pop3": "ok-without-capa", "sieve": "ok-no-scripts", "smtp": "ok-message-sent"}
    script = Script.read(CONVERSATIONS / protocol / f"{name[protocol]}.txt")
    seed = seeds.seed_of(protocol, script)
    assert seed.count(TURN) >= 3
    assert target.converse(protocol, b"d" + seed[1:]) in ("ok", "critical")


def replies(letter: str, *lines: str) -> bytes:
    return letter.encode() + TURN.join(line.encode() for line in lines)


# Without a login, in POP3: the letter is one whose number leaves no rest when divided by that of the ways to ask.
SANE = replies("d", "+OK ready\r\n", "-ERR unknown\r\n", "+OK bye\r\n")


def test_a_sane_conversation_is_ok() -> None:
    assert target.converse("pop3", SANE) == "ok"
    assert target.converse("pop3", SANE.replace(b"\r\n", b"\n")) == "ok"
    assert target.converse("pop3", SANE.replace(b"ready", SEGMENT.join([b"r", b"e", b"ady"]))) == "ok"


def test_an_ok_that_must_not_be_would_be_noticed() -> None:
    refusing = SANE.replace(b"+OK ready", b"-ERR no")
    assert target.converse("pop3", refusing) == "critical"
    with mock.patch.object(Pop3, "require", return_value=None), pytest.raises(target.Violation, match="OK, but"):
        target.converse("pop3", refusing)


def test_replies_that_come_before_their_commands_would_be_noticed() -> None:
    early = replies("d", "+OK ready\r\n-ERR unknown\r\n", "", "+OK bye\r\n")
    assert target.converse("pop3", early) == "critical"
    with mock.patch.object(Speech, "_hear_nothing"), pytest.raises(target.Violation, match="OK, but"):
        target.converse("pop3", early)


def test_a_login_that_was_not_tried_would_be_noticed() -> None:
    data = b"a" + SANE[1:]
    login = next(bytes([code]) for code in range(97, 123) if code % len(target.ASKS["pop3"]) == 1)
    with (
        mock.patch("mailprobe.pop3.log_in", return_value=True),
        mock.patch("mailprobe.pop3._look_into_the_mailbox"),
        pytest.raises(target.Violation, match="STAT was never said"),
    ):
        target.converse("pop3", login + data[1:])


def test_a_reflected_secret_would_be_noticed() -> None:
    encoded = base64.b64encode(CANARY.encode()).decode()
    login = next(chr(code) for code in range(97, 123) if code % len(target.ASKS["pop3"]) == 1)
    data = replies(login, "+OK ready\r\n", "-ERR unknown\r\n", "+OK\r\n", f"-ERR {encoded} is wrong\r\n", "+OK bye\r\n")
    assert target.converse("pop3", data) == "critical"
    with (
        mock.patch("mailprobe.speech.Blotter", return_value=str),
        mock.patch("mailprobe.run.Blotter", return_value=str),
        pytest.raises(target.Violation, match="a secret got out"),
    ):
        target.converse("pop3", data)


def test_active_text_would_be_noticed() -> None:
    data = SANE.replace(b"ready", b"\x1b[31m | ready\xe2\x80\xae")
    assert target.converse("pop3", data) == "ok"
    with (
        mock.patch("mailprobe.report.printable", lambda text, limit=None: text),
        mock.patch("mailprobe.speech.printable", lambda text, limit=None: text),
        pytest.raises(target.Violation, match="in '"),
    ):
        target.converse("pop3", data)


def test_an_exception_would_be_noticed() -> None:
    with mock.patch.object(Pop3, "reply", side_effect=KeyError("a bug")), pytest.raises(KeyError):
        target.converse("pop3", SANE)


def test_a_server_that_says_the_same_for_ever_is_heard_out_to_a_limit() -> None:
    for words in (b"x", b"\n", b"+OK\r\n", b"+ \r\n", b"a\r\n.\r\n"):
        for turn in range(3):
            data = TURN.join([*SANE.split(TURN)[:turn], words])
            data = data if data[:1] == b"d" else b"d" + data
            assert target.converse("pop3", data + b"\x1c") in ("ok", "warning", "critical")


def test_the_output_is_looked_at_in_every_form() -> None:
    document = json.dumps({"message": "a\tb"})
    good = "POP3 OK - all is well | time=1s\n"
    with pytest.raises(target.Violation):
        target.look_at(document, good)
    for bad in ("POP3 OK - no performance data\n", "POP3 OK - a | b | time=1s\n", good + "x" * 10_000):
        with pytest.raises(target.Violation):
            target.look_at("{}", bad)
    target.look_at("{}", good, good, good)
