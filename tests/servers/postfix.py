"""A Postfix with one smtpd service for each behaviour that a probe should know."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import DOMAIN, MAILBOXES, SEARCH_PATH, Server, loopback_addresses, wait_until
from .certificates import Certificate, CertificateAuthority
from .tls_services import TLS_CERTIFICATES, TLS_FROM, TLS_ONLY, TlsService

OFFER_TLS = {"smtpd_tls_security_level": "may"}
TLS_FIRST = {"smtpd_tls_wrappermode": "yes"}
LOGIN = {
    "smtpd_sasl_auth_enable": "yes",
    "smtpd_tls_auth_only": "yes",
    "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
}
RELAY_FOR_NETWORKS = "permit_mynetworks, reject_unauth_destination"

# Services with STARTTLS, each with another certificate or with other versions; whoever is not here and speaks TLS has
# a good certificate and all versions. For each there is one with TLS from the start, see `Postfix.tls_port()`.
TLS_SERVICES = {**TLS_CERTIFICATES, **TLS_FROM, **TLS_ONLY}
IMPLICIT = "implicit_"

# What each service has beyond MAIN, as options of its line in master.cf.
SERVICES: dict[str, dict[str, str]] = {
    "plain": {},
    "starttls": OFFER_TLS,
    "implicit": TLS_FIRST,
    "submission": {"smtpd_tls_security_level": "encrypt", **LOGIN},
    "submissions": {**TLS_FIRST, **LOGIN},
    "plaintext_auth": {**LOGIN, "smtpd_tls_auth_only": "no"},
    # At the restrictions of the sender nothing has been refused as relaying or unknown yet, so it's every recipient.
    "refusing": {"smtpd_sender_restrictions": "check_recipient_access static:{550 5.7.1 Not welcome here}"},
    "deferring": {"smtpd_sender_restrictions": "check_recipient_access static:{450 4.7.1 Greylisted, come back later}"},
    # No file system has that much room, so MAIL FROM is answered with 452 4.3.1.
    "full": {"queue_minfree": str(2**60)},
    # Without the delay the client is judged before the greeting, which becomes the answer.
    "busy": {
        "smtpd_client_restrictions": "check_client_access static:{421 4.3.2 All server ports are busy}",
        "smtpd_delay_reject": "no",
    },
    # An open relay, for whom everybody is of the house; as everywhere here, what is for elsewhere then vanishes.
    "open_relay": {**OFFER_TLS, "mynetworks": "0.0.0.0/0 [::]/0", "smtpd_relay_restrictions": RELAY_FOR_NETWORKS},
    "rejecting": {"smtpd_client_restrictions": "reject", "smtpd_delay_reject": "no"},
    **dict.fromkeys(TLS_SERVICES, OFFER_TLS),
    **{IMPLICIT + name: TLS_FIRST for name in TLS_SERVICES},
}

# Also reached by a Unix socket: like `plain`.
SOCKET_SERVICE = "smtpd-socket"

# name, type, private, chroot, process limit, command; neither smtp(8) nor pipe(8): nothing can leave this Postfix.
MASTER = """\
postlog    unix-dgram n - n - 1 postlogd
pickup     unix n - n 60 1 pickup
cleanup    unix n - n - 0 cleanup
qmgr       unix n - n 300 1 qmgr
rewrite    unix - - n - - trivial-rewrite
bounce     unix - - n - 0 bounce
defer      unix - - n - 0 bounce
trace      unix - - n - 0 bounce
verify     unix - - n - 1 verify
proxymap   unix - - n - - proxymap
anvil      unix - - n - 1 anvil
tlsmgr     unix - - n 1000? 1 tlsmgr
error      unix - - n - - error
retry      unix - - n - - error
discard    unix - - n - - discard
virtual    unix - n n - - virtual
"""

MAIN = """\
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/log
maillog_file_prefixes = {directory}
myhostname = mail.{domain}
mydestination =
mynetworks =
# Mails to elsewhere are taken from users who have logged in, and vanish.
default_transport = discard
relay_transport = discard
local_transport = error:nothing is local
notify_classes =
alias_maps =
alias_database =
virtual_mailbox_domains = {domain}
virtual_mailbox_maps = inline:{{{mailboxes}}}
virtual_mailbox_base = {directory}/mail
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
message_size_limit = 10240000
smtpd_relay_restrictions = reject_unauth_destination
smtpd_sasl_type = dovecot
smtpd_sasl_path = {auth_socket}
# There is no name server where tests run, and many connections come at once.
smtpd_peername_lookup = no
smtpd_error_sleep_time = 0
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
"""

# All directories that `postfix check` would create belong to postfix, except for the queue's own and its pid/.
PRIVATE_QUEUES = (
    *("active", "bounce", "corrupt", "defer", "deferred", "flush"),
    *("hold", "incoming", "private", "saved", "trace"),
)


class Postfix(Server):
    """Postfix; the users who can log in are Dovecot's."""

    name = "Postfix"
    program = "postfix"
    services = SERVICES

    def __init__(self, ca: CertificateAuthority, auth_socket: Path) -> None:
        self._ca = ca
        self._auth_socket = auth_socket

    @property
    def socket_path(self) -> Path:
        """The Unix socket of a service like `plain`."""
        return self.directory / "queue" / "public" / SOCKET_SERVICE

    def tls_port(self, service: str, implicit: bool = False) -> int:
        """The port of one of TLS_SERVICES, with STARTTLS or with TLS from the start."""
        return self.ports[IMPLICIT + service if implicit else service]

    def configure(self) -> None:
        self.make_directory("queue", "root")
        self.make_directory("queue/pid", "root")
        for name in PRIVATE_QUEUES:
            self.make_directory(f"queue/{name}", "postfix", mode=0o700)
        self.make_directory("queue/maildrop", "postfix", "postdrop", mode=0o730)
        self.make_directory("queue/public", "postfix", "postdrop", mode=0o710)
        self.make_directory("data", "postfix", mode=0o700)
        owner = self.make_directory("mail", "postfix").stat()
        main = self.write(
            "main.cf",
            MAIN.format(
                directory=self.directory,
                domain=DOMAIN,
                mailboxes=", ".join(f"{name}@{DOMAIN}={name}/" for name in MAILBOXES),
                uid=owner.st_uid,
                gid=owner.st_gid,
                auth_socket=self._auth_socket,
            ),
        )
        # Every process of Postfix waits for seconds before it reads a file that somebody may still be writing.
        os.utime(main, (0, 0))
        self.write("master.cf", MASTER + "\n".join(self._listeners()) + "\n")

    def _listeners(self) -> Iterator[str]:
        good = chain_files([self._ca.issue()])
        special = {name: self._tls_options(service) for name, service in TLS_SERVICES.items()}
        yield f"{SOCKET_SERVICE} unix n - n - - smtpd"
        for service, options in SERVICES.items():
            tls = special.get(service.removeprefix(IMPLICIT), good)
            if any(name.startswith("smtpd_tls_") for name in options):
                options = {**options, **tls}
            for address in loopback_addresses():
                yield f"[{address}]:{self.ports[service]} inet n - n - - smtpd"
                yield f"  -o syslog_name=postfix/{service}"
                for name, value in options.items():
                    yield f"  -o {{{name} = {value}}}"

    def _tls_options(self, service: TlsService) -> dict[str, str]:
        versions = f">={service.oldest}, <={service.newest}"
        # Ciphers need no choice, since Postfix itself lowers the security level to 0.
        return {
            **chain_files(service.certificates(self._ca)),
            "smtpd_tls_protocols": versions,
            "smtpd_tls_mandatory_protocols": versions,
        }

    def command(self) -> list[str]:
        # master(8) itself: `postfix start-fg` does no more than to check the directories that we have just made.
        postconf = ["postconf", "-c", str(self.directory), "-h", "daemon_directory"]
        daemons = subprocess.run(postconf, env={"PATH": SEARCH_PATH}, check=True, capture_output=True, text=True)
        return [f"{daemons.stdout.strip()}/master", "-c", str(self.directory), "-s"]

    @contextmanager
    def logged(self) -> Iterator[list[str]]:
        """Fill the list with the lines that the conversations in the block have caused, when they have all ended."""
        wait_until(lambda: self._all_ended(self.log()), "Postfix to log the end of earlier conversations")
        start = len(self.log())
        lines: list[str] = []
        yield lines
        wait_until(lambda: self._all_ended(self.log()[start:]), "Postfix to log the end of every conversation")
        lines[:] = self.log()[start:].splitlines()

    @staticmethod
    def _all_ended(log: str) -> bool:
        # Never none: the first conversation was the one that found out whether Postfix had started.
        return 0 < log.count(": connect from ") == log.count(": disconnect from ")


def chain_files(certificates: Iterable[Certificate]) -> dict[str, str]:
    files = ", ".join(f"{certificate.key_path}, {certificate.cert_path}" for certificate in certificates)
    return {"smtpd_tls_chain_files": files}
