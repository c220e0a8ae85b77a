"""The report's page in a real browser: what is seen in a window and on a phone, in the dark and on paper."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nagios_checks.report.formats import Choices, render
from nagios_checks.report.outcome import Health, Outcome, dumped

from . import browser, outcomes
from .browser import Browser
from .outcomes import demo_outcomes, health, outcome, past
from .scripted import Scripted

pytestmark = pytest.mark.once

PHONE = 360  # CSS pixels; the narrowest phones that are still about
MARKUP = '<script>window.ran=1</script> "><img src=x onerror=window.ran=1>'
EVIL = f"S: 220 {MARKUP} {'x' * 400}\nC: EHLO *\nS: 550 {MARKUP} {'x' * 400}\n== any\n"

# All texts on the page that are seen, with the contrast to their ground: WCAG 2's formula.
CONTRASTS = """
(() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return {rgb: m.slice(0, 3), alpha: m[3] ?? 1}; };
  const channel = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = rgb => .2126 * channel(rgb[0]) + .7152 * channel(rgb[1]) + .0722 * channel(rgb[2]);
  const ground = e => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c.alpha === 1) return c.rgb; } return [255, 255, 255]; };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, words = walker.currentNode.data.trim();
    if (!words || !e.checkVisibility() || e.closest('svg, style')) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color).rgb), light(ground(e))].sort((x, y) => y - x);
    found.push([words.slice(0, 40), (a + .05) / (b + .05)]);
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if browser.program() is None:
        pytest.skip("there is no Chromium on this machine")
    with Browser() as started:
        yield started


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Health:
    return outcomes.eight(demo_outcomes(tmp_path_factory.mktemp("demo")))


@pytest.fixture(scope="module")
def page(run: Health, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the page of that run."""
    return saved(run, tmp_path_factory.mktemp("page"))


def saved(shown: Health, folder: Path) -> str:
    path = folder / "report.html"
    path.write_text("".join(render("html", shown, Choices())), encoding="utf-8")
    return path.as_uri()


def texts(chromium: Browser, selector: str) -> list[str]:
    """What is seen of each element that the selector finds."""
    found: list[str] = chromium.evaluate(f"[...document.querySelectorAll({selector!r})].map(e => e.innerText.trim())")
    return found


def test_states_are_told_at_a_glance_in_big_words_and_numbers(chromium: Browser, page: str) -> None:
    chromium.look()
    chromium.open(page)
    assert texts(chromium, ".verdict") == ["Critical"]
    assert [text.split() for text in texts(chromium, ".counts li")] == [
        ["2", "Critical"],
        ["2", "Warning"],
        ["1", "Unknown"],
        ["3", "OK"],
    ]
    assert chromium.evaluate("parseFloat(getComputedStyle(document.querySelector('.verdict')).fontSize)") >= 30
    shown = chromium.evaluate("document.querySelector('.counts').getBoundingClientRect().bottom < innerHeight / 2")
    assert shown, "not on the first screen"


def test_the_table_has_the_worst_checks_on_top_and_each_state_its_own_sign(chromium: Browser, page: str) -> None:
    chromium.look()
    chromium.open(page)
    assert texts(chromium, ".checks tbody td:first-child") == [
        *["Critical"] * 2,
        *["Warning"] * 2,
        "Unknown",
        *["OK"] * 3,
    ]
    assert [text.split("\n")[0] for text in texts(chromium, ".checks tbody th")] == [
        "old relay",
        "backup",
        "busy relay",
        "submission",
        "a bug of ours",
        "inbound mail",
        "pop3 mailbox",
        "webmail's mailboxes",
    ]
    tops = chromium.evaluate("[...document.querySelectorAll('.checks tbody tr')].map(e => e.getBoundingClientRect().y)")
    assert tops == sorted(set(tops))
    signs = chromium.evaluate(
        "[...document.querySelectorAll('.counts use')].map(e => [e.getAttribute('href'), e.getBBox().width])"
    )
    assert [sign for sign, dummy in signs] == ["#icon-critical", "#icon-warning", "#icon-unknown", "#icon-ok"]
    assert all(width > 10 for dummy, width in signs), "a sign that is not drawn"


def test_transcripts_and_healthy_checks_are_folded_until_they_are_clicked(chromium: Browser, page: str) -> None:
    chromium.look()
    chromium.open(page)
    assert chromium.evaluate("document.querySelectorAll('details[open]').length") == 0
    assert not chromium.evaluate("document.querySelector('.transcript pre').checkVisibility()")
    chromium.click(".transcript summary")
    assert chromium.evaluate("document.querySelector('.transcript pre').checkVisibility()")
    assert " -> EHLO [127.0.0.1]\n" in chromium.evaluate("document.querySelector('.transcript pre').innerText")
    chromium.click(".healthy summary")
    assert chromium.evaluate("document.querySelector('.healthy .stages').checkVisibility()")
    assert chromium.evaluate("document.querySelectorAll('details[open]').length") == 2
    chromium.click(".healthy summary")
    assert not chromium.evaluate("document.querySelector('.healthy .stages').checkVisibility()")


def test_a_name_in_the_table_leads_to_the_details_of_its_check(chromium: Browser, page: str) -> None:
    chromium.look()
    chromium.open(page)
    chromium.click(".checks tbody tr:nth-child(4) a")
    assert chromium.evaluate("document.querySelector(':target h3').innerText").split() == ["Warning", "submission"]
    assert chromium.evaluate("scrollY") > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, PHONE])
def test_every_text_stands_out_from_its_ground(chromium: Browser, page: str, scheme: str, width: int) -> None:
    chromium.look(width=width, scheme=scheme)
    chromium.open(page)
    chromium.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    contrasts = chromium.evaluate(CONTRASTS)
    assert len(contrasts) > 200
    assert [found for found in contrasts if found[1] < 4.5] == []  # WCAG 2.1 AA


def test_the_page_is_dark_where_the_reader_wants_it_dark(chromium: Browser, page: str) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        chromium.look(scheme=scheme)
        chromium.open(page)
        color = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds[scheme] = sum(int(part) for part in re.findall(r"\d+", color)[:3])
    assert grounds["light"] == 3 * 255
    assert grounds["dark"] < 100


def test_a_phone_shows_cards_and_never_scrolls_sideways(chromium: Browser, page: str) -> None:
    chromium.look(width=PHONE, height=740)
    chromium.open(page)
    chromium.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert chromium.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [PHONE, PHONE]
    assert chromium.evaluate("getComputedStyle(document.querySelector('.checks tr td')).display") != "table-cell"
    wide = chromium.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []


def test_cards_are_still_a_table_to_those_who_hear_the_page(chromium: Browser, page: str) -> None:
    chromium.look(width=PHONE)
    chromium.open(page)
    nodes = chromium.command("Accessibility.getFullAXTree")["nodes"]
    roles = [node["role"]["value"] for node in nodes if not node["ignored"]]
    assert roles.count("rowheader") >= 8
    assert roles.count("columnheader") == 6 + 4
    charts = [node for node in nodes if node["role"]["value"] in ("image", "img") and not node["ignored"]]
    assert charts
    assert all(re.match(r"(Time|Certificate): .* runs since ", node["name"]["value"]) for node in charts)


def test_paper_shows_states_in_words_and_signs_and_no_transcripts(chromium: Browser, page: str) -> None:
    chromium.look(media="print")
    chromium.open(page)
    assert not chromium.evaluate("document.querySelector('.transcript').checkVisibility()")
    assert texts(chromium, ".checks tbody td:first-child")[0] == "Critical"
    colors = chromium.evaluate(
        "[...document.querySelectorAll('.state')].filter(e => !e.closest('.none')).map(e => getComputedStyle(e).color)"
    )
    assert set(colors) == {"rgb(0, 0, 0)"}
    assert chromium.evaluate("[...document.querySelectorAll('.counts svg')].every(e => e.checkVisibility())")


def evil(tmp_path: Path) -> Outcome:
    """A real check of a server that says markup, and words without end."""
    with Scripted(EVIL) as server:
        return outcome("evil", "smtp", "-H", "127.0.0.1", "-p", server.port, "--timeout", "5")


@pytest.mark.parametrize("width", [1280, PHONE])
def test_what_a_server_says_runs_nothing_and_breaks_no_page(chromium: Browser, tmp_path: Path, width: int) -> None:
    found = evil(tmp_path)
    found.past = past("critical")
    certificate = {"subject": "y" * 500, "issuer": "z" * 500, "not_after": "2027-01-01T00:00:00+00:00", "days_left": 38}
    certificate = {**certificate, "names": ["<b>" + "w" * 300] * 5}
    said = [*found.report["transcript"], "v" * 3000]
    found.document = dumped({**found.report, "certificate": certificate, "transcript": said})
    chromium.look(width=width)
    chromium.open(saved(health([found] * 3), tmp_path))
    chromium.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert chromium.evaluate("typeof ran") == "undefined"
    assert chromium.evaluate("document.querySelectorAll('script, img').length") == 0
    assert MARKUP in texts(chromium, ".checks .result")[0]
    assert chromium.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert chromium.complaints == []


def test_the_policy_of_the_page_forbids_scripts_and_other_styles(chromium: Browser, page: str) -> None:
    chromium.look()
    chromium.open(page)
    chromium.evaluate(
        "(() => { const script = document.createElement('script'); script.textContent = 'window.ran = 1';"
        " const style = document.createElement('style'); style.textContent = 'body { background: rgb(1, 2, 3) }';"
        " const image = new Image(); image.src = 'http://127.0.0.1:9/x.png';"
        " document.body.append(script, style, image); })()"
    )
    assert chromium.evaluate("typeof ran") == "undefined"
    assert chromium.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    issues = [event["params"]["issue"] for event in chromium.complaints if event["method"] == "Audits.issueAdded"]
    violated = {issue["details"]["contentSecurityPolicyIssueDetails"]["violatedDirective"] for issue in issues}
    assert violated == {"script-src-elem", "style-src-elem", "img-src"}


class Handler(BaseHTTPRequestHandler):
    """Answers every request with the page, and remembers what was asked for."""

    page = b""
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(self.page)))
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, *dummy: object) -> None:
        pass


@contextmanager
def web_server(text: str) -> Iterator[tuple[str, list[str]]]:
    """A web server on loopback with one page: its address, and the paths that were asked for."""
    handler = type("PageHandler", (Handler,), {"page": text.encode(), "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/report", handler.asked
        finally:
            server.shutdown()
            thread.join()


def test_the_page_asks_for_nothing_more_and_does_not_complain(chromium: Browser, run: Health) -> None:
    chromium.look()
    with web_server("".join(render("html", run, Choices()))) as (address, asked):
        chromium.open(address)
        chromium.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
        assert chromium.evaluate("document.querySelectorAll('.chart svg').length") > 0
        assert chromium.requests == [address]
        assert chromium.complaints == []
        assert asked == ["/report"]


def test_sixty_checks_three_and_none_make_a_page_each(chromium: Browser, run: Health, tmp_path: Path) -> None:
    for number in (60, 3, 0):
        chromium.look(width=PHONE)
        chromium.open(saved(health((run.outcomes * 8)[:number]), tmp_path))
        assert chromium.evaluate("document.querySelectorAll('.checks tbody tr').length") == number
        assert chromium.evaluate("document.documentElement.scrollWidth") == PHONE
        assert chromium.complaints == []
