#!/usr/bin/python

# Copyright (c) 2026, the mailprobe founders
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that a POP3 server works, and say why not."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pop3
short_description: Check that a POP3 server works and what is in a mailbox
version_added: 0.1.0
author:
  - The mailprobe founders (@mailprobe)
description:
  - Holds a conversation with a POP3 server and judges every reply.
  - Connect, greeting, CAPA, STLS or TLS from the first byte, login, and a look into the mailbox (STAT, LIST, TOP) are
    each judged, and the module fails with the server's own words and a hint where to look when one of them does not
    work.
  - Nothing is ever deleted. The server may lock the mailbox for as long as the run takes (RFC 1939 4).
  - Without O(username) the conversation ends before the login.
  - The conversation is held from the host that the task runs on. Use C(delegate_to) to look from elsewhere.
extends_documentation_fragment:
  - mailprobe.checks._options.pop3
  - mailprobe.checks._attributes
seealso:
  - module: mailprobe.checks.imap
  - module: mailprobe.checks.sieve
  - module: mailprobe.checks.smtp
  - module: ansible.builtin.wait_for
  - module: community.crypto.get_certificate
"""

EXAMPLES = r"""
- name: The POP3 server answers
  mailprobe.checks.pop3:
    host: pop.example.org

- name: It offers STARTTLS with a good certificate, seen from outside
  mailprobe.checks.pop3:
    host: pop.example.org
    tls: starttls
  delegate_to: localhost
  run_once: true

- name: A user can log in and look into the mailbox
  mailprobe.checks.pop3:
    host: pop.example.org
    tls: implicit
    username: probe@example.org
    password: "{{ vault_probe_password }}"
  register: result

- name: Somebody fetches the mail of this mailbox, and new mail comes in
  ansible.builtin.assert:
    that:
      - result.facts.messages > 0
      - result.facts.messages < 1000
      - result.facts.mailbox_bytes < 100 * 1024 * 1024
      - result.facts.oldest_age < 7 * 24 * 3600
      - result.facts.newest_age < 24 * 3600

- name: After a restart, wait until the server is ready (24 * 5 seconds = 2 minutes)
  mailprobe.checks.pop3:
    host: "{{ inventory_hostname }}"
  register: result
  until: result is succeeded
  retries: 24
  delay: 5

- name: Collect, without failing
  mailprobe.checks.pop3:
    host: pop.example.org
    tls: implicit
  register: result
  failed_when: false

- name: Judge what was collected
  ansible.builtin.assert:
    that:
      - result.healthy
      - result.certificate.days_left > 14
      - result.timings.greeting < 2
      - "'UIDL' in result.facts.capabilities"

- name: The account that was closed lets nobody in
  mailprobe.checks.pop3:
    host: pop.example.org
    tls: implicit
    username: former@example.org
    password: "{{ vault_former_password }}"
    expect_login_refused: true

- name: Every address behind the name keeps its promises
  mailprobe.checks.pop3:
    host: pop.example.org
    tls: starttls
    all_addresses: true
    require_capability:
      - UIDL
    refuse_plaintext_login: true
    refuse_starttls_injection: true
    refuse_tls:
      - TLSv1
      - TLSv1.1
    min_certificate_days: 14
    max_seconds: 5
"""

RETURN = r"""
msg:
  description: What is wrong, where, in the server's own words, with a hint for each; or that the server works.
  type: str
  returned: always
  sample: "pop.example.org:995, at connect: connection refused by 192.0.2.25 port 995. Nothing listens on that port, or
    a firewall rejects. Is the service running, on this address and this port?"
state:
  description:
    - The verdict in the words of the checks for Nagios and Icinga.
    - V(critical) when something did not work, V(warning) when the server asked to come again later or something is
      flawed, V(unknown) when an option is wrong, else V(ok). O(state) can choose another for each finding.
    - What the module was asked to judge beside that (O(max_seconds), O(min_certificate_days)) is in RV(unmet).
  type: str
  returned: always
  sample: ok
healthy:
  description: Whether all was as it must be; where it is false, the task fails, unless C(failed_when) says otherwise.
  type: bool
  returned: always
  sample: true
protocol:
  description: V(pop3).
  type: str
  returned: always
  sample: pop3
host:
  description: The host as it was given.
  type: str
  returned: always
  sample: pop.example.org
port:
  description: The port, null for a Unix socket.
  type: int
  returned: always
  sample: 995
address:
  description: The IP address that was talked to, null when none was.
  type: str
  returned: always
  sample: 192.0.2.25
elapsed:
  description: Seconds that the whole run took.
  type: float
  returned: always
  sample: 0.184
timings:
  description: Seconds by stage, null for a stage that was not reached. All stages of all protocols are there.
  type: dict
  returned: always
  sample:
    resolve: 0.002
    connect: 0.011
    greeting: 0.023
    capabilities: 0.022
    tls: 0.041
    auth: 0.095
    command: null
    mail: null
    rcpt: null
    data: null
    reset: null
    mailbox: 0.031
    search: null
    quota: null
    script: null
    quit: 0.011
problems:
  description: What was found, in the order in which it was found.
  type: list
  elements: dict
  returned: always
  contains:
    code:
      description: A stable word for the finding.
      type: str
      sample: auth-rejected
    stage:
      description: The stage it was found at.
      type: str
      sample: auth
    severity:
      description: V(failure), V(temporary) when the server asked to come again later, or V(flaw).
      type: str
      sample: failure
    state:
      description: What it means in monitoring, V(ok), V(warning), V(critical) or V(unknown); see O(state).
      type: str
      sample: critical
    message:
      description: What happened, with the server's own words.
      type: str
      sample: "PASS *** refused: '-ERR [AUTH] Authentication failed.'"
    hint:
      description: Where to look.
      type: str
      sample: "Wrong user name or password, or the account is closed. The probe tries once only, so that it locks nobody
        out."
    address:
      description: The address it was found at, null unless there are several (O(all_addresses)).
      type: str
      sample: null
  sample: []
tls:
  description: The TLS session. Everything is null or false without TLS.
  type: dict
  returned: always
  contains:
    version:
      description: The protocol version.
      type: str
      sample: TLSv1.3
    cipher:
      description: The cipher suite in OpenSSL's words.
      type: str
      sample: TLS_AES_256_GCM_SHA384
    cipher_bits:
      description: The strength of the cipher.
      type: int
      sample: 256
    group:
      description: The group of the key exchange, null before Python 3.15.
      type: str
      sample: null
    alpn:
      description: The application protocol that was agreed on, null when none was offered (O(alpn)).
      type: str
      sample: null
    compression:
      description: The compression in use, null for none, as it should be.
      type: str
      sample: null
    secure_renegotiation:
      description: Whether renegotiation is secure (RFC 5746), true for TLS 1.3, which has none; null when not known.
      type: bool
      sample: true
    verified:
      description: Whether the certificate's chain and name were checked and found good.
      type: bool
      sample: true
    verify_error:
      description: Why the certificate was not accepted, null if it was or was not checked.
      type: str
      sample: null
    chain_complete:
      description: Whether the certificates that the server sent lead up to an authority; null when not known.
      type: bool
      sample: true
    chain_in_order:
      description: Whether each of them is followed by that of its issuer; null when not known.
      type: bool
      sample: true
    chain_days:
      description: Whole days until the first of them expires; null when not known.
      type: int
      sample: 37
  sample:
    version: TLSv1.3
    cipher: TLS_AES_256_GCM_SHA384
    cipher_bits: 256
    group: null
    alpn: null
    compression: null
    secure_renegotiation: true
    verified: true
    verify_error: null
    chain_complete: true
    chain_in_order: true
    chain_days: 37
certificate:
  description: The server's certificate, the bad one, too. What is not known is null.
  type: dict
  returned: always
  contains:
    subject:
      description: The subject (RFC 4514).
      type: str
      sample: CN=pop.example.org
    issuer:
      description: The issuer (RFC 4514).
      type: str
      sample: CN=R11,O=Let's Encrypt,C=US
    names:
      description: The subject alternative names.
      type: list
      elements: str
      sample:
        - pop.example.org
    serial:
      description: The serial number, hexadecimal.
      type: str
      sample: 04A1F3
    fingerprint_sha256:
      description: The SHA-256 of the certificate, hexadecimal with colons, as OpenSSL prints it.
      type: str
      sample: "9F:0C:E4:7A:..."
    not_before:
      description: When it begins to be valid, ISO 8601 in UTC.
      type: str
      sample: "2026-10-01T00:00:00+00:00"
    not_after:
      description: When it ends to be valid, ISO 8601 in UTC.
      type: str
      sample: "2026-12-30T00:00:00+00:00"
    days_left:
      description: Whole days until then, rounded down; negative when it has expired.
      type: int
      sample: 37
    lifetime_percent:
      description: What is left of its lifetime, in percent.
      type: float
      sample: 41.52
    key_type:
      description: The kind of the public key; needs C(cryptography) on the host that runs the module.
      type: str
      sample: EC
    key_bits:
      description: The size of the public key; needs C(cryptography) on the host that runs the module.
      type: int
      sample: 256
    signature_algorithm:
      description: The algorithm of its signature; needs C(cryptography) on the host that runs the module.
      type: str
      sample: ecdsa-with-SHA256
    self_signed:
      description: Whether it is its own issuer.
      type: bool
      sample: false
  sample: {}
chain:
  description:
    - The certificates that the server sent, its own first, each with the keys of RV(certificate).
    - Before Python 3.10 the first only.
  type: list
  elements: dict
  returned: always
  sample: []
facts:
  description: What the server told. What it did not tell, or was not asked, is null or empty.
  type: dict
  returned: always
  contains:
    banner:
      description: The words of the greeting, without its code or status.
      type: str
      sample: Dovecot ready.
    capabilities:
      description: What the server listed as its capabilities when it last did, a line of its list each.
      type: list
      elements: str
      sample:
        - TOP
        - UIDL
        - SASL PLAIN LOGIN SCRAM-SHA-256
    auth_mechanisms:
      description: The mechanisms offered for login.
      type: list
      elements: str
      sample:
        - PLAIN
        - LOGIN
        - SCRAM-SHA-256
    mechanism:
      description: The mechanism of our login, null when there was none.
      type: str
      sample: SCRAM-SHA-256
    login:
      description: V(accepted) or V(refused), null when the server said neither.
      type: str
      sample: accepted
    messages:
      description: The number of messages in the mailbox.
      type: int
      sample: 5
    mailbox_bytes:
      description: Octets of all messages.
      type: int
      sample: 13312
    largest_bytes:
      description: Octets of the largest message, null in an empty mailbox and in one of more than 10,000 messages.
      type: int
      sample: 6144
    oldest_age:
      description: Seconds since the first message came, by its topmost Received or else its Date; null in an empty
        mailbox, or when the server does not know TOP.
      type: int
      sample: 3456000
    newest_age:
      description: Seconds since the last message came, as RV(facts.oldest_age).
      type: int
      sample: 300
  sample: {}
notes:
  description: What else is to be known about this run; shown as warnings, too.
  type: list
  elements: str
  returned: always
  sample: []
addresses:
  description:
    - With O(all_addresses), what was found at each address of the name, else empty.
    - The keys are RV(state), RV(address), RV(elapsed), RV(timings), RV(problems), RV(tls), RV(certificate), RV(chain)
      and RV(facts), each as in the result itself, which tells of the worst of them.
  type: list
  elements: dict
  returned: always
  sample: []
unmet:
  description: What was measured and is not as it must be (O(max_seconds), O(min_certificate_days)); the module fails.
  type: list
  elements: str
  returned: always
  sample: []
transcript:
  description:
    - The conversation, line by line, without secrets.
    - C( -> ) is what we said, C(<-  ) the server; C( ~> ) and C(<~  ) over TLS; C(=== ) a note, C(*** ) a finding.
  type: list
  elements: str
  returned: always
  sample:
    - "=== connected to 192.0.2.25 port 995"
    - "=== TLS: TLSv1.3, TLS_AES_256_GCM_SHA384, certificate verified"
    - "<~  +OK Dovecot ready."
    - " ~> QUIT"
    - "<~  +OK Logging out."
"""

from ansible_collections.mailprobe.checks.plugins.module_utils._mailprobe.pop3 import Pop3Facts, Pop3Options, probe
from ansible_collections.mailprobe.checks.plugins.module_utils._module import run


def main() -> None:
    """Options, probe, report."""
    run(Pop3Options, Pop3Facts, probe)


if __name__ == "__main__":
    main()
