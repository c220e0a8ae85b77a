"""The public words of a report: the stages of a conversation, the codes of findings with their hints, the states."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Stage(str, Enum):
    """The steps of a conversation, in the words of all protocols; `timings` and the metrics are named after them."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    GREETING = "greeting"
    CAPABILITIES = "capabilities"
    TLS = "tls"
    AUTH = "auth"
    COMMAND = "command"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    RESET = "reset"
    MAILBOX = "mailbox"
    SEARCH = "search"
    QUOTA = "quota"
    SCRIPT = "script"
    QUIT = "quit"


# The states of monitoring that a finding can have, the worst first: what could not be judged must not hide a CRITICAL.
STATES = ("critical", "warning", "unknown", "ok")


class Severity(str, Enum):
    """How much a finding weighs."""

    FAILURE = "failure"
    """Something that the options asked for did not work."""
    TEMPORARY = "temporary"
    """It did not work now, and the server asks to come again later (4xx)."""
    FLAW = "flaw"
    """It worked, but should not stay so."""

    @property
    def state(self) -> str:
        """The state it stands for where nobody chose another: `critical` or `warning`."""
        return "critical" if self is Severity.FAILURE else "warning"


class Code(str, Enum):
    """The stable public words for what can be found; once released, a word stays."""

    NAME_UNKNOWN = "name-unknown"
    NO_ADDRESS = "no-address"
    RESOLVER_FAILED = "resolver-failed"
    CONNECTION_REFUSED = "connection-refused"
    NO_ROUTE = "no-route"
    SOCKET_MISSING = "socket-missing"
    SOCKET_DENIED = "socket-denied"
    TIMEOUT = "timeout"
    CONNECTION_CLOSED = "connection-closed"
    CONNECTION_RESET = "connection-reset"
    WRONG_PROTOCOL = "wrong-protocol"
    MALFORMED_REPLY = "malformed-reply"
    UNEXPECTED_REPLY = "unexpected-reply"
    REPLY_TOO_LONG = "reply-too-long"
    BUSY = "busy"
    RATE_LIMITED = "rate-limited"
    GREETING_REFUSED = "greeting-refused"
    GREETING_DEFERRED = "greeting-deferred"
    GREETING_UNEXPECTED = "greeting-unexpected"
    HELLO_REFUSED = "hello-refused"
    HELLO_DEFERRED = "hello-deferred"
    STARTTLS_NOT_OFFERED = "starttls-not-offered"
    STARTTLS_REFUSED = "starttls-refused"
    STARTTLS_DEFERRED = "starttls-deferred"
    STARTTLS_INJECTION = "starttls-injection"
    TLS_HANDSHAKE_FAILED = "tls-handshake-failed"
    TLS_FAILED = "tls-failed"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_NOT_YET_VALID = "certificate-not-yet-valid"
    CERTIFICATE_UNKNOWN_ISSUER = "certificate-unknown-issuer"
    CERTIFICATE_CHAIN_INCOMPLETE = "certificate-chain-incomplete"
    CERTIFICATE_WRONG_NAME = "certificate-wrong-name"
    CERTIFICATE_WEAK_KEY = "certificate-weak-key"
    CERTIFICATE_WEAK_SIGNATURE = "certificate-weak-signature"
    CERTIFICATE_INVALID = "certificate-invalid"
    AUTH_NOT_OFFERED = "auth-not-offered"
    MECHANISM_NOT_OFFERED = "mechanism-not-offered"
    MECHANISM_UNAVAILABLE = "mechanism-unavailable"
    AUTH_REJECTED = "auth-rejected"
    AUTH_DEFERRED = "auth-deferred"
    AUTH_FAULT = "auth-fault"
    AUTH_FAILED = "auth-failed"
    REFERRAL = "referral"
    ACCOUNT_EXPIRED = "account-expired"
    LOGIN_NOT_REFUSED = "login-not-refused"
    COMMAND_UNEXPECTED_REPLY = "command-unexpected-reply"
    SENDER_REFUSED = "sender-refused"
    SENDER_DEFERRED = "sender-deferred"
    RECIPIENT_REFUSED = "recipient-refused"
    RECIPIENT_DEFERRED = "recipient-deferred"
    MESSAGE_REFUSED = "message-refused"
    MESSAGE_DEFERRED = "message-deferred"
    MAILBOX_UNAVAILABLE = "mailbox-unavailable"
    MAILBOX_IN_USE = "mailbox-in-use"
    LOGIN_DELAY = "login-delay"
    SEARCH_REFUSED = "search-refused"
    QUOTA_UNAVAILABLE = "quota-unavailable"
    QUOTA_EXCEEDED = "quota-exceeded"
    ALERT = "alert"
    SCRIPT_REFUSED = "script-refused"
    NO_ACTIVE_SCRIPT = "no-active-script"
    SYSTEM_TEMPORARY = "system-temporary"
    SYSTEM_PERMANENT = "system-permanent"
    CAPABILITY_MISSING = "capability-missing"
    CAPABILITY_NOT_REFUSED = "capability-not-refused"
    PLAINTEXT_LOGIN_NOT_REFUSED = "plaintext-login-not-refused"
    TLS_NOT_REFUSED = "tls-not-refused"
    INJECTION_NOT_REFUSED = "injection-not-refused"
    RELAY_NOT_REFUSED = "relay-not-refused"
    BARE_NEWLINE_NOT_REFUSED = "bare-newline-not-refused"
    NAME_DISAGREEMENT = "name-disagreement"


CERTIFICATE_CODES = frozenset(code for code in Code if code.value.startswith("certificate-"))

HINTS: Mapping[Code, str] = {
    Code.NAME_UNKNOWN: "DNS: there is no such name. Check the spelling, and the zone if the name is new.",
    Code.NO_ADDRESS: "DNS: the name is there, but without an address of the kind asked for. Look for its A and AAAA"
    " records, and at -4 and -6 (family).",
    Code.RESOLVER_FAILED: "DNS: the resolver gave no answer, so nothing is known of the name or the server. Look at"
    " /etc/resolv.conf and the name servers of the host that runs this check.",
    Code.CONNECTION_REFUSED: "Nothing listens on that port, or a firewall rejects. Is the service running, on this"
    " address and this port?",
    Code.NO_ROUTE: "The network of the host that runs this check has no way there, or a firewall forbids it. Look at"
    " its routes, at IPv6 if that is the address used, and at the firewalls.",
    Code.SOCKET_MISSING: "There is no such Unix socket. Is the service running, and is the path the one it is told to"
    " use (not the one inside its chroot)?",
    Code.SOCKET_DENIED: "The user who runs this check may not use the Unix socket. Look at the mode and owner of the"
    " socket and its directories.",
    Code.TIMEOUT: "At connect: a firewall that drops, or a host that is down. At the greeting: an overloaded server,"
    " its slow DNS or block list look-ups, or a port that waits for TLS (tls: implicit). Later: what the server"
    " asks at that step (accounts, policy, disk).",
    Code.CONNECTION_CLOSED: "The server hung up without a word. Its log says why; think of a connection limit, a block"
    " list, a crash, and of a proxy or firewall in between.",
    Code.CONNECTION_RESET: "The connection was broken off. Think of a crash, a connection limit, or a firewall that"
    " cuts connections; the server's log tells which.",
    Code.WRONG_PROTOCOL: "Another service answers on this port. Check the port, and the protocol that listens there.",
    Code.MALFORMED_REPLY: "This is not what the protocol allows. Think of a broken server, or of a proxy or firewall"
    " that rewrites the conversation.",
    Code.UNEXPECTED_REPLY: "The reply does not belong to the command, so nothing after it can be trusted. Think of a"
    " proxy in between, or of somebody who injects.",
    Code.REPLY_TOO_LONG: "No sane server says that much; the probe stopped listening.",
    Code.BUSY: "The server has no time for us just now or is shutting down. If it stays so: its load, its connection"
    " limits, its disk.",
    Code.RATE_LIMITED: "The server limits how often we may come. Probe less often, or exempt the monitoring host.",
    Code.GREETING_REFUSED: "The server does not talk to the host that runs this check. Look at its access lists and at"
    " block lists for our address.",
    Code.GREETING_DEFERRED: "The server does not talk to us for now. Its log says why.",
    Code.GREETING_UNEXPECTED: "Another server than expected answers, or its banner was changed (expect).",
    Code.HELLO_REFUSED: "The server does not accept the name we say hello with, or our address; see helo.",
    Code.HELLO_DEFERRED: "The server could not check the name we say hello with for now; see helo, and its DNS.",
    Code.STARTTLS_NOT_OFFERED: "TLS is not set up on this port, or something in between takes the offer out"
    " (stripping). Some servers offer it to chosen clients only.",
    Code.STARTTLS_REFUSED: "STARTTLS is offered but does not work: look at the server's certificate and key files.",
    Code.STARTTLS_DEFERRED: "The server cannot do TLS for now (RFC 3207: 454): look at its TLS configuration and log.",
    Code.STARTTLS_INJECTION: "Plain text came behind the go-ahead for TLS: a broken server, or somebody in between who"
    " injects replies (CVE-2021-22947 and its kin).",
    Code.TLS_HANDSHAKE_FAILED: "Client and server found no common way: protocol version, cipher, certificate type; or"
    " the port does not speak TLS from the first byte (tls: starttls), or the server wants a client certificate.",
    Code.TLS_FAILED: "TLS broke after the handshake; a client certificate that is asked for shows up here, too.",
    Code.CERTIFICATE_EXPIRED: "Renew the certificate; if that was done, reload the service, it still uses the old one.",
    Code.CERTIFICATE_NOT_YET_VALID: "The certificate begins later. Check the clocks of server and monitoring host.",
    Code.CERTIFICATE_UNKNOWN_ISSUER: "Nobody we trust signed it: self-signed, a private authority (ca_file), or the"
    " server does not send its intermediate certificates.",
    Code.CERTIFICATE_CHAIN_INCOMPLETE: "Configure the file with the whole chain (fullchain.pem), the server's own"
    " certificate first: browsers fetch what is missing, mail servers do not.",
    Code.CERTIFICATE_WRONG_NAME: "The certificate is for other names. Another one is configured here, or the host is"
    " known by another name (tls_server_name).",
    Code.CERTIFICATE_WEAK_KEY: "Issue the certificate anew with a key of today: EC P-256, or RSA with 2048 bits and"
    " more. Many peers refuse this one.",
    Code.CERTIFICATE_WEAK_SIGNATURE: "Issue the certificate anew with SHA-256: signatures by MD5 and SHA-1 can be"
    " forged, and many peers refuse them.",
    Code.CERTIFICATE_INVALID: "OpenSSL does not accept the certificate for the reason given.",
    Code.AUTH_NOT_OFFERED: "The server offers no login here. Is this the submission port, and is login allowed in this"
    " TLS mode?",
    Code.MECHANISM_NOT_OFFERED: "The server offers login, but by none of the mechanisms wanted (mechanism).",
    Code.MECHANISM_UNAVAILABLE: "The probe cannot compute this mechanism: its Python lacks a hash (FIPS mode) or the"
    " channel binding, or name or password have characters that the mechanism does not allow (RFC 4013).",
    Code.AUTH_REJECTED: "Wrong user name or password, or the account is closed. The probe tries once only, so that it"
    " locks nobody out.",
    Code.AUTH_DEFERRED: "The server could not check the password for now: look at its account database (LDAP, SQL,"
    " the socket of the authentication service).",
    Code.AUTH_FAULT: "The server's part of the login is wrong: a broken server, or one that does not know the password"
    " and only acts as if.",
    Code.AUTH_FAILED: "The login did not work, for another reason than the password: see the server's words and log.",
    Code.REFERRAL: "The server sends its users elsewhere; the probe does not follow: the password would go there.",
    Code.ACCOUNT_EXPIRED: "The password or the account has expired: renew it where it is kept.",
    Code.LOGIN_NOT_REFUSED: "This login must not work any more: close the account, change the password, and look into"
    " the log for who used it.",
    Code.COMMAND_UNEXPECTED_REPLY: "The reply to the extra command is not what the response asked for.",
    Code.SENDER_REFUSED: "The server does not take mail from this sender: a policy, a block list, or a login that is"
    " needed first.",
    Code.SENDER_DEFERRED: "The server takes no mail from this sender for now: disk space, DNS, policy service.",
    Code.RECIPIENT_REFUSED: "No such user, relaying denied, or a policy: the server's words and its enhanced status"
    " code (RFC 3463) say which.",
    Code.RECIPIENT_DEFERRED: "Greylisting, a full mailbox or a look-up that failed; if it stays so, look into the"
    " server's log.",
    Code.MESSAGE_REFUSED: "The envelope was fine, the message was not: a content filter, a size limit, a quota.",
    Code.MESSAGE_DEFERRED: "The message was not taken for now: disk space, a filter (milter) that is down, a quota.",
    Code.MAILBOX_UNAVAILABLE: "The login worked, but there is no such folder or it does not open: look at the spelling,"
    " the mailbox's files, their owner and locks, and the mail location that the server computes for this user.",
    Code.SEARCH_REFUSED: "The server does not accept the search: see its words, and RFC 9051 6.4.4 for the keys.",
    Code.QUOTA_UNAVAILABLE: "There is no quota to measure: not offered, not set for this user, or not for this folder.",
    Code.QUOTA_EXCEEDED: "The mailbox is full, and new mail will not fit: clean up, or raise the limit.",
    Code.ALERT: "The server wants people to read this.",
    Code.SCRIPT_REFUSED: "The server does not take it: no Sieve, an extension that is not enabled, no space, or a"
    " script storage that does not open.",
    Code.NO_ACTIVE_SCRIPT: "Filters and vacation notices of this user do not run; activate a script.",
    Code.MAILBOX_IN_USE: "Another session has locked the mailbox. Is somebody reading it, or did a session not end?",
    Code.LOGIN_DELAY: "The server wants more time between two logins of one user. Probe less often.",
    Code.SYSTEM_TEMPORARY: "Something behind the server does not work for now: its account database, storage, network.",
    Code.SYSTEM_PERMANENT: "Something behind the server does not work, and somebody has to mend it: see its log.",
    Code.CAPABILITY_MISSING: "The server does not offer what it must: a module that is not loaded, another version, or"
    " a proxy in between that takes it out.",
    Code.CAPABILITY_NOT_REFUSED: "The server offers what it must not: switch it off where the service is configured.",
    Code.PLAINTEXT_LOGIN_NOT_REFUSED: "Logins are possible where everybody on the way can read along, and most programs"
    " send the password. Demand TLS before login: Postfix:"
    " smtpd_tls_auth_only, Dovecot: ssl=required or disable_plaintext_auth, Cyrus: allowplaintext: no.",
    Code.TLS_NOT_REFUSED: "The server still speaks an old version of TLS: raise its minimum (Postfix:"
    " smtpd_tls_protocols, Dovecot: ssl_min_protocol, Exim: openssl_options).",
    Code.INJECTION_NOT_REFUSED: "The server takes what came in clear behind STARTTLS for what came over TLS, so that"
    " anybody on the way can put commands into a session (CVE-2011-0411): update it.",
    Code.RELAY_NOT_REFUSED: "The server takes mail for others from us without a login. Is it an open relay, or is the"
    " host that runs this check among those that may relay?",
    Code.BARE_NEWLINE_NOT_REFUSED: "Mail can be smuggled in (SMTP smuggling, CVE-2023-51764 and its kin): update the"
    " server, and let it refuse bare newlines (Postfix: smtpd_forbid_bare_newline).",
    Code.NAME_DISAGREEMENT: "Greeting, reverse and forward DNS should tell the same name; many receivers refuse mail"
    " from a host where they do not.",
}
