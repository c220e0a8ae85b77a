"""The scripted server itself: it says what the script says, hears what it should, and always ends."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.scripted import Script, Scripted, ScriptError, unescape

pytestmark = pytest.mark.once

CONVERSATIONS = sorted((Path(__file__).parent / "conversations").rglob("*.txt"))


@pytest.fixture(autouse=True)
def in_time_and_without_leaks() -> Iterator[None]:
    """No test takes long, no thread outlives its server."""
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < 5
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("scripted")] == []


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@contextlib.contextmanager
def client(server: Scripted) -> Iterator[socket.socket]:
    with socket.create_connection((server.host, server.port), timeout=3) as sock:
        yield sock


def all_of(sock: socket.socket) -> bytes:
    """What the server says until it closes."""
    heard = b""
    while data := sock.recv(65536):
        heard += data
    return heard


def talk(server: Scripted, words: bytes = b"") -> bytes:
    """Say something at once, hear all."""
    with client(server) as sock:
        sock.sendall(words)
        return all_of(sock)


def test_plays_a_conversation() -> None:
    with Scripted("# Title\nS: 220 mx\nC: ehlo *\nS: 250-mx\nS: 250 SIZE\nC: QUIT\nS: 221 Bye\n") as server:
        assert talk(server, b"EHLO me\r\nquit\r\n") == b"220 mx\r\n250-mx\r\n250 SIZE\r\n221 Bye\r\n"
    assert server.heard == [["EHLO me", "quit"]]
    assert server.heard_bytes == [b"EHLO me\r\nquit\r\n"]
    assert (server.connections, server.errors, server.endings) == (1, [], ["the script ended"])


def test_lines_that_follow_each_other_are_one_segment() -> None:
    with Scripted("S: 220 go\n== raw 250-half\n== silence") as server, client(server) as sock:
        assert sock.recv(100) == b"220 go\r\n250-half"


def test_wait_parts_segments_and_segments_1_parts_octets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.scripted.SEGMENT_PAUSE", 0.1)  # for a busy machine
    with Scripted("S: a\n== wait 0.1\n== segments 1\nS: b") as server, client(server) as sock:
        assert [sock.recv(100) for _ in range(4)] == [b"a\r\n", b"b", b"\r", b"\n"]


def test_something_else_is_an_error_and_ends_the_conversation() -> None:
    with Scripted("C: EHLO *\nS: 250 mx") as server:
        assert talk(server, b"HELO me\r\nQUIT\r\n") == b""
    assert server.errors == ["connection 1: expected 'EHLO *', heard 'HELO me'"]


@pytest.mark.parametrize("words", [b"QUIT\n", b"DATA\r\na\nb\r\n.\r\n"])
def test_a_bare_line_feed_is_an_error(words: bytes) -> None:
    with Scripted("C: *\nC: <data>" if b"DATA" in words else "C: *") as server:
        talk(server, words)
    assert len(server.errors) == 1


@pytest.mark.parametrize("body", [b"", b"Subject: x\r\n\r\n..dot\r\n"])
def test_hears_a_message_to_its_dot(body: bytes) -> None:
    with Scripted("C: DATA\nS: 354\nC: <data>\nS: 250\nC: QUIT") as server:
        assert talk(server, b"DATA\r\n" + body + b".\r\nQUIT\r\n") == b"354\r\n250\r\n"
    assert server.heard == [["DATA", body, "QUIT"]]
    assert server.errors == []


def test_a_client_that_goes_is_no_error() -> None:
    with Scripted("S: 220 mx\nC: EHLO *\nS: 250 mx") as server:
        with client(server) as sock:
            sock.sendall(b"EHL")
        assert server.finish()
    assert server.errors == []
    assert server.endings[0].startswith("the client went")


def test_each_connection_has_its_script_and_the_last_one_repeats() -> None:
    with Scripted("S: one\n--- next connection ---\nS: two\n") as server:
        assert [talk(server) for _ in range(3)] == [b"one\r\n", b"two\r\n", b"two\r\n"]
    assert server.connections == 3


def test_connections_are_served_at_the_same_time() -> None:
    with Scripted("S: one\n== silence\n---\nS: two") as server, client(server) as first:
        assert first.recv(100) == b"one\r\n"
        assert talk(server) == b"two\r\n"


def test_escapes_and_what_was_heard() -> None:
    assert unescape(r"\x1b\xff\r\n\t\0\\ ä\u2028") == b"\x1b\xff\r\n\t\0\\ \xc3\xa4\xe2\x80\xa8"
    with Scripted("C: * LOGIN *\nS: {tag} NO you said {line}") as server:
        assert talk(server, b"a1 login me\r\n") == b"a1 NO you said a1 login me\r\n"


def test_repeat() -> None:
    with Scripted("== repeat 3\nS: ab\nS: c\n== repeat 2\n== raw x") as server:
        assert talk(server) == b"ab\r\nab\r\nab\r\nc\r\nxx"


def test_any_takes_everything_until_quit() -> None:
    with Scripted("== any") as server:
        assert talk(server, b"RSET\r\nNOOP\r\nquit\r\n") == b"250 OK\r\n250 OK\r\n221 Bye\r\n"


def test_any_with_a_text_leaves_the_farewell_to_the_script() -> None:
    with Scripted("== any {tag} OK\nS: {tag} BYE") as server:
        assert talk(server, b"a1 NOOP\r\na2 x\r\na3 logout\r\n") == b"a1 OK\r\na2 OK\r\na3 BYE\r\n"


def test_a_tag_lasts_over_continuations_and_literals() -> None:
    script = "C: * LOGIN {*}\nS: + go\nC: <literal> a\\*\nC: *{*+}\nC: <literal>\nC:\nS: {tag} OK\nC: *\nS: {tag} OK"
    with Scripted(script) as server:
        assert talk(server, b"a1 LOGIN {4}\r\na*\r\n {3+}\r\n\0b\n\r\na2 x\r\n").startswith(b"+ go\r\n")
    assert server.errors == ["connection 1: expected 'a\\\\*', heard 'a*\\r\\n'"]
    with Scripted(script) as server:
        assert talk(server, b"a1 LOGIN {2}\r\na* {3+}\r\n\0b\n\r\na2 x\r\n") == b"+ go\r\na1 OK\r\na2 OK\r\n"
    assert server.errors == []
    assert server.heard == [["a1 LOGIN {2}", b"a*", " {3+}", b"\0b\n", "", "a2 x"]]
    with Scripted("C: *\nC: <literal>") as server:
        talk(server, b"LOGIN 4\r\n")
    assert server.errors == ["connection 1: no literal was announced: 'LOGIN 4'"]


def test_words_base64_and_the_nonce() -> None:
    script = "C: A {base64 \\0{name}\\x01}\nS: {base64 {name}, {port}}\nC: B *\nS: {base64 r={nonce}x,i=1}"
    with Scripted(script, words={"name": "näme"}) as server:
        first, second = (base64.b64encode(text) for text in ("\0näme\1".encode(), b"n,,n=me,r=abc"))
        heard = talk(server, b'A %s\r\nB "%s"\r\n' % (first, second)).split()
        assert [base64.b64decode(word).decode() for word in heard] == [f"näme, {server.port}", "r=abcx,i=1"]
    assert server.errors == []


def test_flood_ends_at_its_size() -> None:
    with Scripted("== flood 2 MiB spam\n") as server:
        assert 2 * 2**20 <= len(talk(server)) <= 2 * 2**20 + 2**17


def test_drip_and_every_go_on_until_the_client_goes() -> None:
    with Scripted("== drip 0.02 ab\n---\n== every 0.02 x\\r\\n") as server:
        for start in (b"ababa", b"x\r\nx\r\n"):
            with client(server) as sock:
                heard = b""
                while len(heard) < len(start):
                    heard += sock.recv(100)
                assert heard.startswith(start)
        assert server.finish()
    assert server.errors == []


def test_reset_is_a_reset_and_close_is_not() -> None:
    with Scripted("C: a\n== reset\n---\nC: a\n== close") as server:
        with pytest.raises(ConnectionResetError):
            talk(server, b"a\r\n")
        assert talk(server, b"a\r\nunread\r\n") == b""
    assert server.endings == ["the server reset", "the server closed"]


@pytest.mark.parametrize(
    "script",
    [
        "== silence",
        "== stop reading",
        "== wait 60",
        "== drip 60 x",
        "== every 60 x",
        "== flood x",
        "== any",
        "C: x",
        "C: <data>",
        "== tls",
    ],
)
def test_stops_at_once_whatever_it_does(script: str, server_tls: ssl.SSLContext) -> None:
    with Scripted(script, tls=server_tls) as server:
        sock = socket.create_connection((server.host, server.port), timeout=3)
        time.sleep(0.05)
        begin = time.monotonic()
    sock.close()
    assert time.monotonic() - begin < 1
    assert server.errors == []


def test_a_server_that_stops_reading_blocks_the_sender() -> None:
    with Scripted("== stop reading") as server, client(server) as sock:
        sock.settimeout(0.3)
        with pytest.raises(socket.timeout):
            sock.sendall(bytes(64 * 2**20))


def test_starttls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    script = "C: STARTTLS\nS: 220 go\n== starttls\nC: EHLO *\nS: 250 mx"
    with Scripted(script, tls=server_tls) as server, client(server) as sock:
        sock.sendall(b"STARTTLS\r\n")
        assert sock.recv(100) == b"220 go\r\n"
        with client_tls.wrap_socket(sock, server_hostname="127.0.0.1") as inside:
            inside.sendall(b"EHLO me\r\n")
            assert all_of(inside) == b"250 mx\r\n"
    assert server.heard_bytes == [b"STARTTLS\r\nEHLO me\r\n"]
    assert server.errors == []


@pytest.mark.parametrize("end", ["close", "cut"])
def test_tls_ends_with_a_close_notify_or_without(
    end: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    client_tls.options &= ~0x80  # SSL_OP_IGNORE_UNEXPECTED_EOF, which Python 3.9 sets
    with Scripted(f"== tls\nS: 220 mx\n== {end}", tls=server_tls) as server, client(server) as sock:
        inside = client_tls.wrap_socket(sock, server_hostname="127.0.0.1", suppress_ragged_eofs=False)
        with inside, contextlib.nullcontext() if end == "close" else pytest.raises(ssl.SSLError):
            assert all_of(inside) == b"220 mx\r\n"


def test_a_client_that_trusts_nobody_is_no_error(server_tls: ssl.SSLContext) -> None:
    untrusting = ssl.create_default_context()
    refused = pytest.raises(ssl.SSLCertVerificationError)
    with Scripted("== tls\nS: 220 mx", tls=server_tls) as server, client(server) as sock, refused:
        untrusting.wrap_socket(sock, server_hostname="127.0.0.1")
    assert server.errors == []


def test_a_client_gone_before_the_handshake_leaves_no_socket_behind(server_tls: ssl.SSLContext) -> None:
    script = "C: STARTTLS\n== wait 0.3\n== starttls"
    with Scripted(script, tls=server_tls) as server, client(server) as sock:
        sock.sendall(b"STARTTLS\r\n")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        server.finish()
    assert server.endings[0].startswith("the client went")
    assert server.errors == []


def test_words_before_the_handshake_are_an_error(server_tls: ssl.SSLContext) -> None:
    with Scripted("C: STARTTLS\n== starttls", tls=server_tls) as server:
        talk(server, b"STARTTLS\r\nEHLO me\r\n")
    assert server.errors == ["connection 1: said before the handshake: 'EHLO me\\r\\n'"]


def test_listens_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    with Scripted("S: 220 mx", path=path) as server, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(server.path)
        assert all_of(sock) == b"220 mx\r\n"
    assert not path.exists()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_listens_on_ipv6() -> None:
    try:
        with Scripted("S: 220 mx", host="::1") as server:
            assert talk(server) == b"220 mx\r\n"
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


@pytest.mark.parametrize("line", ["X: hello", "== dance", "S: \\q", "== wait soon", "== flood", "# expect: ok"])
def test_a_wrong_script_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(ScriptError, match="script:2: "):
        Script.read(f"# Title\n{line}")


def test_a_script_with_tls_needs_a_context() -> None:
    with pytest.raises(ScriptError, match="TLS"):
        Scripted("== tls")


def test_options_of_a_script() -> None:
    script = Script.read("# A title\n# expect: warning busy\n# options: --ca-file {ca_file} --helo 'a b'\n# More.")
    assert (script.title, script.state, script.code) == ("A title", "warning", "busy")
    assert script.options(ca_file="/x y") == ["--ca-file", "/x y", "--helo", "a b"]
    script = Script.read("# A title\n# prints: a\n# hides: b: c\n# prints: d")
    assert (script.prints, script.hides) == (["a", "d"], ["b: c"])


@pytest.mark.parametrize("path", CONVERSATIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_conversation_says_what_is_expected(path: Path) -> None:
    script = Script.read(path)
    assert script.title.endswith("."), "a title is a sentence"
    assert script.state in ("ok", "warning", "critical", "unknown")
    assert (script.code == "-") == (script.state in ("ok", "unknown"))
    assert (script.state == "ok") == path.stem.startswith("ok-")
    assert "--timeout" in script.option_text or script.code != "timeout"
