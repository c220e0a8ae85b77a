"""check_mail_imap against a real Dovecot and Cyrus: what is in folders, and that they are left as they were.

Logins and TLS, which are the same in all protocols, are in test_credentials.py.
"""

from __future__ import annotations

import imaplib
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path

import pytest

from . import running
from .running import Outcome
from .scripted import Scripted
from .servers import AWKWARD_USER, USER, Login, Server, wait_until
from .servers.certificates import CertificateAuthority
from .servers.cyrus import MAILS, Cyrus
from .servers.dovecot import FULL, NO_QUOTA, PASSWORD, QUOTA_UNKNOWN, READER, STRICT, Dovecot
from .servers.fixtures import running as started
from .servers.mailboxes import AWKWARD, EMPTY, ENCODED, FOLDERS, INBOX, NON_ASCII
from .test_check_smtp import implicit, in_order, report, starttls, transcript

OF_A_FOLDER = ("messages", "unseen", "recent", "mailbox_bytes", "oldest_age", "newest_age", "search_hits")
QUOTAS = ("quota_storage_percent", "quota_messages_percent")
# Of a server's start, the second in which it was, and the one in which the check asked.
TOLERANCE = 3
# What Nagios takes: a label in quotes if need be (a quote is doubled), a number, its unit, four numbers or ranges.
PERFDATUM = re.compile(r"(?:'((?:[^'=]|'')+)'|([^ '=]+))=(-?[0-9.]+)(s|B|%)?((?:;[^; ]*){0,4})(?: |$)")


def check(
    server: Server, *arguments: object, host: str = STRICT, service: str = "imap", password: str = PASSWORD
) -> Outcome:
    return running.check("imap", "-H", host, "-p", server.ports[service], *arguments, env={"PW": password})


def login(name: str, *mechanism: str) -> tuple[str, ...]:
    return ("--username", name, "--password-env", "PW", *(("--mechanism", *mechanism) if mechanism else ()))


def look_into(*folders: str) -> tuple[str, ...]:
    return tuple(word for folder in folders for word in ("--folder", folder))


def passes(outcome: Outcome) -> Outcome:
    assert outcome.code == 0, outcome.output
    assert outcome.errors == ""
    assert outcome.first_line.startswith("IMAP OK - ")
    perfdata(outcome)
    return outcome


def perfdata(outcome: Outcome) -> dict[str, float]:
    """The numbers of the performance data by label, which occurs but once."""
    left, found = outcome.first_line.partition(" | ")[2], {}
    while left:
        datum = PERFDATUM.match(left)
        assert datum, left
        label = datum[1] or datum[2]
        assert label not in found, f"{label} occurs twice"
        found[label] = float(datum[3])
        left = left[datum.end() :]
    return found


def folders_of(outcome: Outcome) -> dict[str, dict[str, object]]:
    return {folder["folder"]: folder for folder in outcome.json["facts"]["folders"]}


def mails(directory: Path) -> dict[str, tuple[bytes, float]]:
    """The mails of a maildir with all folders: their paths, which hold the flags, their contents and dates."""
    paths = (path for name in ("cur", "new") for path in directory.rglob(f"{name}/*"))
    return {str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime) for path in paths}


@contextmanager
def logged(dovecot: Dovecot) -> Iterator[list[str]]:
    """What Dovecot logs until it has logged the end of a conversation."""
    start = len(dovecot.log())
    lines: list[str] = []
    yield lines
    wait_until(lambda: "isconnected: " in dovecot.log()[start:], "Dovecot to log the end", seconds=5)
    lines += dovecot.log()[start:].splitlines()


SUBJECTS = ("Grüße aus Köln", 'Er sagt "ü"', "Plain")
ODD_FOLDERS = {
    "a|b": "a|b",
    "a b": "a b",
    "a_b": "a_b",
    "a_b_3": "a_b_3",
    "100% & more": "100% &- more",
    "Übung": "&ANw-bung",
}


@pytest.fixture(scope="module")
def odd(dovecot: Dovecot) -> Dovecot:
    """Dovecot, with more folders for NO_QUOTA, and in one of them mails with SUBJECTS."""
    imap = imaplib.IMAP4("127.0.0.1", dovecot.imap)
    imap.login(NO_QUOTA, PASSWORD)
    for encoded in ODD_FOLDERS.values():
        assert imap.create(f'"{encoded}"')[0] == "OK"
    for subject in SUBJECTS:
        imap.append('"a b"', None, None, mail(subject))
    imap.logout()
    return dovecot


def mail(subject: str) -> bytes:
    message = EmailMessage()
    message["Subject"] = subject
    message.set_content("text")
    return message.as_bytes()


# What works.


@pytest.mark.parametrize("server_name", ["dovecot", "cyrus"])
@pytest.mark.parametrize("mode", ["none", "starttls", "implicit"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_that_greets_is_ok_without_a_login(
    request: pytest.FixtureRequest, ca: CertificateAuthority, server_name: str, mode: str, host: str
) -> None:
    server = request.getfixturevalue(server_name)
    tls = () if mode == "none" else ("--tls", mode, "--ca-file", ca.pem_path)
    service = "imaps" if mode == "implicit" else "imap"
    outcome = passes(check(server, *tls, "-4", host=host, service=service))
    banner = {"dovecot": r"Dovecot \(Debian\) ready\.", "cyrus": "cyrus.example.test Cyrus IMAP .* server ready"}
    security = "" if mode == "none" else r"TLSv1\.[23], certificate valid for 89 days, "
    expected = rf"IMAP OK - {host}:{server.ports[service]}: '{banner[server_name]}', {security}in 0\.\d{{3}} s \| "
    assert re.match(expected, outcome.first_line), outcome.first_line
    assert not {*OF_A_FOLDER, *QUOTAS} & set(perfdata(outcome))


def test_the_conversation_reads_as_somebody_would_type_it(dovecot: Dovecot, ca: CertificateAuthority) -> None:
    options = ("--quota", "--identify", "--search", "UNSEEN", "-vv")
    outcome = passes(check(dovecot, *starttls(ca), *login(READER, "PLAIN"), *options))
    in_order(
        transcript(outcome),
        *("<-  * OK [CAPABILITY ", " -> a1 CAPABILITY", "<-  * CAPABILITY ", "<-  a1 OK ", " -> a2 STARTTLS"),
        *("<-  a2 OK ", "=== TLS: TLSv1.", " ~> a3 CAPABILITY", "<~  a3 OK ", ' ~> a4 ID ("name" "mailprobe")'),
        *("<~  a4 OK ", " ~> a5 AUTHENTICATE PLAIN ***", "<~  a5 OK ", " ~> a6 CAPABILITY", "<~  a6 OK "),
        *(' ~> a7 STATUS "INBOX" (MESSAGES UNSEEN RECENT SIZE)', "<~  * STATUS INBOX (", "<~  a7 OK "),
        *(' ~> a8 EXAMINE "INBOX"', "<~  a8 OK [READ-ONLY] ", " ~> a9 FETCH 1:* (INTERNALDATE)", "<~  * 1 FETCH"),
        *(
            "<~  a9 OK ",
            " ~> a10 SEARCH RETURN (COUNT) UNSEEN",
            "<~  * ESEARCH ",
            "<~  a10 OK ",
            ' ~> a11 GETQUOTAROOT "INBOX"',
        ),
        *("<~  * QUOTA ", "<~  a11 OK ", " ~> a12 LOGOUT", "<~  * BYE ", "<~  a12 OK "),
    )


def test_a_server_can_be_asked_who_it_is(dovecot: Dovecot, cyrus: Cyrus, ca: CertificateAuthority) -> None:
    assert report(check(dovecot, "--identify", "--json"))["facts"]["server_id"] == ["name Dovecot"]
    identity = report(check(cyrus, *starttls(ca), "--identify", "--json", host="127.0.0.1"))["facts"]["server_id"]
    assert identity[0] == "name Cyrus IMAPD"
    assert identity[1].startswith("version 3.")
    assert report(check(dovecot, "--json"))["facts"]["server_id"] == []


def test_a_text_that_the_greeting_contains_can_be_expected(dovecot: Dovecot) -> None:
    passes(check(dovecot, "--expect", "Dovecot (Debian)"))
    report(check(dovecot, "--expect", "Cyrus", "--json"), "critical", "greeting-unexpected")


# The command LOGIN.


class PlainDovecot(Dovecot):
    """It has no SASL mechanism LOGIN, so that the command of that name is what is left beside PLAIN."""

    def configure(self) -> None:
        super().configure()
        path = self.directory / "dovecot.conf"
        path.write_text(re.sub(r"(?m)^(auth_mechanisms|  mechanisms) = .*$", r"\1 = plain", path.read_text()))
        users = re.sub(r"passdb \{\n  driver = (oauth2|static)\n.*\n.*\n\}\n", "", path.read_text())
        path.write_text(users)


@pytest.fixture(scope="module")
def plain_dovecot(ca: CertificateAuthority) -> Iterator[PlainDovecot]:
    yield from started(PlainDovecot(ca))


@pytest.mark.parametrize("user", [USER, AWKWARD_USER], ids=["usual", "awkward"])
def test_the_command_login_logs_in(plain_dovecot: PlainDovecot, ca: CertificateAuthority, user: Login) -> None:
    """With a password that is not ASCII, it is a literal."""
    outcome = check(plain_dovecot, *starttls(ca), *login(user.name, "LOGIN"), "-vv", password=user.password)
    assert "logged in with LOGIN, " in passes(outcome).first_line
    in_order(transcript(outcome), f" ~> a4 LOGIN {user.name} ***", "<~  a4 OK ")
    assert user.password not in outcome.output
    assert user.base64_password not in outcome.output


def test_plain_is_preferred_to_the_command_login(plain_dovecot: PlainDovecot, ca: CertificateAuthority) -> None:
    facts = report(check(plain_dovecot, *starttls(ca), *login(USER.name), "--json"))["facts"]
    assert facts["mechanism"] == "PLAIN"
    assert report(check(plain_dovecot, *starttls(ca), "--json"))["facts"]["auth_mechanisms"] == ["PLAIN", "LOGIN"]


@pytest.mark.parametrize("expect", [(), ("--expect-login-refused",)], ids=["expected to work", "expected not to"])
def test_a_wrong_password_is_refused_by_the_command_login(
    plain_dovecot: PlainDovecot, ca: CertificateAuthority, expect: tuple[str, ...]
) -> None:
    options = (*starttls(ca), *login(USER.name, "LOGIN"), *expect, "-vv")
    outcome = check(plain_dovecot, *options, password="not the password")
    assert outcome.code == (0 if expect else 2)
    assert "NO [AUTHENTICATIONFAILED] Authentication failed." in outcome.output
    assert "not the password" not in outcome.output


@pytest.mark.parametrize("mechanism", ["LOGIN", "PLAIN"])
def test_no_password_is_sent_where_login_is_disabled(plain_dovecot: PlainDovecot, mechanism: str) -> None:
    """Before TLS this server has LOGINDISABLED and no mechanism at all."""
    options = (*login(USER.name, mechanism), "--allow-plaintext-login", "--json")
    found = report(check(plain_dovecot, *options), "critical", "auth-not-offered")
    assert "LOGINDISABLED" in found["facts"]["capabilities"]
    assert not [line for line in found["transcript"] if re.match(r" -> \S+ (LOGIN |AUTHENTICATE)", line)]


# What is in a folder.


def test_the_inbox_is_measured(dovecot: Dovecot, ca: CertificateAuthority) -> None:
    outcome = passes(check(dovecot, *starttls(ca), *login(READER), "--search", "ALL"))
    data = perfdata(outcome)
    assert f"INBOX: {len(INBOX)} messages, 1 unseen, 5 found, in " in outcome.first_line
    assert (data["messages"], data["unseen"], data["search_hits"]) == (len(INBOX), 1, 5)
    assert data["mailbox_bytes"] == sum(mail.size for mail in INBOX)
    assert data["recent"] in (0, len(INBOX))  # nobody's before it is opened for writing, as POP3 does
    assert "mailbox_bytes=13312B;;;0 " in outcome.first_line


@pytest.mark.parametrize("name", FOLDERS)
def test_the_ages_are_those_of_the_arrival_whatever_the_headers_claim(
    dovecot: Dovecot, ca: CertificateAuthority, name: str
) -> None:
    """One of the mails claims to be of 2001, one has no Date at all."""
    outcome = check(dovecot, *starttls(ca), *login(READER), *look_into(name), "--json")
    now = time.time()
    report(outcome)
    found = folders_of(outcome)[name]
    folder = "" if name == "INBOX" else "." + ENCODED[name].replace("/", ".")
    directory = dovecot.directory / "mail" / "reader" / folder / "cur"
    arrived = [path.stat().st_mtime for path in directory.glob("*.test*")]
    assert found["messages"] == len(arrived) == len(FOLDERS[name])
    if arrived:
        assert abs(found["oldest_age"] - (now - min(arrived))) <= TOLERANCE
        assert abs(found["newest_age"] - (now - max(arrived))) <= TOLERANCE
    else:
        assert (found["oldest_age"], found["newest_age"]) == (None, None)


@pytest.mark.parametrize("mode", ["starttls", "implicit"])
def test_the_inbox_is_measured_at_cyrus(cyrus: Cyrus, ca: CertificateAuthority, mode: str) -> None:
    tls, service = (starttls(ca), "imap") if mode == "starttls" else (implicit(ca), "imaps")
    options = (*tls, *login(USER.name), "--quota", "--search", 'SUBJECT "Old"', "--json")
    outcome = check(cyrus, *options, host="127.0.0.1", service=service)
    facts = report(outcome)["facts"]
    (folder,) = facts["folders"]
    assert (folder["messages"], folder["unseen"], folder["mailbox_bytes"], folder["search_hits"]) == (2, 1, 3000, 1)
    assert (facts["quota_storage_percent"], facts["quota_messages_percent"]) == (0.2, 20.0)
    # The ages count from the start of the server, which may have been at the beginning of the session.
    old, new = (mail.age.total_seconds() for mail in MAILS)
    assert folder["oldest_age"] - old == pytest.approx(folder["newest_age"] - new, abs=TOLERANCE)
    assert 0 <= folder["newest_age"] - new + TOLERANCE < 3600


def test_nothing_in_any_folder_is_changed(dovecot: Dovecot, ca: CertificateAuthority) -> None:
    directory = dovecot.directory / "mail" / "reader"
    options = (*starttls(ca), *login(READER), *look_into(*FOLDERS), "--search", 'BODY "x"', "--quota", "--json")
    before, status = mails(directory), state_of_folders(dovecot)
    recent = []
    for dummy in range(2):
        outcome = check(dovecot, *options)
        report(outcome)
        recent.append([folder["recent"] for folder in folders_of(outcome).values()])
        assert mails(directory) == before
        assert state_of_folders(dovecot) == status
        assert not [line for line in outcome.json["transcript"] if re.search("> a.* (SELECT|STORE|CLOSE|EXP)", line)]
    assert recent[0] == recent[1], "\\Recent went to the check"
    assert recent[0][1:3] == [1, 1]


def state_of_folders(dovecot: Dovecot) -> list[str]:
    imap = imaplib.IMAP4("127.0.0.1", dovecot.imap)
    imap.login(READER, PASSWORD)
    found: list[object] = [sorted(name.partition(b'"/" ')[2] for name in imap.list()[1])]
    for encoded in ENCODED.values():
        quoted = encoded.replace("\\", "\\\\").replace('"', '\\"')
        imap.select(f'"{quoted}"', readonly=True)
        found.append(imap.uid("FETCH", "1:*", "(FLAGS)"))
        found.append(imap.status(f'"{quoted}"', "(MESSAGES UIDNEXT UIDVALIDITY UNSEEN HIGHESTMODSEQ)")[1])
    imap.logout()
    return [re.sub(r" \(\d\.\d+ \+.* secs\)", "", str(one)) for one in found]


# Several folders, and their names.


def test_several_folders_are_measured_each_by_its_name(dovecot: Dovecot, ca: CertificateAuthority) -> None:
    outcome = check(dovecot, *starttls(ca), *login(READER), *look_into(*FOLDERS), "--json")
    report(outcome)
    found = folders_of(outcome)
    assert list(found) == list(FOLDERS)
    for name, expected in FOLDERS.items():
        assert found[name]["messages"] == len(expected)
        assert found[name]["unseen"] == sum(not mail.seen for mail in expected)
        assert found[name]["mailbox_bytes"] == sum(mail.size for mail in expected)


def test_several_folders_have_data_of_their_own(dovecot: Dovecot, ca: CertificateAuthority) -> None:
    outcome = passes(check(dovecot, *starttls(ca), *login(READER), *look_into(*FOLDERS), "--search", "ALL"))
    data = perfdata(outcome)
    for metric in ("messages", "search_hits"):
        labels = sorted(label for label in data if label.startswith(f"{metric}_"))
        assert sorted(data[label] for label in labels) == [0, 1, 1, 5]
        assert f"{metric}_INBOX" in labels
        assert f"{metric}_Empty" in labels
    assert not set(OF_A_FOLDER) & set(data)
    for name in (NON_ASCII, AWKWARD, EMPTY):
        assert f"{name}: {len(FOLDERS[name])} messages, 0 unseen, " in outcome.first_line


@pytest.mark.parametrize(
    "names", [("a b", "a_b"), ("a_b_3", "a b", "a_b"), ("INBOX", "INBOX"), ("INBOX", "inbox")], ids=" and ".join
)
def test_no_two_folders_have_the_same_label(odd: Dovecot, ca: CertificateAuthority, names: tuple[str, ...]) -> None:
    outcome = check(odd, *starttls(ca), *login(NO_QUOTA), *look_into(*names))
    assert outcome.code == 0 or "--folder: " in outcome.first_line, outcome.output
    perfdata(outcome)


@pytest.mark.parametrize("name", ODD_FOLDERS)
def test_a_folder_may_have_any_name(odd: Dovecot, ca: CertificateAuthority, name: str) -> None:
    outcome = check(odd, *starttls(ca), *login(NO_QUOTA), *look_into(name), "--search", "ALL", "--json")
    (folder,) = report(outcome)["facts"]["folders"]
    expected = len(SUBJECTS) if name == "a b" else 0
    assert (folder["messages"], folder["search_hits"]) == (expected, expected)


def test_a_folder_that_is_missing_is_a_finding_and_all_else_is_measured(
    dovecot: Dovecot, ca: CertificateAuthority
) -> None:
    names = ("INBOX", "Nöpe", "Entwürfe", NON_ASCII)  # "Entwürfe" cannot be selected: it only has a folder in it
    options = (*starttls(ca), *login(READER), *look_into(*names), "--search", "ALL", "--quota")
    outcome = check(dovecot, *options, "--json")
    facts = report(outcome, "critical", "mailbox-unavailable", "mailbox-unavailable")["facts"]
    assert "Mailbox doesn't exist: N" in outcome.json["problems"][0]["message"]
    found = folders_of(outcome)
    assert [found[name]["messages"] for name in names] == [5, None, None, 1]
    assert [found[name]["search_hits"] for name in names] == [5, None, None, 1]
    assert facts["quota_storage_percent"] == 30
    outcome = check(dovecot, *options)
    assert "[mailbox-unavailable] (and 1 more) | " in outcome.first_line
    assert {value for label, value in perfdata(outcome).items() if label.startswith("messages_")} == {5, 1}


def test_a_folder_that_is_missing_is_a_finding_at_cyrus(cyrus: Cyrus, ca: CertificateAuthority) -> None:
    options = (*starttls(ca), *login(USER.name), *look_into("Nope", "INBOX"), "--json")
    outcome = check(cyrus, *options, host="127.0.0.1")
    found = report(outcome, "critical", "mailbox-unavailable")
    assert "'NO Mailbox does not exist'" in found["problems"][0]["message"]
    assert folders_of(outcome)["INBOX"]["messages"] == 2


UTF8_SERVER = """\
S: * OK ready
C: * CAPABILITY
S: * CAPABILITY IMAP4rev1 ENABLE UTF8=ACCEPT SASL-IR AUTH=PLAIN
S: {tag} OK done
C: * AUTHENTICATE PLAIN *
S: {tag} OK done
C: * CAPABILITY
S: * CAPABILITY IMAP4rev1 ENABLE UTF8=ACCEPT
S: {tag} OK done
C: * ENABLE UTF8=ACCEPT
S: * ENABLED UTF8=ACCEPT
S: {tag} OK done
C: * STATUS "Entwürfe & mehr/日本" (MESSAGES UNSEEN RECENT)
S: * STATUS "Entwürfe & mehr/日本" (MESSAGES 0 UNSEEN 0 RECENT 0)
S: {tag} OK done
C: * EXAMINE "Entwürfe & mehr/日本"
S: * 0 EXISTS
S: {tag} OK [READ-ONLY] done
"""
GOODBYE = "C: * LOGOUT\nS: * BYE\nS: {tag} OK done"


def utf8_check(server: Scripted, *arguments: str) -> Outcome:
    where = ("-H", "127.0.0.1", "-p", server.port, "--allow-plaintext-login", *login("user"))
    return running.check("imap", *where, *look_into("Entwürfe & mehr/日本"), *arguments, env={"PW": PASSWORD})


def test_a_folder_name_goes_as_it_is_where_the_server_accepts_utf_8() -> None:
    with Scripted(UTF8_SERVER + GOODBYE) as server:
        outcome = passes(utf8_check(server))
        server.finish()
    assert server.errors == []
    assert "Entwürfe & mehr/日本: 0 messages, 0 unseen" in outcome.first_line


def test_a_search_names_no_charset_once_utf_8_is_accepted() -> None:
    """RFC 6855 3: "it MUST NOT issue a SEARCH command that contains a charset specification"."""
    search = "C: * SEARCH *\nS: * SEARCH 1 2\nS: {tag} OK done\n"
    with Scripted(UTF8_SERVER + search + GOODBYE) as server:
        utf8_check(server, "--search", 'SUBJECT "ü"')
        server.finish(1)
    said = [str(line) for line in server.heard[0] if " SEARCH " in str(line)]
    assert said
    assert "CHARSET" not in said[0]


# Searches.


@pytest.mark.parametrize(
    ("keys", "hits"),
    [
        ("ALL", 5),
        ("UNSEEN", 1),
        ("NOT UNSEEN LARGER 2000", 3),
        ('OR SUBJECT "Oldest" SUBJECT "Newest"', 2),
        ("SUBJECT Newest", 1),
        ('FROM "nobody"', 0),
        ('SUBJECT "ü"', 0),
        ('HEADER X-Nothing ""', 0),
        ("BEFORE 1-Jan-2002", 0),  # by INTERNALDATE
        ("SENTBEFORE 1-Jan-2002", 2),  # by the header that lies, and the one that is not there
        ("1:3", 3),
    ],
)
def test_a_search_has_hits(dovecot: Dovecot, ca: CertificateAuthority, keys: str, hits: int) -> None:
    outcome = passes(check(dovecot, *starttls(ca), *login(READER), "--search", keys))
    assert perfdata(outcome)["search_hits"] == hits
    assert f", {hits} found, " in outcome.first_line


non_ascii_searches = pytest.mark.parametrize(
    ("keys", "hits"),
    [
        ('SUBJECT "Grüße"', 1),
        ('SUBJECT "ü"', 2),
        ('SUBJECT "Köln" NOT SUBJECT "ж"', 1),
        ('OR SUBJECT "Plain" SUBJECT "Köln"', 2),
        ('SUBJECT "日本"', 0),
        ('SUBJECT "sagt \\"ü\\""', 1),
    ],
)


@non_ascii_searches
def test_a_search_may_be_for_what_is_not_ascii(odd: Dovecot, ca: CertificateAuthority, keys: str, hits: int) -> None:
    outcome = passes(check(odd, *starttls(ca), *login(NO_QUOTA), *look_into("a b"), "--search", keys))
    assert perfdata(outcome)["search_hits"] == hits


@pytest.fixture(scope="module")
def cyrus_with_subjects(cyrus: Cyrus) -> Cyrus:
    """Cyrus, with mails with SUBJECTS in a folder of AWKWARD_USER's."""
    name, password = AWKWARD_USER
    context = ssl.create_default_context(cafile=str(cyrus._ca.pem_path))
    with imaplib.IMAP4_SSL("localhost", cyrus.imaps, ssl_context=context) as imap:
        imap.authenticate("PLAIN", lambda challenge: f"\0{name}\0{password}".encode())
        assert imap.create("Searched")[0] == "OK"
        for subject in SUBJECTS:
            imap.append("Searched", None, None, mail(subject).replace(b"\n", b"\r\n"))
    return cyrus


@non_ascii_searches
def test_a_search_may_be_for_what_is_not_ascii_at_cyrus(
    cyrus_with_subjects: Cyrus, ca: CertificateAuthority, keys: str, hits: int
) -> None:
    options = (*starttls(ca), *login(AWKWARD_USER.name), *look_into("Searched"), "--search", keys)
    outcome = passes(check(cyrus_with_subjects, *options, host="127.0.0.1", password=AWKWARD_USER.password))
    assert perfdata(outcome)["search_hits"] == hits


@pytest.mark.parametrize(
    "keys",
    ["NOPE", "SUBJECT", "ALL) (ALL", '"ALL', "CHARSET X-NONE ALL", "LARGER x", "1:2:3", "%"],
)
def test_a_search_that_the_server_rejects_is_a_finding_and_all_else_is_measured(
    dovecot: Dovecot, ca: CertificateAuthority, keys: str
) -> None:
    options = (*starttls(ca), *login(READER), *look_into("INBOX", NON_ASCII), "--search", keys, "--quota")
    outcome = check(dovecot, *options, "--json")
    found = report(outcome, "critical", "search-refused", "search-refused")
    assert found["problems"][0]["stage"] == "search"
    assert re.search("refused: '(BAD|NO) ", found["problems"][0]["message"])
    assert [folder["messages"] for folder in found["facts"]["folders"]] == [5, 1]
    assert [folder["search_hits"] for folder in found["facts"]["folders"]] == [None, None]
    assert found["facts"]["quota_storage_percent"] == 30


@pytest.mark.parametrize(
    "keys",
    [
        *("", "  ", "SUBJECT {3}", "SUBJECT {3+}", "ALL\r\na1 DELETE INBOX", "a\u2028b"),
        *("SUBJECT ü", 'SUBJECT "ü'),  # only inside of quotes can it be sent
    ],
    ids=ascii,
)
def test_what_cannot_be_a_search_is_refused_before_anything_is_connected(keys: str) -> None:
    options = ("--allow-plaintext-login", *login("user"), "--search", keys)
    outcome = running.check("imap", "-H", "127.0.0.1", "-p", 1, *options, env={"PW": PASSWORD})
    assert outcome.code == 3
    assert outcome.first_line.startswith("IMAP UNKNOWN - --search: ")
    assert "needs a login" not in outcome.first_line


# Quotas.


def test_the_quota_is_measured_in_percent(dovecot: Dovecot, ca: CertificateAuthority) -> None:
    outcome = passes(check(dovecot, *starttls(ca), *login(READER), "--quota"))
    assert "quota 30 % full" in outcome.first_line
    data = perfdata(outcome)
    assert (data["quota_storage_percent"], data["quota_messages_percent"]) == (30, 25)
    assert re.search(r" quota_storage_percent=30(\.0+)?%", outcome.first_line)


@pytest.mark.parametrize(
    ("username", "ranges", "code"),
    [
        (READER, ("-w", "quota_storage_percent=30", "-c", "quota_messages_percent=90"), 0),
        (READER, ("-w", "quota_storage_percent=29.9"), 1),
        (READER, ("-w", "quota_storage_percent=80", "-c", "quota_messages_percent=24"), 2),
        (FULL, ("-w", "quota_storage_percent=80", "-c", "quota_storage_percent=95"), 2),
    ],
    ids=["below", "warning", "messages", "full"],
)
def test_a_quota_can_raise_an_alarm(
    dovecot: Dovecot, ca: CertificateAuthority, username: str, ranges: tuple[str, ...], code: int
) -> None:
    assert check(dovecot, *starttls(ca), *login(username), "--quota", *ranges).code == code


def test_a_mailbox_may_be_fuller_than_its_quota(dovecot: Dovecot, ca: CertificateAuthority) -> None:
    facts = report(check(dovecot, *starttls(ca), *login(FULL), "--quota", "--json"))["facts"]
    assert (facts["quota_storage_percent"], facts["quota_messages_percent"]) == (250, None)


@pytest.mark.parametrize(
    ("username", "words"),
    [(NO_QUOTA, "the server knows no quota for 'INBOX'"), (QUOTA_UNKNOWN, "the server does not offer QUOTA")],
)
def test_a_quota_that_is_not_there_is_a_finding_and_never_zero(
    dovecot: Dovecot, ca: CertificateAuthority, username: str, words: str
) -> None:
    outcome = check(dovecot, *starttls(ca), *login(username), "--quota", "-v")
    assert outcome.code == 2
    assert f": {words} [quota-unavailable] | " in outcome.first_line
    data = perfdata(outcome)
    assert not set(QUOTAS) & set(data)
    assert data["messages"] == 0
    ranged = check(dovecot, *starttls(ca), *login(username), "--quota", "-w", "quota_storage_percent=90", "-v")
    assert "[unknown] quota_storage_percent: quota_storage_percent was not measured" in ranged.output


# Thresholds.


@pytest.mark.parametrize("metric", [*OF_A_FOLDER, *QUOTAS, "mailbox_time", "search_time", "quota_time"])
@pytest.mark.parametrize(("option", "code"), [("-w", 1), ("-c", 2)])
def test_every_metric_can_raise_an_alarm(
    dovecot: Dovecot, ca: CertificateAuthority, metric: str, option: str, code: int
) -> None:
    options = (*starttls(ca), *login(READER), "--search", "ALL", "--quota")
    outcome = check(dovecot, *options, option, f"{metric}=@0:")
    assert outcome.code == code, outcome.output
    assert f": {metric} is " in outcome.first_line
    warning, critical = ("@0:", "") if option == "-w" else ("", "@0:")
    assert re.search(rf" {metric}=[0-9.]+(s|B|%)?;{warning};{critical}(;| |$)", outcome.first_line)


def test_the_number_of_a_quota_is_written_as_people_write_it(dovecot: Dovecot, ca: CertificateAuthority) -> None:
    outcome = check(dovecot, *starttls(ca), *login(READER), "--quota", "-w", "quota_storage_percent=10")
    assert re.search(r": quota_storage_percent is 30(\.0)? ?% \(outside range 0:10\) \| ", outcome.first_line)


@pytest.mark.parametrize(
    ("ranges", "code", "words"),
    [
        (("-w", "messages=10"), 0, "INBOX: 5 messages"),
        (("-w", "messages=4"), 1, "messages_INBOX is 5"),
        (("-c", "messages=1:"), 2, "messages_Empty is 0"),
        (("-c", "unseen=0"), 2, "unseen_INBOX is 1"),
        (("-w", "search_hits=4", "-c", "search_hits=10"), 1, "search_hits_INBOX is 5"),
        (("-w", "mailbox_bytes=20000", "-c", "recent=10"), 0, "INBOX: 5 messages"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_range_judges_each_of_several_folders(
    dovecot: Dovecot, ca: CertificateAuthority, ranges: tuple[str, ...], code: int, words: str
) -> None:
    options = (*starttls(ca), *login(READER), *look_into("INBOX", EMPTY, NON_ASCII), "--search", "ALL")
    outcome = check(dovecot, *options, *ranges, "-v")
    assert outcome.code == code, outcome.output
    assert words in outcome.first_line
    assert "not measured" not in outcome.output


@pytest.mark.parametrize(
    ("options", "metric"),
    [
        ((), "quota_storage_percent"),
        ((), "quota_messages_percent"),
        ((), "search_hits"),
        (("--folder", EMPTY), "oldest_age"),
        (("--folder", EMPTY), "newest_age"),
        (("--folder", "INBOX", "--folder", EMPTY), "newest_age"),
        (("--folder", EMPTY, "--folder", "INBOX"), "newest_age"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_a_range_for_what_was_not_measured_is_unknown(
    dovecot: Dovecot, ca: CertificateAuthority, options: tuple[str, ...], metric: str
) -> None:
    outcome = check(dovecot, *starttls(ca), *login(READER), *options, "-c", f"{metric}=0:")
    assert outcome.code == 3, outcome.output
    assert re.search(rf": {metric}(_{EMPTY})? was not measured", outcome.first_line)


@pytest.mark.parametrize("metric", [*OF_A_FOLDER, *QUOTAS])
def test_a_range_for_a_folder_without_a_login_is_unknown(dovecot: Dovecot, metric: str) -> None:
    outcome = check(dovecot, "-c", f"{metric}=0:")
    assert outcome.code == 3
    assert f"{metric} was not measured" in outcome.first_line


def test_a_range_that_one_folder_breaks_wins_over_another_that_was_not_measured(
    dovecot: Dovecot, ca: CertificateAuthority
) -> None:
    options = (*look_into("INBOX", EMPTY, "Nope"), "-c", "newest_age=1")
    outcome = check(dovecot, *starttls(ca), *login(READER), *options, "-v")
    assert outcome.code == 2
    assert re.search(r"\[critical\] newest_age_INBOX: newest_age_INBOX is \d+s \(outside range 0:1\)", outcome.output)
    assert "[unknown] newest_age" in outcome.output


# Manners.


@pytest.mark.parametrize(
    ("options", "farewell"),
    [
        ((), "no auth attempts in "),
        (("--identify",), "no auth attempts in "),
        (("STARTTLS",), "no auth attempts in "),
        (("--expect", "another banner"), "no auth attempts in "),
        (("STARTTLS", "LOGIN", "--quota", "--search", "ALL"), "Logged out "),
        (("STARTTLS", "LOGIN", "--search", "NOPE"), "Logged out "),
        (("STARTTLS", "LOGIN", "--folder", "Nope", "--folder", NON_ASCII), "Logged out "),
        (("STARTTLS", "LOGIN", "--expect-login-refused"), "Logged out "),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_dovecot_logs_one_polite_client_that_says_logout(
    dovecot: Dovecot, ca: CertificateAuthority, options: tuple[str, ...], farewell: str
) -> None:
    stand_for = {"STARTTLS": starttls(ca), "LOGIN": login(READER)}
    with logged(dovecot) as lines:
        outcome = check(dovecot, *(word for option in options for word in stand_for.get(option, (option,))))
    assert outcome.code in (0, 2)
    ends = [line for line in lines if "isconnected: " in line]
    assert len(ends) == 1, lines
    assert farewell in ends[0]
    assert "Logged out " in ends[0] or "Aborted login by logging out" in ends[0]
    assert not [line for line in lines if re.search("Error|Warning|Fatal|Panic|Connection closed", line)]
    if farewell == "Logged out ":
        assert "deleted=0 expunged=0 trashed=0 hdr_count=0 hdr_bytes=0 body_count=0 body_bytes=0" in ends[0]


KEYS = {
    "facts": "banner capabilities auth_mechanisms mechanism login server_id folders quota_storage_percent"
    " quota_messages_percent",
    "folder": "folder messages unseen recent mailbox_bytes oldest_age newest_age search_hits",
}


@pytest.mark.parametrize("options", [(), ("LOGIN",), ("--expect", "another")], ids=str)
def test_json_has_every_key_and_the_same_exit_code(
    dovecot: Dovecot, ca: CertificateAuthority, options: tuple[str, ...]
) -> None:
    given = (*starttls(ca), *((*login(READER), *look_into("INBOX", "Nope")) if options == ("LOGIN",) else options))
    outcome = check(dovecot, *given, "--json")
    assert set(outcome.json["facts"]) == set(KEYS["facts"].split())
    for folder in outcome.json["facts"]["folders"]:
        assert set(folder) == set(KEYS["folder"].split())
    assert outcome.code == outcome.json["exit_code"] == check(dovecot, *given).code
    assert outcome.json["protocol"] == "imap"


@pytest.mark.parametrize(("mode", "port"), [("none", 143), ("starttls", 143), ("implicit", 993)])
def test_the_port_follows_from_the_mode(mode: str, port: int) -> None:
    assert running.check("imap", "-H", "127.0.0.1", "--tls", mode, "-t", 2, "--json").json["port"] == port


@pytest.mark.parametrize("name", ["", "a\nb", "\u2028"], ids=ascii)
def test_what_cannot_be_a_folder_is_refused(name: str) -> None:
    options = ("--allow-plaintext-login", *login("user"), *look_into("INBOX", name))
    outcome = running.check("imap", "-H", "127.0.0.1", "-p", 1, *options, env={"PW": PASSWORD})
    assert outcome.code == 3
    assert outcome.first_line.startswith("IMAP UNKNOWN - --folder: value 2")


@pytest.mark.parametrize("option", [("--search", "ALL"), ("--quota",)], ids=" ".join)
def test_what_needs_a_login_says_so(option: tuple[str, ...]) -> None:
    outcome = running.check("imap", "-H", "127.0.0.1", "-p", 1, *option)
    assert outcome.code == 3
    assert outcome.first_line == f"IMAP UNKNOWN - {option[0]}: needs a login: give --username"
