"""Each format of the report says what the checks found, and nothing that a server says becomes more than text in it."""

from __future__ import annotations

import copy
import dataclasses
import html
import json
import math
import re
import string
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from lxml import etree
from markdown_it import MarkdownIt
from prometheus_client.parser import text_string_to_metric_families

from mailprobe.codes import HINTS, Code
from nagios_checks.report.formats import FORMATS, Choices, render
from nagios_checks.report.formats.page import MAX_HEALTHY
from nagios_checks.report.formats.view import MAX_FINDINGS, cell
from nagios_checks.report.outcome import Finding, Health, Measurement, Outcome, Past, dumped

from . import outcomes
from .outcomes import NOW, demo_outcomes, health, outcome, past
from .scripted import Scripted

PEOPLE = ("text", "html", "markdown")
SCHEMA = json.loads(
    (Path(__file__).parent.parent / "nagios_checks/report/formats/report.schema.json").read_text(encoding="utf-8")
)
JUNIT = etree.XMLSchema(etree.parse(str(Path(__file__).with_name("junit.xsd"))))

# What a server may say: markup of each format, formulas, directives, escapes, and characters that XML forbids.
EVIL = (
    '"><img src=x onerror=alert(1)>',
    "<script>alert(1)</script>",
    "</style></svg><svg/onload=alert(1)>",
    "]]><!-- &lt;b&gt; &amp;",
    "{{ 7*7 }} {% raw %} %(x)s %n {0.__class__}",
    "=cmd|' /C calc'!A0",
    "+1 | -1 | @SUM(A1)",
    "-2+3",
    "\uff1d1+1",
    "[x](javascript:alert(1)) ![y](http://evil.example/y.png) <http://evil.example>",
    "`` ` ``` **bold** _it_ ~~gone~~ # not a heading",
    "@everyone #1 owner/repo#2 www.evil.example http://evil.example deadbeefdeadbeef :smile: $x$",
    "| --- | a\tb\n| c |\r\n\r\n# heading\n- item\n```\n",
    "\x1b]0;title\x07\x1b[2J\x9b31m\x00\x08\x7f",
    "\u202eright to left\u2066\u200b\ufeff\u2028\ud800\ufffe\uffff",
    "From me\n.\nSubject: x",
    '# TYPE x counter\nx 1\n\\n"} 1',
    "x" * 5000,
    "\u00fcber \u6f22\u5b57 \U0001f600 a\u0301\u0302",
)


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    return demo_outcomes(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def eight(seven: list[Outcome]) -> Health:
    return outcomes.eight(seven)


def written(format_name: str, run: Health, **choices: bool) -> str:
    return "".join(render(format_name, run, Choices(**choices)))


def ill(text: str) -> Outcome:
    """An outcome that has this text wherever there is one at all, in the report, too."""
    report: dict[str, Any] = {
        "elapsed": 1.5,
        "timings": {"connect": 0.5, "tls": None, "greeting": 1.0},
        "address": text,
        "notes": [text],
        "tls": {"version": text, "cipher": text, "verified": False, "verify_error": text},
        "certificate": {
            "subject": text,
            "issuer": text,
            "names": [text, text],
            "not_after": "2026-12-01T00:00:00+00:00",
            "days_left": 7,
        },
        "chain": [{}, {"subject": text, "issuer": text, "not_after": "2030-01-01T00:00:00+00:00", "days_left": 1135}],
        "facts": {"banner": text, "login": text, "mechanism": text, "capabilities": [text]},
        "transcript": [text, f"<-  {text}"],
    }
    report["addresses"] = [{"address": text, "state": "critical", "certificate": report["certificate"]}, {}]
    return Outcome(
        name=text,
        protocol=text,
        where=text,
        state="critical",
        summary=text,
        group=text,
        findings=[
            Finding("critical", text, text, text, HINTS[Code.CERTIFICATE_EXPIRED], text),
            Finding("warning", text, text),
        ],
        measurements=[Measurement(text, 1.0, ""), Measurement("unseen_INBOX", 2.0), Measurement("time", 1.5, "s")],
        perfdata=[text],
        document=dumped(report),
        past=past("critical", flapping=True),
    )


def ill_run(text: str) -> Health:
    """A run of such checks; the second has less, as after a bug of ours."""
    bug = Outcome(text, text, text, "unknown", text, text)
    run = health([ill(text), bug, dataclasses.replace(ill(text), state="ok", findings=[])], text)
    run.title = text
    return run


# Text.


def test_text_begins_with_state_and_counts(eight: Health) -> None:
    first, second, note = written("text", eight).splitlines()[:3]
    assert first == "CRITICAL - 2 critical, 2 warning, 1 unknown, 3 ok"
    assert second == "2026-11-23 17:10 UTC, in 3.21 s: Mail of example.org"
    assert note == "Note: the history file is read-only: nothing was written to it"


def test_text_tells_of_a_problem_what_where_since_when_and_what_to_do(eight: Health) -> None:
    blocks = written("text", eight).split("\n\n")
    expired = re.sub(r"expired on \S+", "expired on THAT-DAY", re.sub(r":\d+\)", ":25)", blocks[1]))
    assert expired.splitlines() == [
        "CRITICAL  mx: old relay (smtp, localhost:25)",
        "          New in this run, OK before.",
        "          * certificate not accepted: certificate has expired; the certificate",
        "            expired on THAT-DAY [certificate-expired, at tls]",
        "            What to do: Renew the certificate; if that was done, reload the",
        "            service, it still uses the old one.",
    ]
    refused = " ".join(blocks[2].split())
    assert "Since 2026-11-20 15:10 UTC (3 days)." in refused
    assert "What to do: Nothing listens on that port" in refused
    assert "flapping: 3 changes of state since 2026-11-17 17:10 UTC" in " ".join(blocks[3].split())
    assert "[time]" in blocks[4]
    assert "internal error: KeyError: 'x'" in blocks[5]


def test_text_has_the_worst_first_and_then_the_order_of_the_file(eight: Health) -> None:
    heads = re.findall(r"^([A-Z]+)  +(?:mx: )?([^(]+) \(", written("text", eight, all=True), re.MULTILINE)
    assert heads == [
        ("CRITICAL", "old relay"),
        ("CRITICAL", "backup"),
        ("WARNING", "busy relay"),
        ("WARNING", "submission"),
        ("UNKNOWN", "a bug of ours"),
        ("OK", "inbound mail"),
        ("OK", "pop3 mailbox"),
        ("OK", "webmail's mailboxes"),
    ]


def test_text_without_all_tells_of_healthy_checks_only_that_they_are_well_again(eight: Health) -> None:
    healthy = [line for line in written("text", eight).splitlines() if line.startswith("OK ")]
    assert [re.sub(r":\d+\)", ":110)", line) for line in healthy] == [
        "OK        pop3 mailbox (pop3, localhost:110): well again, WARNING before"
    ]
    assert len(re.findall("^OK ", written("text", eight, all=True), re.MULTILINE)) == 3


@pytest.mark.parametrize("format_name", PEOPLE)
def test_of_hundreds_of_findings_the_first_are_shown_and_the_others_counted(format_name: str) -> None:
    findings = [Finding("critical", "recipient-refused", f"no such user {number}") for number in range(300)]
    shown = html.unescape(written(format_name, health([Outcome("x", "smtp", "mx:25", "critical", "", None, findings)])))
    assert len(re.findall(r"no such user \d+", shown)) == MAX_FINDINGS
    assert f"and {300 - MAX_FINDINGS} more" in shown.lower()


@pytest.mark.parametrize("text", EVIL)
def test_text_is_ascii_in_78_columns_whatever_a_server_says(text: str) -> None:
    shown = written("text", ill_run(text), all=True)
    assert set(shown) <= set(string.printable) - set("\t\r\v\f")
    assert "|" not in shown
    for line in shown.splitlines():
        assert len(line) <= 78
        assert not line.startswith(("From ", ".", "=", "+", "-", "@"))


# All formats.


def test_a_run_without_checks_is_unknown_in_every_format() -> None:
    run = health([])
    assert written("text", run).startswith("UNKNOWN - nothing was checked\n")
    assert "# `Mail of example.org`: UNKNOWN" in written("markdown", run)
    assert "Nothing was checked." in written("html", run)
    assert json.loads(written("json", run))["exit_code"] == 3
    JUNIT.assertValid(etree.fromstring(written("junit", run).encode()))
    assert samples(written("prometheus", run))[("mailprobe_checks", (("state", "unknown"),))] == 0


def test_the_formats_are_loaded_only_when_they_are_used() -> None:
    words = (
        "import sys, nagios_checks.report.formats as f; late = ('jinja2', 'prometheus_client', 'xml.etree');"
        "print(*(module for module in late if module in sys.modules), list(f.FORMATS))"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout == "['text', 'html', 'markdown', 'json', 'junit', 'prometheus']\n"


def test_times_are_told_in_the_zone_of_the_run(eight: Health) -> None:
    run = dataclasses.replace(eight, started=NOW.astimezone(timezone(timedelta(hours=1), "CET")))
    for format_name in PEOPLE:
        shown = written(format_name, run)
        assert "2026-11-23 18:10 CET" in shown
        assert "2026-11-20 16:10 CET" in shown
    assert json.loads(written("json", run))["started"] == "2026-11-23T17:10:00+00:00"


@pytest.mark.parametrize("format_name", FORMATS)
def test_what_a_format_writes_can_be_encoded_and_has_no_control_characters(format_name: str) -> None:
    for text in EVIL:
        shown = written(format_name, ill_run(text), all=True)
        shown.encode("utf-8")
        assert not re.search(
            "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff]", shown
        )


def test_a_server_that_is_asked_for_real_and_says_markup_is_quoted(tmp_path: Path) -> None:
    words = '220 <script>alert("x")</script> =cmd|x @everyone \\x1b[31m'
    with Scripted(f"S: {words}\nC: EHLO *\nS: 550 <img src=x onerror=alert(1)>\n== any\n") as server:
        found = outcome("evil", "smtp", "-H", "127.0.0.1", "-p", server.port, "--timeout", "5")
    assert found.state == "critical"
    run = health([found])
    shown = {name: written(name, run, all=True) for name in FORMATS}
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in shown["html"]
    assert "<script" not in shown["html"]
    assert "<img" not in shown["html"] + shown["json"] + shown["junit"]
    assert "<img src=x onerror=alert(1)>" in shown["text"]  # a mail in plain text quotes it as it is
    assert json.loads(shown["json"])["checks"][0]["report"]["transcript"] == found.report["transcript"]


# The page.


class Skeleton(HTMLParser):
    """All tags of a page with their attributes, less the values that tell of a check by its name."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[object] = []
        self.values: dict[str, list[str]] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, [(name, value if name != "aria-label" else "") for name, value in attrs]))
        for name, value in attrs:
            self.values.setdefault(name, []).append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(tag)

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")

    def handle_pi(self, data: str) -> None:
        self.tags.append("instruction")


@pytest.mark.parametrize("text", EVIL)
def test_tags_and_attributes_of_the_page_are_the_same_whatever_a_server_says(text: str) -> None:
    harmless, hostile = (Skeleton(written("html", ill_run(words))) for words in ("good morning", text))
    assert hostile.tags == harmless.tags


def test_the_page_has_no_script_and_no_style_but_its_own_and_loads_nothing(eight: Health) -> None:
    page = Skeleton(written("html", eight))
    names = {tag[0] for tag in page.tags if isinstance(tag, tuple)}
    assert not names & {"script", "iframe", "object", "embed", "img", "base", "form", "audio", "video", "image"}
    assert not [name for name in page.values if name.startswith("on") or name in ("style", "src", "action", "srcset")]
    assert all(re.fullmatch(r"#[a-z0-9-]+|data:,", value) for value in page.values["href"])
    assert len([tag for tag in page.tags if isinstance(tag, tuple) and tag[0] == "style"]) == 1
    policy = next(value for value in page.values["content"] if "default-src" in value)
    assert re.sub("sha256-[A-Za-z0-9+/]{43}=", "HASH", policy) == (
        "default-src 'none'; style-src 'HASH'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def test_every_link_of_the_page_has_its_target_and_no_name_is_given_twice(eight: Health) -> None:
    values = Skeleton(written("html", eight)).values
    assert {value[1:] for value in values["href"] if value.startswith("#")} <= set(values["id"])
    assert {name for value in values["aria-labelledby"] for name in value.split()} <= set(values["id"])
    assert max(Counter(values["id"]).values()) == 1


def plain(page: str) -> str:
    """What a reader sees of a page, tags left out."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)))


def test_the_page_tells_all_of_a_check(eight: Health) -> None:
    shown = plain(written("html", eight))
    assert "2 critical, 2 warning, 1 unknown, 3 ok - Mail of example.org" in shown
    assert "What to do: Renew the certificate; if that was done, reload the service" in shown
    assert "new in this run, OK before" in shown
    assert "flapping: 3 changes of state since" in shown
    assert re.search(r"Time: \d+ ms now, from 120 ms to 2.42 s in 200 runs since 2026-11-15 10:10 UTC", shown)
    assert "*** certificate not accepted: certificate has expired" in shown
    assert "size limit 10 MiB" in shown
    for stage in ("connect", "greeting", "tls"):
        assert re.search(rf" {stage} (\d+|< 1) ms", shown)


def test_certificates_are_told_once_each_and_the_first_to_expire_is_on_top(seven: list[Outcome]) -> None:
    chained = copy.deepcopy(seven[0])
    issuer = {"subject": "CN=Middle CA", "issuer": "CN=Root", "not_after": "2026-12-24T00:00:00+00:00", "days_left": 30}
    chained.document = dumped({**chained.report, "chain": [chained.report["certificate"], issuer]})
    page = written("html", health([*seven, chained]))
    table = re.search('<table class="certificates.*?</table>', page, re.DOTALL)
    assert table
    rows = re.findall(r"<tr.*?</tr>", table[0], re.DOTALL)[1:]
    assert [re.sub(r"\s+", " ", plain(row)).strip() for row in rows] == [
        f"expired 4 days ago {expiry(seven[1])} localhost issued by {issuer_of(seven[1])} old relay",
        "30 days 2026-12-24 CN=Middle CA intermediate certificate, issued by CN=Root inbound mail",
        f"59 days {expiry(seven[0])} localhost issued by {issuer_of(seven[0])}"
        " submission , inbound mail , pop3 mailbox , webmail's mailboxes , inbound mail",
    ]


def expiry(found: Outcome) -> str:
    return str(found.report["certificate"]["not_after"])[:10]


def issuer_of(found: Outcome) -> str:
    return str(found.report["certificate"]["issuer"])


def test_of_thousands_of_healthy_checks_the_page_has_a_row_each_but_no_details(seven: list[Outcome]) -> None:
    run = health([dataclasses.replace(seven[0], name=f"check {number}") for number in range(2000)])
    page = written("html", run)
    assert page.count('<tr role="row" class="is-ok">') == 2000
    assert page.count('<details class="check"') == MAX_HEALTHY
    assert f"and {2000 - MAX_HEALTHY} more: the json format has them all" in page
    links = Skeleton(page).values
    assert {value[1:] for value in links["href"] if value.startswith("#")} <= set(links["id"])


def test_a_trend_of_any_numbers_makes_a_chart_inside_its_frame() -> None:
    values = [0.0, 1e-300, 1e308, math.inf, math.nan, -5.0, 0.0]
    trend = [(NOW, value) for value in values]
    made = Past(NOW, "ok", trends={"time": trend, "certificate_days": [(NOW, -1.0), (NOW, 0.0)]})
    page = written("html", health([Outcome("x", "smtp", "mx:25", "ok", "", past=made)]))
    points = [float(number) for line in re.findall('points="([^"]*)"', page) for number in re.split("[ ,]", line)]
    assert len(points) == 2 * (5 + 2)
    assert [point for point in points if not 0 <= point <= 100] == []


# Markdown.


def rendered(source: str) -> tuple[list[str], str, str]:
    """The tags of a rendered Markdown document, its text outside of code, and that inside."""
    tags: list[str] = []
    inside, outside = [], []
    for token in walk(MarkdownIt("gfm-like", {"html": True}).parse(source)):
        if token.tag:
            tags.append(token.tag)
        if token.type in ("html_block", "html_inline", "fence", "code_block"):
            tags.append(token.type)
        (inside if token.type == "code_inline" else outside).append(token.content if not token.children else "")
    return tags, " ".join(outside), " ".join(inside)


def walk(tokens: Any) -> Iterator[Any]:
    for token in tokens:
        yield token
        yield from walk(token.children or [])


@pytest.mark.parametrize("text", EVIL)
def test_markdown_renders_to_the_same_document_whatever_a_server_says(text: str) -> None:
    harmless, _, _ = rendered(written("markdown", ill_run("good.morning"), all=True))
    hostile, outside, inside = rendered(written("markdown", ill_run(text), all=True))
    assert hostile == harmless
    assert not set(hostile) & {"a", "img", "em", "s", "html_block", "html_inline", "fence", "code_block", "del"}
    assert not re.search(r"@|#|://|www\.|evil|deadbeef|:smile|\$|alert", outside)
    for word in inside.split("  "):
        assert not word.startswith(tuple("=+-@"))


def test_names_are_plain_in_markdown_only_where_nothing_finds_anything_in_them() -> None:
    plain_names = ("inbound mail", "Posteingang Büro 2", "mx (backup), old", "webmail's mailboxes")
    code_names = ("mx.example.org", "a_b_c", "@all", "#12", "deadbeef", "-x", "(x", "x*y*", "1. x", "a@b", "x" * 101)
    for name in (*plain_names, *code_names):
        source = written("markdown", health([Outcome(name, "smtp", "mx:25", "critical", "")]))
        heading = next(line for line in source.splitlines() if line.startswith("## "))
        assert heading == "## ❌ CRITICAL: " + (name if name in plain_names else f"`{cell(name)}`")


def test_no_hint_is_markup_in_markdown() -> None:
    for code, hint in HINTS.items():
        finding = Finding("critical", code.value, "no", "tls", hint)
        tags, outside, dummy = rendered(
            written("markdown", health([Outcome("x", "smtp", "mx", "critical", "", None, [finding])]))
        )
        assert not set(tags) & {"a", "img", "em", "s", "html_block", "html_inline"}
        assert " ".join(f"What to do: {hint}".split()) in " ".join(outside.split())


def test_markdown_for_a_ticket_has_the_problems_with_what_to_do(eight: Health) -> None:
    source = written("markdown", eight)
    assert source.startswith("# `Mail of example.org`: CRITICAL\n\n2 critical, 2 warning, 1 unknown, 3 ok (2026-11-23")
    rows = [line for line in source.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[1] for row in rows] == [
        "old relay",
        "backup",
        "busy relay",
        "submission",
        "a bug of ours",
        "pop3 mailbox",
    ]
    words = "certificate not accepted: certificate has expired; the certificate expired on "
    assert f"- **CRITICAL** `certificate-expired` at tls: `{words}" in source
    assert "  - What to do: Renew the certificate; if that was done" in source


# JSON.


def test_the_json_document_is_as_its_schema_says_and_has_everything(eight: Health) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    document = json.loads(written("json", eight))
    jsonschema.validate(document, SCHEMA, format_checker=jsonschema.FormatChecker())
    assert [check["name"] for check in document["checks"]] == [found.name for found in eight.outcomes]
    for check, found in zip(document["checks"], eight.outcomes):
        assert check["report"] == (None if found.document is None else found.report)
        assert check["findings"] == [finding._asdict() for finding in found.findings]
        assert check["perfdata"] == found.perfdata
    trends = {trend["metric"]: trend["values"] for trend in document["checks"][0]["past"]["trends"]}
    assert trends["certificate_days"][0] == {"time": "2026-11-09T18:10:00+00:00", "value": 60}


def test_json_has_no_number_that_is_none_and_no_character_that_begins_markup() -> None:
    found = ill("<a>&")
    found.measurements.append(Measurement("x", math.inf))
    found.document = dumped({**found.report, "odd": {"x": [math.nan, -math.inf]}})
    shown = written("json", health([found]))
    assert not set(shown) & set("<>&")
    document = json.loads(shown, parse_constant=pytest.fail)
    jsonschema.validate(document, SCHEMA)
    assert document["checks"][0]["name"] == "<a>&"
    assert document["checks"][0]["report"]["odd"] == {"x": [None, None]}


@pytest.mark.parametrize("text", EVIL)
def test_json_keeps_every_text_as_it_is(text: str) -> None:
    document = json.loads(written("json", ill_run(text)))
    jsonschema.validate(document, SCHEMA)
    assert document["checks"][0]["summary"] == text


# JUnit.


def test_junit_has_a_suite_for_each_group_and_a_case_for_each_check(eight: Health) -> None:
    root = etree.fromstring(written("junit", eight).encode())
    JUNIT.assertValid(root)
    suites = [(s.get("name"), s.get("tests"), s.get("failures"), s.get("errors")) for s in root]
    assert suites == [("mx", "4", "3", "0"), ("smtp", "1", "1", "0"), ("pop3", "1", "0", "0"), ("imap", "2", "0", "1")]
    results = {case.get("name"): [(r.tag, r.get("type")) for r in case] for case in root.iter("testcase")}
    assert results == {
        "inbound mail": [],
        "old relay": [("failure", "critical")],
        "busy relay": [("failure", "warning")],
        "backup": [("failure", "critical")],
        "submission": [("failure", "warning")],
        "pop3 mailbox": [],
        "webmail's mailboxes": [],
        "a bug of ours": [("error", "unknown")],
    }
    failure = root.find(".//testcase[@name='old relay']/failure")
    assert "certificate has expired" in failure.get("message")
    assert "What to do: Renew the certificate" in failure.text
    assert "\n -> EHLO [127.0.0.1]\n" in failure.text


@pytest.mark.parametrize("text", EVIL)
def test_junit_is_valid_whatever_a_server_says(text: str) -> None:
    JUNIT.assertValid(etree.fromstring(written("junit", ill_run(text)).encode()))


# Prometheus.


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All samples by name and labels; fails when one is there twice or a family has no help or type."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "gauge"
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            assert sample.timestamp is None  # the collector refuses files with times
            found[key] = sample.value
    return found


def test_prometheus_has_states_findings_and_measurements_in_base_units(eight: Health) -> None:
    shown = written("prometheus", eight)
    found = samples(shown)

    def of(name: str, check: str, protocol: str, **more: str) -> float:
        host = "imap.example.org" if check == "a bug of ours" else "localhost"
        labels = {"check": check, "protocol": protocol, "host": host, **more}
        return found[(name, tuple(sorted(labels.items())))]

    states = {dict(labels)["check"]: value for (name, labels), value in found.items() if name == "mailprobe_state"}
    assert list(states.values()) == [0, 2, 1, 2, 1, 0, 0, 3]
    assert of("mailprobe_finding", "old relay", "smtp", code="certificate-expired", state="critical") == 1
    assert of("mailprobe_size_limit_bytes", "inbound mail", "smtp") == 10485760
    assert of("mailprobe_messages", "webmail's mailboxes", "imap", folder="INBOX") == 4
    assert of("mailprobe_messages", "pop3 mailbox", "pop3", folder="") == 4
    assert (
        0
        < of("mailprobe_tls_time_seconds", "inbound mail", "smtp")
        < of("mailprobe_time_seconds", "inbound mail", "smtp")
    )
    assert of("mailprobe_state_since_timestamp_seconds", "old relay", "smtp") == NOW.timestamp()
    assert of("mailprobe_flapping", "busy relay", "smtp") == 1
    assert found[("mailprobe_run_timestamp_seconds", ())] == NOW.timestamp()
    assert shown.count("# HELP mailprobe_state ") == shown.count("# TYPE mailprobe_state gauge\n") == 1


def test_prometheus_takes_percent_as_a_ratio_and_leaves_out_what_is_no_number() -> None:
    measurements = [
        Measurement("quota_storage_percent", 87.5, "%"),
        Measurement("unseen", math.nan),
        Measurement("state", 7.0),  # a name that is taken
        Measurement("checks", 7.0),
        Measurement("unseen_INBOX", 1.0),
        Measurement("unseen_INBOX", 2.0),
    ]
    run = health([Outcome("x", "imap", "[2001:db8::1]:993", "ok", "", measurements=measurements)])
    found = samples(written("prometheus", run))
    labels = (("check", "x"), ("host", "2001:db8::1"), ("protocol", "imap"))
    assert found[("mailprobe_quota_storage_ratio", labels)] == 0.875
    assert found[("mailprobe_state", labels)] == 0
    assert [value for (name, dummy), value in found.items() if name == "mailprobe_unseen"] == [1]


def test_what_each_of_several_addresses_has_is_one_metric_with_a_label(eight: Health) -> None:
    certificate = {"subject": "mx", "issuer": "ca", "names": ["mx"]}
    parts = [
        {"address": "192.0.2.1", "certificate": {**certificate, "not_after": "2026-12-01T00:00:00Z", "days_left": 7}},
        {"address": "2001:db8::1", "certificate": {**certificate, "not_after": "2027-12-01T00:00:00Z"}},
    ]
    several = Outcome(
        "mx",
        "imap",
        "mx:143",
        "ok",
        "",
        measurements=[
            Measurement("resolve_time", 0.25, "s"),
            *(Measurement(f"time[{part['address']}]", 0.5, "s") for part in parts),
            *(Measurement(f"unseen_INBOX[{part['address']}]", 5.0) for part in parts),
            Measurement("certificate_days[192.0.2.1]", 7),
            Measurement("certificate_days[2001:db8::1]", 372),
        ],
        document=dumped({**eight.outcomes[0].report, "addresses": parts}),
    )
    run = health([several, eight.outcomes[0]])
    found = samples(written("prometheus", run))
    of_mx = {
        (name.removeprefix("mailprobe_"), labels.get("folder"), labels.get("address")): value
        for (name, pairs), value in found.items()
        if (labels := dict(pairs)).get("check") == "mx"
    }
    assert of_mx == {
        ("state", None, None): 0,
        ("resolve_time_seconds", None, None): 0.25,
        ("time_seconds", None, "192.0.2.1"): 0.5,
        ("time_seconds", None, "2001:db8::1"): 0.5,
        ("unseen", "INBOX", "192.0.2.1"): 5,
        ("unseen", "INBOX", "2001:db8::1"): 5,
        ("certificate_expiry_timestamp_seconds", None, "192.0.2.1"): 1796083200,
        ("certificate_expiry_timestamp_seconds", None, "2001:db8::1"): 1827619200,
    }
    assert len([name for name, dummy in found if name == "mailprobe_time_seconds"]) == 3  # that of the other check, too
    assert "| 7 days |" in written("markdown", run, all=True)  # the worst
    page = written("html", run)
    assert "unseen INBOX[192.0.2.1]" in page
    assert "time[192.0.2.1]" not in page
    assert "certificate days" not in page


@pytest.mark.parametrize("text", EVIL)
def test_prometheus_reads_back_the_same_series_whatever_a_server_says(text: str) -> None:
    harmless, hostile = (samples(written("prometheus", ill_run(words))) for words in ("x", text))
    assert sorted(harmless.values()) == sorted(hostile.values())
    assert {dict(labels).get("check") for dummy, labels in hostile if dict(labels).get("check")}
