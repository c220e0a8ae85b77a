"""The mailboxes and logins of the tests' servers are as described, as seen by Python's own clients or a bare socket."""

from __future__ import annotations

import imaplib
import poplib
import re
import socket
import ssl
import time
from base64 import b64decode, b64encode
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Optional, Union

import pytest

from .servers import AWKWARD_USER, LOGINS, USER, Login, Server, sasl
from .servers import cyrus as cyrus_server
from .servers import dovecot as dovecot_server
from .servers.dovecot import (
    ACTIVE_SCRIPT,
    BROKEN,
    CLIENT_CERTIFICATES,
    CLOSED,
    CLOSED_REASON,
    EXPIRED,
    FULL,
    FULL_BYTES,
    FULL_LIMIT,
    LOCKED,
    NO_QUOTA,
    NO_TLS,
    PASSWORD,
    QUOTA_UNKNOWN,
    READER,
    SCRIPTS,
    SIEVE_ACTIVE,
    SIEVE_FULL,
    SIEVE_INACTIVE,
    SINGLE,
    STRICT,
    UNAVAILABLE,
)
from .servers.mailboxes import AWKWARD, BYTES_LIMIT, EMPTY, ENCODED, FOLDERS, INBOX, LONG_AGO, MESSAGES_LIMIT, NON_ASCII

PROTOCOLS = ("imap", "pop3", "sieve")


@pytest.fixture
def context(ca) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca.pem_path))


class Client:
    """A conversation with a mailbox server, line by line."""

    def __init__(self, protocol: str, server: Server, host: str = "127.0.0.1") -> None:
        self.protocol = protocol
        self.host = host
        self.socket: Union[socket.socket, ssl.SSLSocket]
        self.socket = socket.create_connection((host, server.ports[protocol]), timeout=20)
        self.file = self.socket.makefile("rb")
        self.greeting = self.hear() if protocol == "sieve" else [self.hear_line()]

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def hear_line(self) -> str:
        return self.file.readline().decode().rstrip("\r\n")

    def hear(self) -> list[str]:
        """The lines of a reply; its last one is what the server thinks of the command."""
        last = {"imap": r"x ", "pop3": r"", "sieve": r"OK|NO|BYE"}[self.protocol]
        lines = [self.hear_line()]
        while lines[-1] and not re.match(last, lines[-1]):
            lines.append(self.hear_line())
        return lines

    def ask(self, command: str) -> list[str]:
        self.socket.sendall(f"{'x ' if self.protocol == 'imap' else ''}{command}\r\n".encode())
        return self.hear()

    def hear_turn(self, line: str) -> str:
        """What the server says in its turn of an authentication: a challenge or its verdict, in one line."""
        self.socket.sendall(f"{line}\r\n".encode())
        reply = self.hear_line()
        if self.protocol == "imap":
            while reply.startswith("* "):
                reply = self.hear_line()
        return f'"{self.hear_line()}"' if reply.startswith("{") else reply  # a literal, as Cyrus has them

    def start_tls(self, context: ssl.SSLContext) -> Client:
        assert re.match(r"(x |\+)?OK", self.ask("STLS" if self.protocol == "pop3" else "STARTTLS")[-1])
        self.socket = context.wrap_socket(self.socket, server_hostname=self.host)
        self.file = self.socket.makefile("rb")
        if self.protocol == "sieve":
            self.greeting = self.hear()
        return self

    def log_in(
        self, mechanism: str, login: Login = USER, binding: Optional[bytes] = None, challenges: Optional[list] = None
    ) -> str:
        """Authenticate with an initial response, if the mechanism has one; returns the server's last line."""
        turns = sasl.client(mechanism, login, binding)
        first = next(turns)
        if self.protocol == "sieve":
            reply = self.hear_turn(f'AUTHENTICATE "{mechanism}"' + ("" if first is None else f' "{encoded(first)}"'))
        else:
            command = "AUTH" if self.protocol == "pop3" else "x AUTHENTICATE"
            reply = self.hear_turn(f"{command} {mechanism}" + ("" if first is None else f" {encoded(first) or '='}"))
        while (challenge := self._challenge(reply)) is not None:
            if challenges is not None:
                challenges.append(challenge)
            response = encoded(turns.send(challenge) or b"")
            reply = self.hear_turn(f'"{response}"' if self.protocol == "sieve" else response)
        final = re.match(r'OK \(SASL "(.*)"\)', reply)
        if final:  # RFC 5804 2.1 has what the server says last together with its OK; Dovecot has not
            turns.send(b64decode(final.group(1)))
        return reply

    def _challenge(self, reply: str) -> Optional[bytes]:
        match = re.match(r'"(.*)"$' if self.protocol == "sieve" else r"\+ ?(?!OK)(.*)$", reply)
        return b64decode(match.group(1)) if match else None


def encoded(response: bytes) -> str:
    return b64encode(response).decode()


def logged_in(reply: str) -> bool:
    return bool(re.match(r"(x |\+)?OK", reply))


def reading(dovecot, username: str = READER) -> imaplib.IMAP4:
    imap = imaplib.IMAP4("127.0.0.1", dovecot.imap)
    imap.login(username, PASSWORD)
    return imap


def quoted(name: str) -> str:
    return '"' + ENCODED[name].replace("\\", "\\\\").replace('"', '\\"') + '"'


# Dovecot: who may log in how


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_dovecot_takes_no_password_before_tls(dovecot, context, protocol):
    with Client(protocol, dovecot, STRICT) as client:
        offered = capabilities(client)
        assert "CRAM-MD5" in offered
        assert not any(mechanism in offered for mechanism in ("PLAIN", "OAUTHBEARER"))
        assert ("LOGINDISABLED" in offered) == (protocol == "imap")
        command = {"imap": "LOGIN x y", "pop3": "USER x", "sieve": 'AUTHENTICATE "PLAIN" "AHgAeQ=="'}[protocol]
        assert client.ask(command)[-1] == {
            "imap": "x NO [PRIVACYREQUIRED] Plaintext authentication disallowed on non-secure (SSL/TLS) connections.",
            "pop3": "-ERR [AUTH] Plaintext authentication disallowed on non-secure (SSL/TLS) connections.",
            "sieve": 'NO "Plaintext authentication disabled."',
        }.get(protocol)
        assert logged_in(client.start_tls(context).log_in("PLAIN"))


def capabilities(client: Client) -> str:
    """What the server offers now, all in one text."""
    lines = client.ask({"imap": "CAPABILITY", "pop3": "CAPA", "sieve": "CAPABILITY"}[client.protocol])
    while client.protocol == "pop3" and lines[-1] != ".":
        lines.append(client.hear_line())
    return "\n".join(lines)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_dovecot_without_tls_takes_passwords(dovecot, protocol):
    with Client(protocol, dovecot, NO_TLS) as client:
        # Dovecot's ManageSieve announces it all the same.
        assert bool(re.search(r"STARTTLS|STLS", capabilities(client))) == (protocol == "sieve")
        if protocol == "sieve":
            assert client.ask("STARTTLS") == ['NO "TLS support isn\'t enabled."']
        assert logged_in(client.log_in("PLAIN"))


@pytest.mark.parametrize("login", LOGINS)
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_dovecot_knows_the_mechanisms_with_a_password(dovecot, context, protocol, mechanism, login):
    with Client(protocol, dovecot, STRICT).start_tls(context) as client:
        assert logged_in(client.log_in(mechanism, login))


@pytest.mark.parametrize(
    ("protocol", "mechanism", "reply"),
    [
        ("imap", "PLAIN", "x NO [AUTHENTICATIONFAILED] Authentication failed."),
        ("imap", "SCRAM-SHA-256", "x NO [AUTHENTICATIONFAILED] Authentication failed."),
        ("pop3", "PLAIN", "-ERR [AUTH] Authentication failed."),
        ("sieve", "PLAIN", 'NO "Authentication failed."'),
    ],
)
def test_dovecot_refuses_a_wrong_password(dovecot, protocol, mechanism, reply):
    with Client(protocol, dovecot) as client:
        assert client.log_in(mechanism, Login(AWKWARD_USER.name, "wrong")) == reply


@pytest.mark.parametrize("mechanism", ["OAUTHBEARER", "XOAUTH2"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_dovecot_lets_in_who_has_a_token(dovecot, protocol, mechanism):
    with Client(protocol, dovecot) as client:
        assert logged_in(client.log_in(mechanism, Login(READER, dovecot.token(READER))))


@pytest.mark.parametrize(
    ("mechanism", "challenge"),
    [
        ("OAUTHBEARER", b'{"status":"invalid_token"}'),
        ("XOAUTH2", b'{"status":"401","schemes":"bearer","scope":"mail"}'),
    ],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_dovecot_refuses_an_expired_token(dovecot, protocol, mechanism, challenge):
    challenges: list[bytes] = []
    login = Login(READER, dovecot.token(READER, timedelta(minutes=-1)))
    with Client(protocol, dovecot) as client:
        assert not logged_in(client.log_in(mechanism, login, challenges=challenges))
    assert challenges == [challenge]


@pytest.mark.parametrize("token", ["another user's", "rubbish"])
def test_dovecot_refuses_a_token_that_is_no_good(dovecot, token):
    with Client("imap", dovecot) as client:
        login = Login(READER, dovecot.token(USER.name) if token == "another user's" else token)
        assert not logged_in(client.log_in("OAUTHBEARER", login))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_dovecot_lets_in_who_has_a_certificate(dovecot, context, protocol):
    with Client(protocol, dovecot, CLIENT_CERTIFICATES).start_tls(context) as client:
        assert not logged_in(client.log_in("EXTERNAL"))
    certificate = dovecot.client_certificate(READER)
    context.load_cert_chain(certificate.cert_path, certificate.key_path)
    with Client(protocol, dovecot, CLIENT_CERTIFICATES).start_tls(context) as client:
        assert logged_in(client.log_in("EXTERNAL"))
    with Client(protocol, dovecot, STRICT).start_tls(context) as client:
        assert not logged_in(client.log_in("EXTERNAL"))


def test_dovecot_knows_apop(dovecot):
    pop = poplib.POP3("127.0.0.1", dovecot.pop3)
    assert pop.apop(READER, PASSWORD) == b"+OK Logged in."
    pop.quit()


def test_dovecot_cannot_bind_channels(dovecot, context):
    with Client("imap", dovecot).start_tls(context) as client:
        assert "-PLUS" not in client.ask("CAPABILITY")[0]
        assert client.log_in("SCRAM-SHA-1-PLUS") == "x NO [ALERT] Unsupported authentication mechanism."


@pytest.mark.parametrize(
    ("username", "replies"),
    [
        (CLOSED, (f"x NO [CONTACTADMIN] {CLOSED_REASON}", f"-ERR [AUTH] {CLOSED_REASON}", f'NO "{CLOSED_REASON}"')),
        (EXPIRED, ("x NO [EXPIRED] Password expired", "-ERR [AUTH] Password expired", 'NO "Password expired"')),
        (
            UNAVAILABLE,
            (
                "x NO [UNAVAILABLE] Temporary authentication failure. [",
                "-ERR [SYS/TEMP] Temporary authentication failure. [",
                'NO (TRYLATER) "Temporary authentication failure. [',
            ),
        ),
        (
            BROKEN,
            (
                "x OK Logged in, but initialization failed.",
                "-ERR [SYS/TEMP] Internal error occurred. Refer to server log for more information.",
                'BYE "Internal error occurred. Refer to server log for more information."',
            ),
        ),
    ],
)
def test_dovecot_refuses_the_login(dovecot, username, replies):
    for protocol, reply in zip(PROTOCOLS, replies):
        with Client(protocol, dovecot) as client:
            assert client.log_in("PLAIN", Login(username, PASSWORD)).startswith(reply)
            if username == BROKEN and protocol == "imap":
                assert client.hear_line().startswith("* BYE Internal error occurred.")


def test_dovecot_refuses_a_second_connection(dovecot, context):
    reason = "Maximum number of connections from user+IP exceeded (mail_max_userip_connections=1)"
    replies = (f"x NO [LIMIT] {reason}", f"-ERR [IN-USE] {reason}", f'NO "{reason}"')
    for protocol, reply in zip(PROTOCOLS, replies):
        with Client(protocol, dovecot, SINGLE).start_tls(context) as first:
            assert logged_in(first.log_in("PLAIN", Login(LOCKED, PASSWORD)))
            with Client(protocol, dovecot, SINGLE).start_tls(context) as second:
                assert second.log_in("PLAIN", Login(LOCKED, PASSWORD)) == reply


def test_dovecot_lets_pop3_wait_for_a_locked_mailbox(dovecot):
    with dovecot.locked_mailbox(), Client("pop3", dovecot) as client:
        start = time.monotonic()
        reply = client.log_in("PLAIN", Login(LOCKED, PASSWORD))
        assert reply == "-ERR [IN-USE] Mailbox is locked by another POP3 session."
        assert time.monotonic() - start > dovecot_server.LOCK_SECONDS - 1
    with Client("pop3", dovecot) as client:
        assert logged_in(client.log_in("PLAIN", Login(LOCKED, PASSWORD)))


# Dovecot: what there is to read


@pytest.mark.parametrize("name", FOLDERS)
def test_the_folders_of_the_reader(dovecot, name):
    with reading(dovecot) as imap:
        status = imap.status(quoted(name), "(MESSAGES UNSEEN SIZE)")[1][0].decode()
    unseen = sum(not mail.seen for mail in FOLDERS[name])
    size = sum(mail.size for mail in FOLDERS[name])
    assert status.endswith(f"(MESSAGES {len(FOLDERS[name])} UNSEEN {unseen} SIZE {size})")


def test_the_names_of_the_folders_in_modified_utf_7(dovecot):
    with reading(dovecot) as imap:
        # Whether a folder counts as marked depends on who has looked into it before.
        listed = [re.sub(rb" \\(Un)?Marked", b"", line) for line in imap.list()[1]]
    assert sorted(listed) == [
        rb'(\HasNoChildren) "/" "Bills &- \"quotes\" \\ so on"',
        rb'(\HasNoChildren) "/" Empty',
        rb'(\HasNoChildren) "/" Entw&APw-rfe/&ZeVnLA-',
        rb'(\HasNoChildren) "/" INBOX',
        rb'(\Noselect \HasChildren) "/" Entw&APw-rfe',
    ]
    assert set(FOLDERS) == {"INBOX", NON_ASCII, AWKWARD, EMPTY}


def test_sizes_and_dates_by_imap(dovecot):
    with reading(dovecot) as imap:
        imap.select("INBOX", readonly=True)
        fetched = imap.fetch("1:*", "(RFC822.SIZE INTERNALDATE FLAGS)")[1]
        assert imap.search(None, "UNSEEN")[1] == [b"4"]
    for mail, line in zip(INBOX, fetched):
        assert f"RFC822.SIZE {mail.size}".encode() in line
        assert (rb"\Seen" in line) == mail.seen
        arrived = datetime.fromtimestamp(time.mktime(imaplib.Internaldate2tuple(line)), timezone.utc)
        assert is_recent(datetime.now(timezone.utc) - arrived - mail.age)


def is_recent(since: timedelta) -> bool:
    """The server's start, from where all ages count, is part of the session."""
    return timedelta(seconds=-2) < since < timedelta(hours=1)


def test_sizes_and_dates_by_pop3(dovecot):
    pop = poplib.POP3("127.0.0.1", dovecot.pop3)
    pop.user(READER)
    pop.pass_(PASSWORD)
    assert pop.stat() == (len(INBOX), sum(mail.size for mail in INBOX))
    assert pop.list()[1] == [f"{number} {mail.size}".encode() for number, mail in enumerate(INBOX, 1)]
    for number, mail in enumerate(INBOX, 1):
        lines = [line.decode() for line in pop.top(number, 0)[1]]
        assert lines[0].startswith("Received: ")
        arrived = parsedate_to_datetime(lines[0].partition("; ")[2])
        assert is_recent(datetime.now(timezone.utc) - arrived - mail.age)
        dates = [parsedate_to_datetime(line[6:]) for line in lines if line.startswith("Date: ")]
        if not mail.dated:
            assert dates == []
        elif mail.date:
            assert dates == [LONG_AGO]
        else:
            assert is_recent(datetime.now(timezone.utc) - dates[0] - mail.age - timedelta(hours=1))
    pop.quit()


@pytest.mark.parametrize(
    ("username", "quota"),
    [
        (READER, f"STORAGE 15 {BYTES_LIMIT // 1024} MESSAGE 7 {MESSAGES_LIMIT}"),
        (FULL, f"STORAGE {FULL_BYTES // 1024} {FULL_LIMIT // 1024}"),
        (NO_QUOTA, None),
        (QUOTA_UNKNOWN, None),
    ],
)
def test_the_quota_of_a_dovecot_user(dovecot, username, quota):
    with Client("imap", dovecot) as client:
        greeting = client.log_in("PLAIN", Login(username, PASSWORD))
        assert (" QUOTA" in greeting) == (username != QUOTA_UNKNOWN)
        lines = client.ask("GETQUOTAROOT INBOX")
    if quota:
        assert lines[:-1] == ['* QUOTAROOT INBOX "User quota"', f'* QUOTA "User quota" ({quota})']
    else:
        assert len(lines) == 1
        assert lines[0].startswith("x OK No quota")


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("EXAMINE Nope", "x NO Mailbox doesn't exist: Nope"),
        ("STATUS Nope (MESSAGES)", "x NO Mailbox doesn't exist: Nope"),
        ("GETQUOTA Nope", "x NO Quota root doesn't exist"),
        ("STATUS Entw&bad (MESSAGES)", "x NO Mailbox name is not valid mUTF-7"),
        ("SEARCH NOPE", "x BAD Error in IMAP command SEARCH: Unknown argument NOPE"),
        ("SEARCH CHARSET X ALL", "x NO [BADCHARSET] Unknown charset"),
    ],
)
def test_dovecot_rejects_the_command(dovecot, command, reply):
    with Client("imap", dovecot) as client:
        client.log_in("PLAIN", Login(READER, PASSWORD))
        client.ask("EXAMINE INBOX")
        assert client.ask(command)[-1].startswith(reply)


@pytest.mark.parametrize(
    ("username", "active", "space"),
    [
        (SIEVE_ACTIVE, " ACTIVE", 'OK "Putscript would succeed."'),
        (SIEVE_INACTIVE, "", 'OK "Putscript would succeed."'),
        (SIEVE_FULL, "", f'NO (QUOTA/MAXSCRIPTS) "Script count quota exceeded (max {len(SCRIPTS)} scripts)."'),
    ],
)
def test_the_scripts_of_a_dovecot_user(dovecot, username, active, space):
    with Client("sieve", dovecot) as client:
        assert client.log_in("PLAIN", Login(username, PASSWORD)) == 'OK "Logged in."'
        assert sorted(client.ask("LISTSCRIPTS")) == [
            r'"höliday \"2\""',
            f'"{ACTIVE_SCRIPT}"{active}',
            'OK "Listscripts completed."',
        ]
        assert client.ask('HAVESPACE "new" 100') == [space]
        large = 'NO (QUOTA/MAXSIZE) "Script is too large (max 1048576 bytes)."'
        assert client.ask('HAVESPACE "new" 99999999') == [large]


def test_dovecot_checks_scripts(dovecot):
    with Client("sieve", dovecot) as client:
        client.log_in("PLAIN", Login(READER, PASSWORD))
        assert client.ask("LISTSCRIPTS") == ['OK "Listscripts completed."']
        assert client.ask("CHECKSCRIPT {5+}\r\nkeep;") == ['OK "Script checked successfully."']
        assert client.ask("CHECKSCRIPT {7+}\r\nnosuch;") == ["NO {110}"]
        assert client.hear_line().startswith("line 1: error: unknown command 'nosuch'")


# Cyrus


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cyrus_takes_no_password_before_tls(cyrus, context, protocol):
    with Client(protocol, cyrus) as client:
        offered = capabilities(client)
        assert "SCRAM-SHA-256" in offered
        assert not any(mechanism in offered for mechanism in ("PLAIN", "-PLUS"))
        assert ("LOGINDISABLED" in offered) == (protocol == "imap")
        assert "SCRAM-SHA-256-PLUS" in capabilities(client.start_tls(context))


@pytest.mark.parametrize("login", LOGINS)
@pytest.mark.parametrize("mechanism", cyrus_server.MECHANISMS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cyrus_knows_the_mechanisms(cyrus, context, protocol, mechanism, login):
    with Client(protocol, cyrus).start_tls(context) as client:
        assert logged_in(client.log_in(mechanism, login))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cyrus_binds_the_channel(cyrus, context, protocol, mechanism, version):
    """By tls-unique, which it does over TLS 1.3 too, where RFC 9266 has tls-exporter instead."""
    context.minimum_version = context.maximum_version = version
    with Client(protocol, cyrus).start_tls(context) as client:
        assert logged_in(client.log_in(mechanism, binding=client.socket.get_channel_binding("tls-unique")))
    with Client(protocol, cyrus).start_tls(context) as client:
        assert not logged_in(client.log_in(mechanism, binding=b"of another channel"))


def test_cyrus_refuses_a_wrong_password(cyrus, context):
    replies = (
        "x NO authentication failure",
        "-ERR [AUTH] authenticating: authentication failure",
        'NO "Authentication Error"',
    )
    for protocol, reply in zip(PROTOCOLS, replies):
        with Client(protocol, cyrus).start_tls(context) as client:
            assert client.log_in("SCRAM-SHA-256", Login(USER.name, "wrong")) == reply


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_cyrus_has_two_mails_and_a_quota(cyrus, context, host):
    old, new = cyrus_server.MAILS
    with imaplib.IMAP4_SSL(host, cyrus.imaps, ssl_context=context) as imap:
        imap.login(*USER)
        status = imap.status("INBOX", "(MESSAGES UNSEEN SIZE)")[1]
        assert status == [f"INBOX (MESSAGES 2 UNSEEN 1 SIZE {old.size + new.size})".encode()]
    with Client("imap", cyrus).start_tls(context) as client:
        client.log_in("PLAIN")
        limits = (cyrus_server.KIBIBYTES_LIMIT, cyrus_server.MESSAGES_LIMIT)
        assert client.ask("GETQUOTAROOT INBOX")[:-1] == [
            "* QUOTAROOT INBOX INBOX",
            "* QUOTA INBOX (STORAGE 2 {} MESSAGE 2 {})".format(*limits),
        ]
        assert client.ask("STATUS Nope (MESSAGES)") == ["x NO Mailbox does not exist"]
    pop = poplib.POP3_SSL(host, cyrus.pop3s, context=context)
    pop.user(USER.name)
    pop.pass_(USER.password)
    assert pop.list()[1] == [f"1 {old.size}".encode(), f"2 {new.size}".encode()]
    pop.quit()
