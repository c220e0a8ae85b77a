"""The pure parts of the core: what needs no server to be proved."""

from __future__ import annotations

import ast
import base64
import contextlib
import html
import itertools
import json
import re
import socket
import subprocess
import sys
import time
import unicodedata
import urllib.parse
from datetime import datetime, timedelta, timezone
from email import message_from_bytes
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime
from pathlib import Path

import pytest

from mailprobe import imap_dialect, mailtime, pop3, sieve
from mailprobe.codes import HINTS, Code, Stage
from mailprobe.imap import ImapOptions, search_command
from mailprobe.imap_dialect import Literal, decode_folder, encode_folder
from mailprobe.message import compose, on_the_wire
from mailprobe.network import Deadline
from mailprobe.options import Declaration, UsageError, declarations, read
from mailprobe.report import Report
from mailprobe.sasl import MECHANISMS, Credentials, Exchange, ServerFault, choose, saslprep
from mailprobe.smtp import SmtpFacts, SmtpOptions
from mailprobe.smtp_dialect import Reply, capabilities, parameters, parse_reply_line, queue_id, size_limit
from mailprobe.text import MAX_MARKS, Blotter, printable

from .running import REPOSITORY

CORE = REPOSITORY / "plugins" / "mailprobe"
MODULES = sorted(path.stem for path in CORE.glob("*.py") if path.stem != "__init__")


# Replies.


@pytest.mark.parametrize(
    ("line", "code", "last"),
    [
        ("220 mx.example.org ESMTP", 220, True),
        ("250-PIPELINING", 250, False),
        ("250 ", 250, True),
        ("250", 250, True),
        ("250-", 250, False),
        ("354 go ahead - now", 354, True),
        ("450 4.2.0 later", 450, True),
        ("554-5.7.1 no", 554, False),
        ("200 not in RFC 5321, but a reply", 200, True),
        ("599 not either", 599, True),
        ("250 two\\x0dlines", 250, True),
    ],
)
def test_a_reply_line_is_a_code_and_whether_it_is_the_last(line: str, code: int, last: bool) -> None:
    parsed = parse_reply_line(line)
    assert parsed is not None
    assert (parsed.code, parsed.last) == (code, last)


@pytest.mark.parametrize(
    "line",
    [
        *("", " ", "2", "25", "2500", "2500 x", "250x", "250_x", "250\tx", "25 0", " 250 x", "-250 x", "+250", "000 x"),
        *("199 x", "600 x", "999 x", "abc", "* OK IMAP", "+OK POP3"),
        # Digits to Unicode, and to int(), too.
        *("\u0662\u0665\u0660 x", "\uff12\uff15\uff10 x", "\u00b250 x", "25\u0966-x"),
    ],
    ids=ascii,
)
def test_what_is_no_reply_line_is_none(line: str) -> None:
    assert parse_reply_line(line) is None


def reply(*lines: str) -> Reply:
    return Reply(int(lines[0][:3]), lines)


def test_the_capabilities_are_the_lines_of_the_ehlo_reply_but_the_first() -> None:
    heard = reply("250-mx.example.org Hello", "250-SIZE 1000", "250-", "250-AUTH PLAIN", "250 HELP")
    assert capabilities(heard) == ["SIZE 1000", "AUTH PLAIN", "HELP"]
    assert capabilities(reply("250 mx.example.org")) == []
    assert capabilities(reply("250")) == []


def test_the_parameters_of_an_extension_do_not_depend_on_case_form_or_blanks() -> None:
    offered = ["size 1000", "AUTH=LOGIN", "auth PLAIN  CRAM-MD5", "8BITMIME", "AUTHOR x", "X-STARTTLS"]
    assert parameters(offered, "SIZE") == ["1000"]
    assert parameters(offered, "AUTH") == ["LOGIN", "PLAIN", "CRAM-MD5"]
    assert parameters(offered, "8BITMIME") == []
    assert parameters(offered, "STARTTLS") is None
    assert parameters([], "AUTH") is None


@pytest.mark.parametrize(
    ("offered", "limit"),
    [
        (["SIZE 10240000"], 10240000),
        (["PIPELINING", "size 52428800"], 52428800),
        (["SIZE"], None),
        (["SIZE 0"], None),  # RFC 1870 4: no fixed maximum
        (["SIZE -1"], None),
        (["SIZE 10M"], None),
        (["SIZE " + "9" * 21], None),
        (["SIZE ١٢"], None),
        (["SIZELESS 12"], None),
        ([], None),
    ],
)
def test_the_size_limit_is_known_when_the_server_states_one(offered: list[str], limit: int | None) -> None:
    assert size_limit(offered) == limit


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2.0.0 Ok: queued as 25B3522A54F", "25B3522A54F"),  # Postfix
        ("2.0.0 Ok: queued as 4ZzqBn0KvHz9sWM", "4ZzqBn0KvHz9sWM"),  # Postfix with long queue ids
        ("OK id=1xVV1L-00070I-0A", "1xVV1L-00070I-0A"),  # Exim
        ("OK id=1tNxZc-000000003Bq-2Xyz", "1tNxZc-000000003Bq-2Xyz"),  # Exim 4.97 and later
        ("2.0.0 4ANEROsT012345 Message accepted for delivery", "4ANEROsT012345"),  # Sendmail
        ("2.0.0: 8a3f2c1d Message accepted for delivery", "8a3f2c1d"),  # OpenSMTPD
        ("2.0.0 <user@example.test> oCdBM2ZNBGv4aAAAg+zDdQ Saved", "oCdBM2ZNBGv4aAAAg+zDdQ"),  # Dovecot LMTP
        ("ok 1700000000 qp 12345", "12345"),  # qmail
        (
            "2.6.0 <1@mailprobe> [InternalId=12345678901234, Hostname=EX.example.org] Queued mail for delivery",
            "12345678901234",
        ),  # Exchange
        ("2.0.0 OK  1700000000 a1b2c3-d4e5f6.123 - gsmtp", "1700000000 a1b2c3-d4e5f6.123"),  # Gmail
        ("2.0.0 Ok", None),
        ("", None),
    ],
)
def test_the_queue_id_is_found_in_the_words_of_every_common_server(text: str, expected: str | None) -> None:
    assert queue_id(text) == expected


@pytest.mark.parametrize(
    ("line", "enhanced"),
    [
        ("250 2.1.5 Ok", "2.1.5"),
        ("550 5.7.1", "5.7.1"),
        ("450 4.7.25 Client host rejected", "4.7.25"),
        ("550 5.123.999 x", "5.123.999"),
        ("250 5.1.1 belongs to another code", None),
        ("550 4.1.1 too", None),
        ("354 3.0.0 there is no class 3", None),
        ("250 2.1 x", None),
        ("250 2.1.5x", None),
        ("250 2.1.1234 x", None),
        ("250 ok 2.1.5", None),
        ("250", None),
    ],
)
def test_an_enhanced_status_code_is_one_that_fits_the_code(line: str, enhanced: str | None) -> None:
    assert reply(line).enhanced == enhanced


def test_the_text_of_a_reply_is_all_its_lines_without_the_codes() -> None:
    heard = reply("550-5.7.1 Not", "550 5.7.1 welcome")
    assert heard.text == "5.7.1 Not 5.7.1 welcome"
    assert str(heard) == "550 5.7.1 Not 5.7.1 welcome"
    assert str(reply("250")) == "250"


# POP3.


@pytest.mark.parametrize(
    ("line", "ok", "text", "response_code", "challenge"),
    [
        ("+OK", True, "", None, None),
        ("+OK ready", True, "ready", None, None),
        ("+ok Ready", True, "Ready", None, None),
        ("-ERR", False, "", None, None),
        ("-err no", False, "no", None, None),
        ("-ERR [IN-USE] locked", False, "[IN-USE] locked", "IN-USE", None),
        ("-ERR [sys/temp] later", False, "[sys/temp] later", "SYS/TEMP", None),
        ("-ERR no [AUTH] in the middle", False, "no [AUTH] in the middle", None, None),
        ("-ERR [] x", False, "[] x", None, None),
        ("-ERR [AUTH", False, "[AUTH", None, None),
        ("+ ", True, "", None, ""),
        ("+", True, "", None, ""),
        ("+ PDE4OTY+", True, "PDE4OTY+", None, "PDE4OTY+"),
    ],
)
def test_a_reply_of_pop3_is_ok_or_not_or_a_challenge(
    line: str, ok: bool, text: str, response_code: str | None, challenge: str | None
) -> None:
    assert pop3.parse_reply(line) == pop3.Reply(ok, text, response_code, challenge)


@pytest.mark.parametrize(
    "line", ["", " ", "+OKAY", "OK", "ERR", "-OK", "+ERR", " +OK", "* OK", "220 x", "+O K", "++OK"]
)
def test_what_is_no_reply_of_pop3_is_none(line: str) -> None:
    assert pop3.parse_reply(line) is None


@pytest.mark.parametrize(
    ("banner", "timestamp"),
    [
        ("POP3 server ready <1896.697170952@dbc.mtview.ca.us>", "<1896.697170952@dbc.mtview.ca.us>"),  # RFC 1939 7
        ("<a@b> ready", "<a@b>"),
        ("<not this> but <a@b> and <c@d>", "<a@b>"),
        ("ready", ""),
        ("<a>", ""),
        ("<a b@c>", ""),
        ("<@>", ""),
        ("<a@b", ""),
        ("<a@ü>", ""),
    ],
)
def test_the_timestamp_of_apop_is_found_in_the_greeting(banner: str, timestamp: str) -> None:
    assert pop3.apop_timestamp(banner) == timestamp


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("2 320", (2, 320)),
        ("0 0", (0, 0)),
        ("2 320 and more", (2, 320)),
        ("1 " + "9" * 18, (1, 10**18 - 1)),
        *((text, None) for text in ("", "2", "2 ", " 2 320", "2  320", "-2 320", "2 -320", "2 3.5", "2 1e3", "a b")),
        *(
            (text, None)
            for text in ("\u0662 320", "2 \uff13", "2\t320", "2_0 1", "+2 1", "1 " + "9" * 19, "9" * 11 + " 1")
        ),
    ],
    ids=ascii,
)
def test_the_two_numbers_of_stat_and_list_are_ascii_digits(text: str, numbers: tuple[int, int] | None) -> None:
    assert pop3.two_numbers(text) == numbers


# IMAP.


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("* OK ready", ("*", "OK", "ready", None, "")),
        ("* OK", ("*", "OK", "", None, "")),
        ("a1 ok done", ("a1", "OK", "done", None, "")),
        ("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] ready", ("*", "OK", "ready", "CAPABILITY", "IMAP4rev1 AUTH=PLAIN")),
        ("a1 NO [AUTHENTICATIONFAILED] no", ("a1", "NO", "no", "AUTHENTICATIONFAILED", "")),
        ("a1 NO [authenticationfailed]", ("a1", "NO", "", "AUTHENTICATIONFAILED", "")),
        ("a1 NO no [ALERT] here", ("a1", "NO", "no [ALERT] here", None, "")),
        ("a1 NO [ALERT no", ("a1", "NO", "[ALERT no", None, "")),
        ("* BYE", ("*", "BYE", "", None, "")),
        ("* PREAUTH hello", ("*", "PREAUTH", "hello", None, "")),
        ("+ go ahead", ("+", "", "go ahead", None, "")),
        ("+ ", ("+", "", "", None, "")),
        ("+", ("+", "", "", None, "")),
    ],
)
def test_a_status_of_imap_has_its_code_and_its_words(line: str, expected: tuple[str | None, ...]) -> None:
    found = imap_dialect.parse_response([line])
    assert (found.tag, found.kind, found.text, found.response_code, found.arguments) == expected


@pytest.mark.parametrize(
    ("pieces", "kind", "tokens"),
    [
        (["* CAPABILITY IMAP4rev1 ID"], "CAPABILITY", ("IMAP4rev1", "ID")),
        (["* 23 EXISTS"], "EXISTS", ("23",)),
        (["* SEARCH"], "SEARCH", ()),
        (["* SEARCH 2 84 882"], "SEARCH", ("2", "84", "882")),
        (["* STATUS x (MESSAGES 231 UNSEEN 4)"], "STATUS", ("x", ["MESSAGES", "231", "UNSEEN", "4"])),
        (['* STATUS "a (b" (MESSAGES 1)'], "STATUS", ("a (b", ["MESSAGES", "1"])),
        ([r'* STATUS "a \"b\" \\" (MESSAGES 1)'], "STATUS", ('a "b" \\', ["MESSAGES", "1"])),
        (["* STATUS ", Literal('a "b" (c'), " (MESSAGES 1)"], "STATUS", ('a "b" (c', ["MESSAGES", "1"])),
        (['* 1 FETCH (INTERNALDATE "17-Jul-1996 02:44")'], "FETCH", ("1", ["INTERNALDATE", "17-Jul-1996 02:44"])),
        (['* QUOTA "" (STORAGE 10 512)'], "QUOTA", ("", ["STORAGE", "10", "512"])),
        (['* ID ("name" "x" "os" NIL)'], "ID", (["name", "x", "os", None],)),
        (["* ID NIL"], "ID", (None,)),
        (['* ID ("NIL" nil)'], "ID", (["NIL", None],)),
        (["* X () (()())"], "X", ([], [[], []])),
        (["* capability x  "], "CAPABILITY", ("x",)),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_tokens_of_imap_are_words_texts_nil_and_lists(
    pieces: list[str], kind: str, tokens: tuple[object, ...]
) -> None:
    found = imap_dialect.parse_response(pieces)
    assert (found.tag, found.kind, found.tokens) == ("*", kind, tokens)


@pytest.mark.parametrize(
    "line",
    [
        *("", " ", "*", "* ", "a1", "OK ready", "220 x", "+OK x", "-ERR x", "a1 MAYBE x", "ä1 OK x", "** OK", "a-1 OK"),
        *("* (a", "* X (a", "* X a)", "* X )(", '* X "a', '* X "a\\"', '* "OK" x', "* X " + "(" * 30 + ")" * 30),
    ],
)
def test_what_is_no_response_of_imap_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match=r"it |parenthes|quoted"):
        imap_dialect.parse_response([line])


def test_deep_and_long_responses_cost_no_time() -> None:
    started = time.process_time()
    for line in ("* X " + "(" * 100_000, '* X "' + "\\" * 99_999, "* X " + " " * 100_000 + '"', "* X " + "a " * 50_000):
        with contextlib.suppress(ValueError):
            imap_dialect.parse_response([line])
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("token", "number"),
    [
        *(("0", 0), ("42", 42), (str(2**63 - 1), 2**63 - 1), (str(2**63), None), ("-1", None), ("1.5", None)),
        *(("", None), (" 1", None), ("1\n", None), ("\u0663", None), ("1_0", None), (None, None), (["1"], None)),
    ],
    ids=ascii,
)
def test_a_number_of_imap_has_63_bits_and_ascii_digits(token: imap_dialect.Token, number: int | None) -> None:
    assert imap_dialect.number(token) == number


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("INBOX", "INBOX"),
        ("~peter/mail/台北/日本語", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"),  # RFC 3501 5.1.3
        ("Entwürfe", "Entw&APw-rfe"),
        ("a & b", "a &- b"),
        ("&-", "&--"),
        ("ü&", "&APw-&-"),
        ("\N{GRINNING FACE}", "&2D3eAA-"),  # beyond 16 bits
        ('a\\b"c', 'a\\b"c'),
        ("tab\there", "tab&AAk-here"),
        ("", ""),
    ],
    ids=ascii,
)
def test_a_folder_name_goes_there_and_back_in_modified_utf_7(name: str, encoded: str) -> None:
    assert encode_folder(name) == encoded
    assert decode_folder(encoded) == name


@pytest.mark.parametrize("name", ["&", "&APw", "&A-", "&!!-", "&2AA-"])
def test_what_is_no_modified_utf_7_is_left_as_it_is(name: str) -> None:
    assert decode_folder(name) == name


@pytest.mark.parametrize(
    ("text", "said", "literal"),
    [
        ("plain", '"plain"', False),
        ("", '""', False),
        ('a "b" \\ c', '"a \\"b\\" \\\\ c"', False),
        ("ü", "ü", True),
    ],
)
def test_a_text_for_imap_is_quoted_or_a_literal(text: str, said: str, literal: bool) -> None:
    found = imap_dialect.string(text)
    assert (found, isinstance(found, Literal)) == (said, literal)


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ("UNSEEN", ["SEARCH UNSEEN"]),
        ('SUBJECT "a \\"b\\""', ['SEARCH SUBJECT "a \\"b\\""']),
        ('SUBJECT "ü"', ["SEARCH CHARSET UTF-8 ", "SUBJECT ", Literal("ü")]),
        ('SUBJECT "ü" FROM "x"', ["SEARCH CHARSET UTF-8 ", "SUBJECT ", Literal("ü"), " FROM ", '"x"']),
        ('TEXT "ü" TEXT "ö"', ["SEARCH CHARSET UTF-8 ", "TEXT ", Literal("ü"), " TEXT ", Literal("ö")]),
        ('TEXT "a \\"ü\\" b"', ["SEARCH CHARSET UTF-8 ", "TEXT ", Literal('a "ü" b')]),
        ('TEXT "\\"ü\\""', ["SEARCH CHARSET UTF-8 ", "TEXT ", Literal('"ü"')]),
        ('TEXT "ü\\\\"', ["SEARCH CHARSET UTF-8 ", "TEXT ", Literal("ü\\")]),
    ],
)
def test_a_search_for_what_is_not_ascii_has_it_as_a_literal(keys: str, parts: list[str]) -> None:
    found = [part for part in search_command(keys, counted=False, utf8=False) if part]
    merged = ["".join(run) if not literal else next(run) for literal, run in itertools.groupby(found, is_literal)]
    expected = ["".join(run) if not literal else next(run) for literal, run in itertools.groupby(parts, is_literal)]
    assert merged == expected
    assert list(map(is_literal, merged)) == list(map(is_literal, expected))


def is_literal(part: str) -> bool:
    return isinstance(part, Literal)


@pytest.mark.parametrize("keys", ["", " ", "SUBJECT {3}", "SUBJECT {3+}", "BODY {99999}", "a\rb", "a\nb"], ids=ascii)
def test_a_search_cannot_bring_a_literal_or_a_line_of_its_own(keys: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(ImapOptions, {"host": "mx.example.org", "search": keys})
    assert caught.value.option == "search"


# ManageSieve.


@pytest.mark.parametrize(
    ("line", "tokens"),
    [
        ("OK", ("OK",)),
        ('OK "Logged in."', ("OK", "Logged in.")),
        ('"STARTTLS"', ("STARTTLS",)),
        ('"SASL" "PLAIN LOGIN"', ("SASL", "PLAIN LOGIN")),
        ('"SASL" ""', ("SASL", "")),
        (r'"a \"b\" \\" ACTIVE', ('a "b" \\', "ACTIVE")),
        ('NO (QUOTA/MAXSIZE) "large"', ("NO", "(QUOTA/MAXSIZE)", "large")),
        ('OK (SASL "cnNwYXV0aA==")', ("OK", '(SASL "cnNwYXV0aA==")')),
        ('OK (TAG "a ) b") "x"', ("OK", '(TAG "a ) b")', "x")),
        ("", ()),
        ('  "x"  ', ("x",)),
    ],
)
def test_the_tokens_of_sieve_are_texts_and_words(line: str, tokens: tuple[str, ...]) -> None:
    found = sieve.parse_tokens([line])
    assert found == tokens
    for token in found:
        assert isinstance(token, sieve.Word) is (f'"{token}"' not in line and '"b' not in token)


def test_pieces_of_sieve_with_a_literal_between_them_are_one_line() -> None:
    assert sieve.parse_tokens(["NO ", '"line 1: error"', ""]) == ("NO", "line 1: error")


@pytest.mark.parametrize("line", ['"', '"a', '"a\\"', "OK (a", "OK )", 'OK ("a)', 'OK "a" "'])
def test_what_is_no_line_of_sieve_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="does not end"):
        sieve.parse_tokens([line])


# The time of a message.


def ago(seconds: int) -> str:
    return format_datetime(datetime.now(timezone.utc) - timedelta(seconds=seconds))


def age_of(*header: str) -> int | None:
    return mailtime.age_of_message(list(header))


def test_a_message_is_as_old_as_its_topmost_received_field_says() -> None:
    ours, theirs = f"Received: from a by b; {ago(60)}", f"Received: from x by a; {ago(6000)}"
    date = f"Date: {ago(90000)}"
    assert age_of(ours, theirs, date) in (60, 61)
    assert age_of(date, "Subject: x", ours.upper(), theirs) in (60, 61)
    assert age_of("Received: from a by b", " (with x;", f" y) id 1; {ago(60)}", date) in (60, 61)
    assert age_of("Subject: a", " Received: folded", date, ours) in (60, 61)
    assert age_of("Received: from a by b", "\tid 1;", f"\t{ago(60)}", date) in (60, 61), "a tabulator folds, too"


def test_without_a_usable_received_field_the_date_counts() -> None:
    date = f"Date: {ago(600)}"
    assert age_of(date) in (600, 601)
    assert age_of("Received: from a by b", date) in (600, 601)
    assert age_of("Received: from a by b; Monday", date) in (600, 601)
    assert age_of(f"DATE : {ago(600)}") in (600, 601)


def test_a_message_without_a_time_has_no_age() -> None:
    assert age_of() is None
    assert age_of("Subject: x", f"X-Date: {ago(1)}", f"Delivery-Date: {ago(1)}") is None
    assert age_of("Date:", "Received:", "Received: ;") is None
    assert age_of("", f"Date: {ago(1)}") is None, "that is the body"
    assert age_of(f" {ago(1)}", "no field at all") is None


def test_a_message_from_tomorrow_is_new() -> None:
    assert age_of(f"Date: {ago(-86400)}") == 0


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("Fri, 21 Nov 1997 09:55:06 -0600", "1997-11-21T15:55:06+00:00"),  # RFC 5322 A.1.1
        ("21 Nov 97 09:55:06 GMT", "1997-11-21T09:55:06+00:00"),  # RFC 5322 A.6.2
        ("Thu, 13 Feb 1969 23:32 -0330 (Newfoundland Time)", "1969-02-14T03:02:00+00:00"),
        ("Fri, 21 Nov 1997 09:55:06 -0000", "1997-11-21T09:55:06+00:00"),
        ("Fri, 21 Nov 1997 09:55:06", "1997-11-21T09:55:06+00:00"),
        *((text, None) for text in ("", " ", "now", "1997-11-21", "32 Nov 1997 00:00:00 +0000")),
        *((text, None) for text in ("21 Nov 1997 25:00:00 +0000", "21 Nov 99999 00:00:00 +0000", "\0", "1" * 5000)),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_date_is_read_or_there_is_none(text: str, moment: str | None) -> None:
    found = mailtime.parse_date(text)
    assert (found and found.astimezone(timezone.utc).isoformat()) == moment


@pytest.mark.parametrize("text", ["Fri, 21 Nov 1997 09(comment):   55  :  06 -0600", "Fri, 21 Nov 1997", "1 1 1 1 1"])
def test_a_date_that_only_some_pythons_read_makes_no_exception(text: str) -> None:
    mailtime.parse_date(text)


# Texts.

ACTIVE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def test_no_character_of_unicode_stays_active() -> None:
    for start in range(0, 0x110000, 0x1000):
        chunk = "".join(map(chr, range(start, start + 0x1000)))
        shown = printable(chunk)
        assert "|" not in shown
        for character in set(shown):
            category = unicodedata.category(character)
            assert category not in ACTIVE, f"U+{ord(character):04X} {category}"
            assert character == " " or not category.startswith("Z"), f"U+{ord(character):04X} {category}"


def test_every_visible_character_of_unicode_but_the_bar_stays_as_it_is() -> None:
    kept = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code))[0] in "LMNPS" and code != ord("|")]
    assert len(kept) > 100_000
    assert printable("x".join(kept)) == "x".join(kept)


def test_marks_without_end_over_one_letter_do_not_cover_the_lines_of_others() -> None:
    assert (
        printable("Tie\u0302\u0301ng \u05d4\u05b7\u05e9\u05c1\u05bc\u05b8\u0596")
        == "Tie\u0302\u0301ng \u05d4\u05b7\u05e9\u05c1\u05bc\u05b8\u0596"
    )
    shown = printable("a" + "\u0301" * 300 + "b\u0301")
    assert shown == "a" + "\u0301" * MAX_MARKS + r"\u0301" * (300 - MAX_MARKS) + "b\u0301"


def test_what_printable_has_escaped_it_leaves_alone() -> None:
    for text in ("\0\x1b[31m|\x7f\u2028\u202e\ud800\U000e0001", "a\tb", "\\x1b"):
        assert printable(printable(text)) == printable(text)


def test_escapes_tell_which_character_was_there() -> None:
    assert printable("\x1b|\r\n\x7f\x9b") == r"\x1b\x7c\x0d\x0a\x7f\x9b"
    assert printable("\u2028\u202e\udc80\ufeff") == r"\u2028\u202e\udc80\ufeff"
    assert printable("\U000e0001") == r"\U000e0001"
    assert printable("a\tb c") == "a b c"


@pytest.mark.parametrize("character", ["x", "ü", "\0", "\u202e", "\U000e0001", "|"], ids=ascii)
def test_a_limited_text_is_never_longer_than_its_limit_escapes_included(character: str) -> None:
    for length, limit in itertools.product((0, 1, 5, 79, 80, 81, 500), (1, 5, 80)):
        assert len(printable(character * length, limit=limit)) <= limit


def test_a_text_within_its_limit_is_not_cut() -> None:
    assert printable("x" * 80, limit=80) == "x" * 80
    assert printable("x" * 81, limit=80) == "x" * 79 + "…"


# Secrets.

SECRETS = [
    "secret",
    'pa"ss \\ w%20rd & <ü> 1',
    "pass word: \"\\ü%&<'",
    "ÄÖÜß",
    "abcd",
    "a+b/c=d",
    "x" * 100,
    "密码密码",
]


def forms(secret: str) -> set[str]:
    """What a server may make of a secret; each form is written down here anew, not taken from the core."""
    octets = secret.encode()
    return {
        secret,
        octets.hex(),
        octets.hex().upper(),
        json.dumps(secret)[1:-1],
        secret.replace("\\", "\\\\").replace('"', '\\"'),  # IMAP's quoted string
        urllib.parse.quote(secret, safe=""),
        urllib.parse.quote_plus(secret),
        urllib.parse.quote_plus(secret).lower(),
        html.escape(secret),
        html.escape(secret, quote=False),
    }


@pytest.mark.parametrize("secret", SECRETS)
def test_every_form_of_a_secret_is_blotted_out_wherever_it_stands(secret: str) -> None:
    blot = Blotter([secret])
    for form in forms(secret):
        assert blot(form) == "***", form
        assert blot(f"501 <{form}> is wrong, {form}!") == "501 <***> is wrong, ***!", form


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_blotted_out_of_base64_at_every_alignment(secret: str) -> None:
    octets = secret.encode()
    blot = Blotter([secret])
    for before, behind in itertools.product(range(7), range(7)):
        encoded = base64.b64encode(b"\0" * before + octets + b"\xff" * behind).decode()
        # The characters that nothing but the secret determines: whole groups of six bits inside of its octets.
        inside = [i for i in range(len(encoded)) if 6 * i >= 8 * before and 6 * i + 6 <= 8 * (before + len(octets))]
        known = encoded[inside[0] : inside[-1] + 1]
        blotted = blot(encoded)
        assert known not in blotted
        assert blotted == f"{encoded[: inside[0]]}***{encoded[inside[-1] + 1 :]}"


def test_a_secret_is_blotted_out_of_the_initial_response_of_plain() -> None:
    for name in ("", "a", "ab", "abc", "user@example.test"):
        response = base64.b64encode(f"\0{name}\0secret99".encode()).decode()
        assert "c2VjcmV0" not in Blotter(["secret99"])(response)
        assert response[-8:-4] not in Blotter(["secret99"])(response)


def test_where_one_secret_holds_another_nothing_of_the_longer_one_stays() -> None:
    assert Blotter(["pass", "password1"])("x password1 x pass x") == "x *** x *** x"


def test_a_text_without_a_secret_stays_as_it_is() -> None:
    text = "250-mx.example.org SIZE 10240000 AUTH PLAIN LOGIN"
    assert Blotter([])(text) == text
    assert Blotter(["", "2"])(text) == text  # so short that it would blot out every reply code
    assert Blotter(["secret"])(text) == text


# Options.


def options(**values: object) -> SmtpOptions:
    return read(SmtpOptions, {"host": "mx.example.org", **values})


def refused(**values: object) -> UsageError:
    with pytest.raises(UsageError) as caught:
        options(**values)
    return caught.value


def test_an_unknown_option_is_refused_with_the_nearest_that_there_is() -> None:
    error = refused(rcpt_too=["a@example.org"])
    assert error.option == "rcpt_too"
    assert "did you mean rcpt_to?" in error.words
    assert "did you mean" not in refused(zzzzzz=1).words


def test_a_missing_host_is_refused() -> None:
    for values in ({}, {"host": None}):
        with pytest.raises(UsageError, match="host: is missing"):
            read(SmtpOptions, values)


def test_none_means_not_given_for_every_option() -> None:
    nothing = {declared.name: None for declared in declarations(SmtpOptions) if not declared.required}
    assert options(**nothing) == options()


WRONG_TYPES = {
    "str": [1, 1.0, True, ["x"], b"x", {}],
    "int": ["25", 25.0, True, False, [25]],
    "float": ["10", True, None.__class__, [10]],
    "bool": ["yes", "true", 1, 0, []],
}


@pytest.mark.parametrize("declared", declarations(SmtpOptions), ids=lambda declared: declared.name)
def test_an_option_takes_values_of_its_own_type_only(declared: Declaration) -> None:
    for value in WRONG_TYPES[declared.kind]:
        given = [value] if declared.many else value
        assert refused(**{declared.name: given}).option == declared.name
    if declared.many:
        for value in ("x", 1, {"x": 1}, True):
            error = refused(**{declared.name: value})
            assert (error.option, error.words) == (declared.name, "is not a list")


def test_a_wrong_value_in_a_list_is_named_by_its_place() -> None:
    assert "value 2: " in refused(rcpt_to=["a@example.org", "b"]).words
    assert "value 2: " in refused(command=["NOOP", 1]).words


def test_a_secret_does_not_appear_in_what_is_said_about_it_nor_in_the_options_text() -> None:
    for secret in ("geheim\0", "geheim" * 1000, "geheim\ud800"):
        error = refused(username="u", password=secret, tls="starttls")
        assert error.option == "password"
        assert "geheim" not in str(error)
    assert "geheim" not in repr(options(username="u", password="geheim", tls="starttls"))


def test_whole_numbers_are_taken_where_a_number_is_asked_for() -> None:
    assert options(timeout=3).timeout == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 0, 0.0, -1, 0.09, 86401, 1e300])
def test_a_time_limit_is_finite_and_neither_too_short_nor_too_long(value: float) -> None:
    assert refused(timeout=value).option == "timeout"


@pytest.mark.parametrize(
    ("values", "port"),
    [
        ({}, 25),
        ({"tls": "starttls"}, 25),
        ({"tls": "starttls", "username": "u", "password": "p"}, 587),
        ({"tls": "implicit"}, 465),
        ({"tls": "implicit", "username": "u", "password": "p"}, 465),
        ({"username": "u", "password": "p", "allow_plaintext_login": True}, 25),
        ({"lmtp": True}, 24),
        ({"lmtp": True, "tls": "starttls"}, 24),
        ({"port": 2525}, 2525),
        ({"port": 2525, "lmtp": True}, 2525),
        ({"port": 1, "tls": "implicit"}, 1),
        ({"port": 65535}, 65535),
        ({"host": "/run/lmtp"}, None),
        ({"host": "/run/lmtp", "lmtp": True}, None),
    ],
)
def test_the_port_follows_from_the_mode_unless_it_is_given(values: dict[str, object], port: int | None) -> None:
    assert options(**values).effective_port == port


@pytest.mark.parametrize(
    "address",
    [
        *("postmaster", "Postmaster", "a@example.org", "<a@example.org>", "a.b+c@sub.example.org", "a@localhost"),
        *("a@[192.0.2.1]", "a@[IPv6:2001:db8::1]", '"a,b"@example.org', "!#$%&'*+/=?^_`{|}~-@x.org"),
    ],
)
def test_a_plain_address_is_accepted(address: str) -> None:
    assert options(rcpt_to=[address], mail_from=address).rcpt_to == (address,)


@pytest.mark.parametrize("sender", ["", "<>"])
def test_the_null_sender_is_accepted(sender: str) -> None:
    assert options(mail_from=sender).mail_from == sender


# The mechanisms.

TIM = Credentials("tim", "tanstaaftanstaaf")


def exchange_of(mechanism: str, login: Credentials) -> Exchange:
    begin = MECHANISMS[mechanism].exchange
    assert begin is not None
    return begin(login)


def test_the_strongest_mechanism_is_chosen_unless_one_is_named() -> None:
    assert choose(["login", "plain", "cram-md5"], None, TIM) == "CRAM-MD5"
    assert choose(["LOGIN", "PLAIN"], None, TIM) == "PLAIN"
    assert choose(["LOGIN", "XOAUTH2"], None, TIM) == "LOGIN"
    assert choose(["LOGIN", "PLAIN", "CRAM-MD5"], "LOGIN", TIM) == "LOGIN"
    assert choose(["PLAIN"], "LOGIN", TIM) is None
    assert choose(["XOAUTH2"], None, TIM) is None
    assert choose([], None, TIM) is None


def test_cram_md5_computes_the_example_of_its_rfc() -> None:
    exchange = exchange_of("CRAM-MD5", TIM)
    assert next(exchange) is None
    assert exchange.send(b"<1896.697170952@postoffice.reston.mci.net>") == b"tim b913a602c7eda7a495b4e6e7334d3890"


def test_plain_computes_the_example_of_its_rfc() -> None:
    assert next(exchange_of("PLAIN", TIM)) == b"\0tim\0tanstaaftanstaaf"


# RFC 5802 5 and RFC 7677 3: the nonce of the client, what the server says first, and what both say last.
SCRAM_EXAMPLES = {
    "SCRAM-SHA-1": (
        "fyko+d2lbbFgONRv9qkxdawL",
        "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
        "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ),
    "SCRAM-SHA-256": (
        "rOprNGfwEbeRWgbNEkqO",
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ),
}


def scram(mechanism: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Exchange, list[str]]:
    nonce, *lines = SCRAM_EXAMPLES[mechanism]
    monkeypatch.setattr("mailprobe.sasl.secrets.token_urlsafe", lambda size: nonce)
    exchange = exchange_of(mechanism, Credentials("user", "pencil"))
    assert next(exchange) == f"n,,n=user,r={nonce}".encode()
    return exchange, lines


@pytest.mark.parametrize("mechanism", SCRAM_EXAMPLES)
def test_scram_computes_the_example_of_its_rfc(mechanism: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange, (challenge, answer, proof) = scram(mechanism, monkeypatch)
    assert exchange.send(challenge.encode()) == answer.encode()
    assert exchange.send(proof.encode()) == b""


@pytest.mark.parametrize("proof", ["", "v=", "v=AAAA", "v=%", "e=other-error", "rmF9pqV8S7suAoZWja4dJRkFsKQ="])
def test_scram_believes_no_server_without_its_proof(proof: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange, (challenge, *dummy) = scram("SCRAM-SHA-1", monkeypatch)
    exchange.send(challenge.encode())
    with pytest.raises(ServerFault):
        exchange.send(proof.encode())


@pytest.mark.parametrize(
    "change",
    [
        ("i=4096", "i=2147483647"),
        ("i=4096", "i=0"),
        ("i=4096", "i=-1"),
        ("i=4096", "i=99999999999999999999"),
        ("r=fyko+d2lbbFgONRv9qkxdawL3rfc", "r=somebodyelse"),
        ("3rfcNHYJY1ZVvWVs7j", ""),
        ("s=QSXCR+Q6sek8bf92", "s=Q"),
        ("r=", "m=ext,r="),
    ],
)
def test_scram_refuses_a_challenge_that_is_none_or_costs_too_much(
    change: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange, (challenge, *dummy) = scram("SCRAM-SHA-1", monkeypatch)
    started = time.process_time()
    with pytest.raises(ServerFault):
        exchange.send(challenge.replace(*change).encode())
    assert time.process_time() - started < 1


def test_saslprep_maps_and_refuses_as_its_rfc_says() -> None:
    assert saslprep("I\u00adX") == "IX"
    assert saslprep("USER") == "USER"
    assert saslprep("\u00aa") == "a"
    assert saslprep("\u2168") == "IX"
    with pytest.raises(ValueError, match="SASLprep"):
        saslprep("\u0007")


# The deadline.


def test_a_deadline_gives_less_and_less_time_and_then_none() -> None:
    deadline = Deadline(0.05)
    assert 0 < deadline.remaining() <= 0.05
    before = deadline.left()
    time.sleep(0.01)
    assert deadline.left() < before
    time.sleep(0.05)
    assert deadline.left() < 0
    with pytest.raises(socket.timeout):
        deadline.remaining()


# The message on the wire.

PIECES = ("", ".", "..", ".a", "a", "a.", " .", "ü", "From x")
ENDS = ("\n", "\r\n", "\r")


def wire(body: str, subject: str = "s", sender: str = "a@example.org") -> bytes:
    return on_the_wire(compose(sender, ["b@example.org"], "host.example.org", subject, body))


def received(data: bytes) -> bytes:
    """What a server makes of it (RFC 5321 4.5.2)."""
    lines = data.split(b"\r\n")
    assert lines.pop() == b"", "the last line has no end"
    assert b"." not in lines, "a line with nothing but a dot would end the message"
    return b"".join((line[1:] if line.startswith(b".") else line) + b"\r\n" for line in lines)


def body_of(data: bytes) -> str:
    message = message_from_bytes(received(data), policy=SMTP_POLICY)
    content = message.get_content()
    assert isinstance(content, str)
    return content.replace("\r\n", "\n")


def test_dots_are_doubled_and_line_ends_are_crlf_whatever_the_body() -> None:
    for pieces, end in itertools.product(itertools.product(PIECES, repeat=3), ENDS):
        body = end.join(pieces)
        data = wire(body)
        assert not re.search(rb"(?<!\r)\n|\r(?!\n)", data), repr(body)
        assert body_of(data).rstrip("\n") == "\n".join(pieces).rstrip("\n"), repr(body)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "ü",
        "ü\nü",
        "ü" * 2000,
        "x" * 998,
        "x" * 10_000,
        ("x" * 2000 + "\n") * 3,
        ".",
        "\u2028.\u2029x",
        "密码",
        "a\tb",
    ],
    ids=lambda body: ascii(body[:12]),
)
def test_a_message_is_ascii_in_lines_that_every_server_takes(body: str) -> None:
    data = wire(body)
    assert data.isascii(), "8 bits need an extension that not every server has (RFC 6152)"
    assert max(len(line) for line in data.split(b"\r\n")) <= 998
    assert body_of(data).rstrip("\n") == body.rstrip("\n")


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "plain",
        "ümlaut",
        "ü" * 300,
        "x" * 2000,
        "a\tb",
        " leading",
        "密码",
        "\U0001f600" * 50,
    ],
    ids=lambda subject: ascii(subject[:12]),
)
def test_any_subject_makes_a_message(subject: str) -> None:
    data = wire("body", subject)
    assert data.isascii()
    assert max(len(line) for line in data.split(b"\r\n")) <= 998
    assert body_of(data) == "body\n"


@pytest.mark.parametrize(
    ("sender", "expected"),
    [
        ("a@example.org", "a@example.org"),
        ("", "mailprobe@host.example.org"),
        ("postmaster", "postmaster@host.example.org"),
    ],
)
def test_from_is_a_whole_address_whatever_the_sender(sender: str, expected: str) -> None:
    message = message_from_bytes(received(wire("body", sender=sender)), policy=SMTP_POLICY)
    assert message["From"] == expected


@pytest.mark.parametrize("host", ["[127.0.0.1]", "[IPv6:::1]", "x" * 255, "a_b.example.org"])
def test_a_long_or_odd_host_does_not_break_the_message_id(host: str) -> None:
    message = message_from_bytes(on_the_wire(compose("", ["b@example.org"], host, "s", "b")), policy=SMTP_POLICY)
    assert re.fullmatch(rf"<[^<>@]+@{re.escape(host)}>", str(message["Message-ID"]).strip())


# The report.


def test_a_report_has_all_its_keys_when_nothing_is_known() -> None:
    report = Report("smtp", "mx.example.org", 25, SmtpFacts()).to_dict()
    assert set(report["timings"]) == {stage.value for stage in Stage}
    assert set(report["timings"].values()) == {None}
    assert report["problems"] == report["notes"] == report["transcript"] == []
    assert report["certificate"]["days_left"] is None
    assert report["tls"]["verified"] is False
    assert report["facts"]["capabilities"] == []
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize(
    ("host", "port", "where"),
    [
        ("mx.example.org", 25, "mx.example.org:25"),
        ("2001:db8::1", 25, "[2001:db8::1]:25"),
        ("[2001:db8::1]", 25, "[2001:db8::1]:25"),
        ("/run/lmtp", None, "/run/lmtp"),
    ],
)
def test_a_place_is_written_as_people_write_it(host: str, port: int | None, where: str) -> None:
    assert Report("smtp", host, port, SmtpFacts()).where == where


def test_every_code_is_one_lower_case_word_and_has_a_hint_of_one_line() -> None:
    assert set(HINTS) == set(Code)
    for code, hint in HINTS.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", code.value)
        assert printable(hint) == hint
        assert hint.endswith((".", ")", "?")), code


def test_the_readme_has_exactly_the_codes_and_hints_that_there_are() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    table = readme.partition("<!-- codes -->")[2].partition("<!-- /codes -->")[0]
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", table, re.MULTILINE)
    assert rows == [(code.value, HINTS[code]) for code in Code]


# The house.


def run_python(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("module", MODULES)
def test_a_core_module_can_be_imported_where_there_is_nothing_but_python(module: str) -> None:
    # -S: the directories of installed packages are not searched.
    done = run_python(f"import sys; sys.path.insert(0, {str(CORE.parent)!r}); import mailprobe.{module}", "-I", "-S")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", MODULES)
def test_importing_a_core_module_does_not_import_what_costs(module: str) -> None:
    code = f"import sys, mailprobe.{module}; print(*(name for name in sys.modules if '.' not in name))"
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    costly = {"cryptography", "nagiosplugin", "dns", "ansible", "asyncio"}
    if module != "message":  # imported when a message is sent, and then it is what is needed
        costly.add("email")
    assert not costly & set(done.stdout.split())


def test_the_package_itself_is_empty() -> None:
    assert (CORE / "__init__.py").stat().st_size == 0


@pytest.mark.parametrize("module", ["__init__", *MODULES])
def test_the_core_neither_prints_nor_asserts_nor_ends_the_program_nor_starts_another(module: str) -> None:
    tree = ast.parse((CORE / f"{module}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        where = f"{module}.py:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Assert), where
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"print", "input", "exit", "quit", "eval", "exec", "__import__"}, where
            assert called not in {"sys.exit", "os._exit", "os.system", "socket.setdefaulttimeout"}, where
        if isinstance(node, ast.Import):
            imported = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported = {(node.module or "").partition(".")[0]} if not node.level else set()
            assert node.level <= 1, where
        else:
            continue
        assert not imported & {
            "subprocess",
            "importlib",
            "signal",
            "asyncio",
            "nagiosplugin",
            "ansible",
            "mailprobe",
        }, where


@pytest.mark.parametrize("module", MODULES)
def test_a_core_module_imports_cryptography_and_dnspython_in_one_place_and_late(module: str) -> None:
    tree = ast.parse((CORE / f"{module}.py").read_text(encoding="utf-8"))
    allowed = {"certificate": {"cryptography"}, "lookup": {"dns"}}.get(module, set())
    at_the_top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        costly = {name.partition(".")[0] for name in names} & {"cryptography", "dns"}
        assert costly <= allowed
        assert not costly or id(node) not in at_the_top


def test_no_core_file_has_the_name_of_a_module_that_it_would_shadow() -> None:
    assert not {"dns", "ssl", "email", "socket", "signal", "queue", "select"} & set(MODULES)


def test_the_sources_of_the_core_are_ascii_but_for_what_people_read() -> None:
    for path in sorted(Path(CORE).glob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert not [c for c in text if unicodedata.category(c) in ACTIVE and c != "\n"], path.name


def test_a_secret_that_looks_like_a_reply_code_is_blotted_out_like_any_other() -> None:
    blot = Blotter(["345-hunter2-secret"])
    assert blot("535 5.7.8 wrong password 345-hunter2-secret") == "535 5.7.8 wrong password ***"
    assert blot("<-  535-345-hunter2-\n<-  535 secret") == "<-  535-***"


def test_a_secret_that_is_spread_over_the_words_of_a_fact_is_blotted_out() -> None:
    report = Report("smtp", "host", 25, SmtpFacts(capabilities=["SIZE 1", "correct horse", "battery", "HELP"]))
    report.clean(Blotter(["correct horse battery"]))
    assert report.facts.capabilities == ["SIZE 1", "***", "HELP"]
