"""A Dovecot: mailboxes behind LMTP, IMAP, POP3 and ManageSieve, and the logins of Postfix."""

from __future__ import annotations

import hmac
import json
import os
import poplib
import shutil
import subprocess
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

from ..canary import ASCII_CANARY
from . import DOMAIN, LOGINS, MAILBOXES, Login, Server, free_port, loopback_addresses
from .certificates import LOCAL_NAMES, Certificate, CertificateAuthority
from .mailboxes import BYTES_LIMIT, ENCODED, FOLDERS, MESSAGES_LIMIT, Mail
from .tls_services import ANY_CIPHER, TLS_CERTIFICATES, TLS_FROM

# service: Dovecot's process and whether TLS comes first
LISTENERS = {
    "lmtp": ("lmtp", False),
    "imap": ("imap-login", False),
    "imaps": ("imap-login", True),
    "pop3": ("pop3-login", False),
    "pop3s": ("pop3-login", True),
    "sieve": ("managesieve-login", False),
    "submission": ("submission-login", False),
}

# All services are on these addresses too, at the same ports. Who connects to them comes from 127.0.0.1, another
# address, and only that is a connection from elsewhere for Dovecot: one from an address to itself counts as secured,
# and its passwords need no TLS, whatever the configuration says.
STRICT = "127.0.0.2"  # no passwords in the clear before TLS
NO_TLS = "127.0.0.3"  # no TLS, hence passwords in the clear
CLIENT_CERTIFICATES = "127.0.0.4"  # after TLS with a certificate of `Dovecot.client_certificate()`: its owner
SINGLE = "127.0.0.5"  # like STRICT, but for no more than one connection of a user at a time
# Each has another certificate or other versions of TLS: `Dovecot.tls_address()`. No Dovecot can be told to speak an old
# version of TLS only.
TLS_SERVICES = {**TLS_CERTIFICATES, **TLS_FROM}
TLS_ADDRESSES = {name: f"127.0.1.{number}" for number, name in enumerate(TLS_SERVICES, start=1)}
ADDRESSES = (STRICT, NO_TLS, CLIENT_CERTIFICATES, SINGLE, *TLS_ADDRESSES.values())

# All users below have this password.
PASSWORD = ASCII_CANARY


def user(name: str) -> str:
    return f"{name}@{DOMAIN}"


# Mailboxes that take no mail (refused at RCPT TO), or only small ones (refused after DATA).
FULL = user("full")
FULL_BYTES, FULL_LIMIT = 5 * 1024, 2 * 1024
SMALL = user("small")
SMALL_BYTES = 2000

READER = user("reader")  # has the mails of mailboxes.py and a quota
NO_QUOTA = user("no-quota")  # has no quota
QUOTA_UNKNOWN = user("quota-unknown")  # QUOTA is not among the capabilities after this login
BROKEN = user("broken")  # can log in, whereupon Dovecot fails and closes the connection
LOCKED = user("locked")  # whose mailbox can be opened by POP3 only once at a time: `Dovecot.locked_mailbox()`
CLOSED = user("closed")  # the login is refused, with a reason
EXPIRED = user("expired")  # the password has expired
UNAVAILABLE = user("unavailable")  # the login is refused for the time being
SIEVE_ACTIVE = user("sieve-active")  # has SCRIPTS, ACTIVE_SCRIPT is active
SIEVE_INACTIVE = user("sieve-inactive")  # has SCRIPTS, none active
SIEVE_FULL = user("sieve-full")  # has as many SCRIPTS as allowed

LOCK_SECONDS = 10  # how long Dovecot waits for a locked mailbox; not for us to configure
CLOSED_REASON = "Account closed"
SCRIPTS = {"main": "keep;\n", 'höliday "2"': "discard;\n"}
ACTIVE_SCRIPT = "main"

# user: fields of the userdb
FIELDS: dict[str, tuple[str, ...]] = {
    FULL: (f"quota_rule=*:bytes={FULL_LIMIT}",),
    SMALL: (f"quota_rule=*:bytes={SMALL_BYTES}",),
    READER: (f"quota_rule=*:bytes={BYTES_LIMIT}:messages={MESSAGES_LIMIT}",),
    NO_QUOTA: (),
    QUOTA_UNKNOWN: ("mail_plugins=quota",),
    BROKEN: ("mail_plugins=missing",),
    LOCKED: ("pop3_lock_session=yes",),
    SIEVE_ACTIVE: (),
    SIEVE_INACTIVE: (),
    SIEVE_FULL: (f"sieve_quota_max_scripts={len(SCRIPTS)}", "sieve_quota_max_storage=1000"),
}

# user: what the passdb says about every login
REFUSALS: dict[str, str] = {
    CLOSED: "dovecot.auth.PASSDB_RESULT_OK, "
    f'{{password={json.dumps(PASSWORD, ensure_ascii=False)}, nologin="y", reason="{CLOSED_REASON}"}}',
    EXPIRED: 'dovecot.auth.PASSDB_RESULT_PASS_EXPIRED, ""',
    UNAVAILABLE: 'dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, ""',
}

# The user whom Dovecot gives to what belongs to no system user; root and Dovecot's own are not allowed to be it.
MAIL_USER = "mail"

CONFIGURATION = """\
protocols = lmtp imap pop3 sieve submission
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
listen = {addresses}

ssl = yes
ssl_cert = <{certificate.cert_path}
ssl_key = <{certificate.key_path}
disable_plaintext_auth = yes
local {no_tls} {{
  ssl = no
  disable_plaintext_auth = no
}}
local {client_certificates} {{
  ssl_ca = <{ca}
  ssl_require_crl = no
  ssl_verify_client_cert = yes
}}
auth_ssl_username_from_cert = yes
local {single} {{
  mail_max_userip_connections = 1
}}

auth_mechanisms = {mechanisms}
# Tests with wrong passwords need not wait, and those that come after them neither.
auth_failure_delay = 0
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
passdb {{
  driver = lua
  mechanisms = {password_mechanisms}
  args = file={directory}/refusals.lua blocking=no
}}
passdb {{
  driver = passwd-file
  mechanisms = {password_mechanisms}
  args = {directory}/users
}}
passdb {{
  driver = oauth2
  mechanisms = oauthbearer xoauth2
  args = {directory}/oauth2.conf
}}
# The certificate is all that is asked of its owner.
passdb {{
  driver = static
  mechanisms = external
  args = nopassword
}}
userdb {{
  driver = passwd-file
  args = {directory}/users
}}
service auth {{
  unix_listener {directory}/auth {{
    mode = 0666
  }}
}}

mail_uid = {user}
mail_gid = {user}
first_valid_uid = 1
mail_location = maildir:{directory}/mail/%n
namespace inbox {{
  inbox = yes
  separator = /
}}
mail_plugins = quota
protocol imap {{
  mail_plugins = quota imap_quota
}}
lmtp_rcpt_check_quota = yes
plugin {{
  quota = count:User quota
  quota_vsizes = yes
  quota_grace = 0
  sieve = file:{directory}/home/%n/sieve;active={directory}/home/%n/active.sieve
}}
# After the login, submission is a conversation with another server; before it, it is Dovecot's own.
hostname = {domain}
submission_relay_host = 127.0.0.1
submission_relay_port = {relay_port}
service lmtp {{
  unix_listener {directory}/lmtp {{
    mode = 0666
  }}
}}
"""

TLS_LOCAL = """\
local {address} {{
  ssl_cert = <{certificate.cert_path}
  ssl_key = <{certificate.key_path}
  ssl_alt_cert = {alt_cert}
  ssl_alt_key = {alt_key}
  ssl_min_protocol = {oldest}
  ssl_cipher_list = {ciphers}
}}
"""

LISTENER = """\
service {process} {{
  inet_listener {service} {{
    port = {port}
    ssl = {ssl}
  }}
}}
"""

PASSWORD_MECHANISMS = ("plain", "login", "apop", "cram-md5", "scram-sha-1", "scram-sha-256")
MECHANISMS = (*PASSWORD_MECHANISMS, "oauthbearer", "xoauth2", "external")

# Only Lua can say all that there is to say about a login.
REFUSALS_SCRIPT = """\
function auth_passdb_lookup(request)
  {refusals}
  return dovecot.auth.PASSDB_RESULT_USER_UNKNOWN, ""
end
"""
REFUSAL = 'if request.user == "{name}" then return {answer} end'

# The tokens are looked at here, and nobody is asked about them.
OAUTH2_CONFIGURATION = """\
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={directory}/keys/
username_attribute = sub
issuers = {issuer}
"""
ISSUER = f"https://login.{DOMAIN}"


# Dovecot's first process ends the others. Told to end at the same time as they, it sometimes starts one of them anew
# and then waits for it forever.
GUARD = 'read -r _; kill -s TERM "$0"'


class Dovecot(Server):
    """Dovecot 2.3.

    Besides the ports on `loopback_addresses()` there are the same on all ADDRESSES.
    """

    name = "Dovecot"
    program = "dovecot"
    services = LISTENERS
    guard = GUARD

    def __init__(self, ca: CertificateAuthority, relay_port: int = 0) -> None:
        """`relay_port` is that of the server that takes what is submitted; without one, logins to submission fail."""
        self._ca = ca
        self._relay_port = relay_port
        self._key = os.urandom(32)

    @property
    def auth_socket(self) -> Path:
        """The Unix socket at which Postfix asks for logins."""
        return self.directory / "auth"

    @property
    def lmtp_socket(self) -> Path:
        """The Unix socket of LMTP."""
        return self.directory / "lmtp"

    def token(self, username: str, lifetime: timedelta = timedelta(hours=1)) -> str:
        """A token with which a user can log in (OAUTHBEARER, XOAUTH2); expired if its lifetime is negative."""
        now = datetime.now(timezone.utc)
        claims = {
            "iss": ISSUER,
            "sub": username,
            "iat": int((now - timedelta(days=1)).timestamp()),
            "exp": int((now + lifetime).timestamp()),
        }
        signed = ".".join(base64url(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
        return f"{signed}.{base64url(hmac.digest(self._key, signed.encode(), 'sha256'))}"

    def tls_address(self, service: str) -> str:
        """The address of one of TLS_SERVICES, for which its certificate is good, too, if it is for this host at all.

        All ports are there, but LMTP has no certificate of its own at any address.
        """
        return TLS_ADDRESSES[service]

    def client_certificate(self, username: str) -> Certificate:
        """A certificate with which a user can log in (EXTERNAL) at CLIENT_CERTIFICATES."""
        return self._ca.issue(username, common_name=username)

    @contextmanager
    def locked_mailbox(self) -> Iterator[None]:
        """Keep LOCKED's mailbox open by POP3; others are told [IN-USE] after LOCK_SECONDS."""
        with closing(poplib.POP3("127.0.0.1", self.pop3)) as pop:
            pop.user(LOCKED)
            pop.pass_(PASSWORD)
            try:
                yield
            finally:
                pop.quit()

    @classmethod
    def missing(cls) -> str:
        reason = super().missing()
        if not reason:
            version = subprocess.run([str(cls.find_program()), "--version"], check=True, capture_output=True, text=True)
            if not version.stdout.startswith("2.3."):
                reason = f"the tests know the configuration of Dovecot 2.3 only, this is {version.stdout.strip()}"
        return reason

    def configure(self) -> None:
        for name in ("mail", "home", "keys"):
            self.make_directory(name, MAIL_USER)
        self._fill_mailboxes()
        self._write_scripts()
        configuration = CONFIGURATION.format(
            directory=self.directory,
            addresses=", ".join((*loopback_addresses(), *ADDRESSES)),
            no_tls=NO_TLS,
            client_certificates=CLIENT_CERTIFICATES,
            single=SINGLE,
            certificate=self._ca.issue(*LOCAL_NAMES, *ADDRESSES),
            ca=self._ca.pem_path,
            mechanisms=" ".join(MECHANISMS),
            password_mechanisms=" ".join(PASSWORD_MECHANISMS),
            user=MAIL_USER,
            domain=DOMAIN,
            relay_port=self._relay_port or free_port(),
        )
        for service, (process, tls) in LISTENERS.items():
            ssl = "yes" if tls else "no"
            configuration += LISTENER.format(process=process, service=service, port=self.ports[service], ssl=ssl)
        self.write("dovecot.conf", configuration + "".join(self._tls_locals()))
        self.write("users", "".join(self._users()))
        refusals = "\n  ".join(REFUSAL.format(name=name, answer=answer) for name, answer in REFUSALS.items())
        self.write("refusals.lua", REFUSALS_SCRIPT.format(refusals=refusals))
        self.write("oauth2.conf", OAUTH2_CONFIGURATION.format(directory=self.directory, issuer=ISSUER))
        # keys of: any client ("azp"), its algorithm, the only one
        self.make_directory("keys/default", MAIL_USER)
        self.make_directory("keys/default/HS256", MAIL_USER)
        self.write("keys/default/HS256/default", b64encode(self._key).decode())

    def _tls_locals(self) -> Iterator[str]:
        for name, service in TLS_SERVICES.items():
            address = TLS_ADDRESSES[name]
            certificate, *alternatives = service.certificates(self._ca, *LOCAL_NAMES, address)
            yield TLS_LOCAL.format(
                address=address,
                certificate=certificate,
                alt_cert="".join(f"<{alternative.cert_path}" for alternative in alternatives),
                alt_key="".join(f"<{alternative.key_path}" for alternative in alternatives),
                oldest=service.oldest,
                ciphers=ANY_CIPHER,
            )

    def _users(self) -> Iterator[str]:
        names = {login.name for login in LOGINS}
        others = [Login(name, PASSWORD) for name in (*map(user, MAILBOXES), *FIELDS) if name not in names]
        for login in (*LOGINS, *others):
            home = self.directory / "home" / login.name
            fields = " ".join(f"userdb_{field}" for field in FIELDS.get(login.name, ()))
            yield f"{login.name}:{{PLAIN.b64}}{login.base64_password}::::{home}::{fields}\n"

    def _fill_mailboxes(self) -> None:
        # At RCPT TO it is only a mailbox with more in it than it may have that counts as full.
        self._fill(local_part(FULL), [Mail("One too many", timedelta(), FULL_BYTES)])
        for name, mails in FOLDERS.items():
            # Maildir++: all folders beside each other, and a dot is between their names.
            folder = "" if name == "INBOX" else "/." + ENCODED[name].replace("/", ".")
            self._fill(local_part(READER) + folder, mails)

    def _write_scripts(self) -> None:
        for name in (SIEVE_ACTIVE, SIEVE_INACTIVE, SIEVE_FULL):
            home = f"home/{local_part(name)}"
            self.make_directory(home, MAIL_USER)
            self.make_directory(f"{home}/sieve", MAIL_USER)
            for script, text in SCRIPTS.items():
                self.write(f"{home}/sieve/{script}.sieve", text)
            if name == SIEVE_ACTIVE:
                (self.directory / home / "active.sieve").symlink_to(f"sieve/{ACTIVE_SCRIPT}.sieve")

    def _fill(self, maildir: str, mails: Iterable[Mail]) -> None:
        now = datetime.now(timezone.utc)
        for name in ("", "cur", "new", "tmp"):
            self.make_directory(f"mail/{maildir}/{name}", MAIL_USER)
        for number, mail in enumerate(mails):
            # Not in new/, where the first who opens the folder would make a difference to the next one.
            path = self.directory / "mail" / maildir / "cur" / f"{number}.test:2,{'S' if mail.seen else ''}"
            path.write_bytes(mail.content(now))
            shutil.chown(path, MAIL_USER, MAIL_USER)
            arrived = (now - mail.age).timestamp()
            os.utime(path, (arrived, arrived))

    def command(self) -> list[str]:
        return [str(self.find_program()), "-F", "-c", str(self.directory / "dovecot.conf")]


def local_part(name: str) -> str:
    return name.partition("@")[0]


def base64url(octets: bytes) -> str:
    return urlsafe_b64encode(octets).decode().rstrip("=")
