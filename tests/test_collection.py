"""The Ansible collection as users get it: built, installed, documented, and run on a node with nothing but Python."""

from __future__ import annotations

import filecmp
import json
import re
import tarfile
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import pytest

from mailprobe import imap, pop3, sieve, smtp
from mailprobe.codes import HINTS, Code, Stage
from mailprobe.options import Options, declarations, read, spell
from mailprobe.report import Certificate, Facts, Problem, Report, Tls
from mailprobe.version import __version__

from .canary import CANARY
from .collection import SOURCE, Ansible
from .running import REPOSITORY
from .scripted import Scripted
from .servers import AWKWARD_USER, free_port
from .servers.certificates import CertificateAuthority
from .servers.dovecot import ACTIVE_SCRIPT, PASSWORD, READER, SCRIPTS, SIEVE_ACTIVE, Dovecot
from .servers.mailboxes import INBOX, NON_ASCII
from .servers.postfix import Postfix

pytestmark = pytest.mark.collection

CORE = REPOSITORY / "plugins" / "mailprobe"

OPTIONS: dict[str, type[Options]] = {
    "imap": imap.ImapOptions,
    "pop3": pop3.Pop3Options,
    "sieve": sieve.SieveOptions,
    "smtp": smtp.SmtpOptions,
}
FACTS: dict[str, type[Facts]] = {
    "imap": imap.ImapFacts,
    "pop3": pop3.Pop3Facts,
    "sieve": sieve.SieveFacts,
    "smtp": smtp.SmtpFacts,
}
MODULES = sorted(OPTIONS)
# What a play may let the module judge, beside the options of the probe.
EXPECTATIONS = {"max_seconds", "min_certificate_days", "warn_certificate_days"}


def parsed(text: str) -> Any:
    """What is in a YAML text."""
    import yaml  # which the other Pythons, where this file is only looked at for its marker, do not have

    return yaml.safe_load(text)


# The artefact.


def test_every_file_of_the_core_is_linked_and_built(ansible: Ansible) -> None:
    core = {path.name for path in CORE.glob("*.py")}
    linked = SOURCE / "plugins" / "module_utils" / "_mailprobe"
    shipped = ansible.installed / "plugins" / "module_utils" / "_mailprobe"
    assert {path.name for path in linked.iterdir()} == core == {path.name for path in shipped.iterdir()}
    assert all((linked / name).is_symlink() for name in core)
    assert filecmp.cmpfiles(CORE, shipped, core, shallow=False)[0] == sorted(core, key=list(core).index)
    assert not any(path.is_symlink() for path in shipped.iterdir())


def test_the_artefact_has_what_users_need_and_nothing_that_tools_leave_behind(ansible: Ansible) -> None:
    with tarfile.open(ansible.artefact) as archive:
        names = {name for name in archive.getnames() if not archive.getmember(name).isdir()}
    roles = {f"roles/{path.parent.name}/{path.name}" for path in (SOURCE / "roles").glob("*/*")}
    assert {name.partition("/")[0] for name in names} == {
        *("CHANGELOG.md", "CONTRIBUTING.md", "COPYING", "FILES.json", "LICENSES", "MANIFEST.json", "README.md"),
        *("REUSE.toml", "changelogs", "docs", "meta", "playbooks", "plugins", "roles", "tests"),
    }
    assert {"/".join(name.split("/")[:3]) for name in names if name.startswith("roles/")} == roles
    assert {"changelogs/changelog.yaml", "changelogs/config.yaml", "meta/runtime.yml", "tests/config.yml"} <= names
    assert {name for name in names if name.startswith("changelogs/")} <= {
        "changelogs/changelog.yaml",
        "changelogs/config.yaml",
    }
    left_behind = re.compile(
        r"(^|/)(\.[^/]*|__pycache__|output|inventory|integration_config\.yml|.*\.(pyc|tar\.gz))(/|$)"
    )
    assert [name for name in names if left_behind.search(name)] == []


def test_the_changelog_has_every_module_and_role_of_this_version(ansible: Ansible) -> None:
    release = parsed((SOURCE / "changelogs" / "changelog.yaml").read_text())["releases"][__version__]
    assert {entry["name"] for entry in release["modules"]} == set(MODULES)
    objects = release["objects"]
    assert {entry["name"] for entry in objects["role"]} == {path.name for path in (SOURCE / "roles").iterdir()}
    assert {entry["name"] for entry in objects["playbook"]} == {path.stem for path in (SOURCE / "playbooks").iterdir()}


def test_collection_and_core_have_one_version(ansible: Ansible) -> None:
    manifest = json.loads((ansible.installed / "MANIFEST.json").read_text())
    assert manifest["collection_info"]["version"] == __version__


def test_every_probe_is_a_module_in_the_action_group_and_in_the_readme() -> None:
    probes = {path.stem for path in CORE.glob("*.py") if "\ndef probe(" in path.read_text()}
    modules = {path.stem for path in (SOURCE / "plugins" / "modules").glob("*.py")}
    groups = parsed((SOURCE / "meta" / "runtime.yml").read_text())["action_groups"]
    table = re.findall(r"^\| `mailprobe\.checks\.(\w+)` \|", (SOURCE / "README.md").read_text(), re.MULTILINE)
    assert probes == modules == set(MODULES) == set(groups["all"]) == set(table)


# The documentation.


def block(module: str, name: str) -> str:
    """The text of DOCUMENTATION, EXAMPLES or RETURN."""
    source = (SOURCE / "plugins" / "modules" / f"{module}.py").read_text()
    return source.split(f'\n{name} = r"""\n')[1].split('"""')[0]


def returns(module: str) -> dict[str, Any]:
    found: dict[str, Any] = parsed(block(module, "RETURN"))
    return found


class Shape(NamedTuple):
    """How a value is documented: its type, that of its elements, and the keys of a dictionary in their order."""

    type: str
    elements: str | None = None
    contains: tuple[tuple[str, Any], ...] = ()


def declared_shape(annotation: Any) -> Shape:
    if type(None) in get_args(annotation):
        (annotation,) = set(get_args(annotation)) - {type(None)}
    if get_origin(annotation) is list:
        element = declared_shape(get_args(annotation)[0])
        return Shape("list", element.type, element.contains)
    if is_dataclass(annotation):
        hints = get_type_hints(annotation)
        return Shape("dict", None, tuple((f.name, declared_shape(hints[f.name])) for f in fields(annotation)))
    return Shape(annotation.__name__)


def documented_shape(entry: dict[str, Any]) -> Shape:
    contains = tuple((name, documented_shape(inner)) for name, inner in entry.get("contains", {}).items())
    return Shape(entry["type"], entry.get("elements"), contains)


@pytest.mark.parametrize("module", MODULES)
def test_every_returned_key_is_documented_with_its_type_and_the_other_way_round(module: str) -> None:
    documented = returns(module)
    blank = Report(module, "host", 25, FACTS[module]()).to_dict()
    blank.pop("transcript")
    assert list(documented) == ["msg", "state", "healthy", *blank, "unmet", "transcript"]
    assert documented_shape(documented["facts"]) == declared_shape(FACTS[module])
    assert documented_shape(documented["tls"]) == declared_shape(Tls)
    assert documented_shape(documented["certificate"]) == declared_shape(Certificate)
    assert list(documented["problems"]["contains"]) == list(Problem(Code.TIMEOUT, Stage.AUTH, "").to_dict())
    assert list(documented["timings"]["sample"]) == list(blank["timings"])
    assert all(entry["returned"] == "always" for entry in documented.values())


@pytest.mark.parametrize("module", MODULES)
def test_the_problem_that_is_shown_as_a_sample_exists(module: str) -> None:
    sample = {name: entry["sample"] for name, entry in returns(module)["problems"]["contains"].items()}
    assert sample["stage"] in {stage.value for stage in Stage}
    assert sample["hint"] == HINTS[Code(sample["code"])]


def without_samples(entry: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in entry.items() if key not in ("sample", "contains")}
    return {**kept, "contains": {name: without_samples(inner) for name, inner in entry.get("contains", {}).items()}}


@pytest.mark.parametrize("module", MODULES)
def test_what_all_modules_return_is_documented_in_the_same_words(module: str) -> None:
    def common(documented: dict[str, Any]) -> dict[str, Any]:
        found = {name: without_samples(entry) for name, entry in documented.items() if name != "protocol"}
        facts = found["facts"]["contains"]
        return {**found, "facts": {**found["facts"], "contains": {f.name: facts[f.name] for f in fields(Facts)}}}

    assert common(returns(module)) == common(returns("smtp"))


@pytest.fixture(scope="session")
def documents(ansible: Ansible) -> dict[str, Any]:
    """What ansible-doc says of all modules."""
    done = ansible.command("ansible-doc", "--json", *(f"mailprobe.checks.{module}" for module in MODULES))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_the_documentation_shows_the_declared_options(documents: dict[str, Any], module: str) -> None:
    shown = documents[f"mailprobe.checks.{module}"]["doc"]["options"]
    declared = declarations(OPTIONS[module])
    assert set(shown) == {option.name for option in declared} | EXPECTATIONS
    for option in declared:
        documented = shown[option.name]
        assert documented["description"][0] == spell(option.help, lambda name: f"O({name})")
        assert documented.get("required", False) == option.required
        assert documented.get("choices", []) == list(option.choices)
        default = None if option.required or option.default == () else option.default
        assert documented.get("default") == (list(default) if isinstance(default, tuple) else default)
        kind = "path" if option.path else option.kind
        assert (documented["type"], documented.get("elements")) == (("list", kind) if option.many else (kind, None))


@pytest.mark.parametrize("module", MODULES)
def test_the_documentation_tells_the_usual_ports(documents: dict[str, Any], module: str) -> None:
    words = documents[f"mailprobe.checks.{module}"]["doc"]["options"]["port"]["description"][1]
    uses: list[dict[str, Any]] = [{}, {"tls": "starttls"}, {"tls": "implicit"}]
    if module == "smtp":
        uses += [{"lmtp": True}, {"tls": "starttls", "username": "probe", "password": "a long password"}]
    ports = {read(OPTIONS[module], {"host": "localhost", **use}).effective_port for use in uses}
    assert {int(port) for port in re.findall(r"V\((\d+)\)", words)} == ports


def examples() -> Iterator[tuple[str, str]]:
    """The YAML that users copy, by where it is."""
    for module in MODULES:
        yield module, block(module, "EXAMPLES")
    for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", (SOURCE / "README.md").read_text(), re.DOTALL)):
        yield f"README-{number}", text


def tasks(document: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The tasks of a list of tasks or plays, with the defaults that a play has for all modules."""
    for entry in document:
        defaults = entry.get("module_defaults", {}).get("group/mailprobe.checks.all", {})
        for task in entry.get("tasks", [entry]):
            yield {
                name: {**defaults, **(value or {})} if name.startswith("mailprobe.checks.") else value
                for name, value in task.items()
            }


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in examples()])
def test_the_options_and_results_of_every_example_exist(text: str) -> None:
    used = []
    for task in tasks(parsed(re.sub(r"{{.*?}}", "template", text))):
        for name in task:
            if name.startswith("mailprobe.checks."):
                used.append(name.removeprefix("mailprobe.checks."))
                given = {key: value for key, value in task[name].items() if key not in EXPECTATIONS}
                read(OPTIONS[used[-1]], given)
    assert used
    for path in re.findall(r"\bresult\.([\w.\[\]]+)", text):
        assert any(is_returned(path, returns(module)) for module in used), path


def is_returned(path: str, documented: dict[str, Any]) -> bool:
    first, *rest = re.sub(r"\[\d+\]", "", path).split(".")
    for name in rest:
        inner = documented.get(first, {})
        first, documented = name, inner.get("contains") or inner.get("sample") or {}
    return first in documented


# Playbooks.


def test_a_playbook_passes_on_a_server_that_works(ansible: Ansible, postfix: Postfix, ca: CertificateAuthority) -> None:
    task = {
        "mailprobe.checks.smtp": {
            "host": "localhost",
            "port": postfix.starttls,
            "tls": "starttls",
            "ca_file": str(ca.pem_path),
            "mail_from": "probe@example.org",
            "rcpt_to": ["user@example.test"],
        }
    }
    done = ansible.play([task])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=0" in done.stdout
    assert "failed=0" in done.stdout


def test_a_playbook_fails_on_a_refused_recipient_and_says_where_and_why(ansible: Ansible, postfix: Postfix) -> None:
    task = {"mailprobe.checks.smtp": {"host": "localhost", "port": postfix.plain, "rcpt_to": ["nobody@example.test"]}}
    done = ansible.play([task])
    assert done.returncode == 2
    assert f"localhost:{postfix.plain}, at rcpt: RCPT TO:<nobody@example.test> refused: '550 5.1.1" in done.stdout
    assert "No such user" in done.stdout


def log_in_and_judge(
    ansible: Ansible, ca: CertificateAuthority, module: str, options: dict[str, Any], that: list[str]
) -> None:
    task = {"host": "localhost", "ca_file": str(ca.pem_path), "password": "{{ password }}", **options}
    done = ansible.play(
        [
            {f"mailprobe.checks.{module}": task, "register": "result"},
            {"ansible.builtin.assert": {"that": ["result.facts.login == 'accepted'", *that]}},
        ],
        password=PASSWORD,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=0" in done.stdout


def test_a_playbook_judges_the_folders_and_the_quota_of_an_imap_user(
    ansible: Ansible, dovecot: Dovecot, ca: CertificateAuthority
) -> None:
    log_in_and_judge(
        ansible,
        ca,
        "imap",
        {
            "port": dovecot.imap,
            "tls": "starttls",
            "username": READER,
            "folder": ["INBOX", NON_ASCII],
            "search": "SUBJECT Oldest",
            "quota": True,
            "identify": True,
        },
        [
            f"result.facts.folders | map(attribute='folder') == ['INBOX', '{NON_ASCII}']",
            f"result.facts.folders | map(attribute='messages') == [{len(INBOX)}, 1]",
            f"result.facts.folders[0].unseen == {sum(not mail.seen for mail in INBOX)}",
            f"result.facts.folders[0].mailbox_bytes == {sum(mail.size for mail in INBOX)}",
            f"0 <= result.facts.folders[0].oldest_age - {INBOX[0].age.total_seconds()} < 3600",
            f"0 <= result.facts.folders[0].newest_age - {INBOX[-1].age.total_seconds()} < 3600",
            "result.facts.folders | map(attribute='search_hits') == [1, 0]",
            "result.facts.quota_storage_percent == 30",
            "result.facts.quota_messages_percent == 25",
            "'name Dovecot' in result.facts.server_id",
        ],
    )


def test_a_playbook_judges_the_mailbox_of_a_pop3_user(
    ansible: Ansible, dovecot: Dovecot, ca: CertificateAuthority
) -> None:
    log_in_and_judge(
        ansible,
        ca,
        "pop3",
        {"port": dovecot.pop3s, "tls": "implicit", "username": READER},
        [
            f"result.facts.messages == {len(INBOX)}",
            f"result.facts.mailbox_bytes == {sum(mail.size for mail in INBOX)}",
            f"result.facts.largest_bytes == {max(mail.size for mail in INBOX)}",
            f"0 <= result.facts.oldest_age - {INBOX[0].age.total_seconds()} < 3600",
            f"0 <= result.facts.newest_age - {INBOX[-1].age.total_seconds()} < 3600",
        ],
    )


def test_a_playbook_judges_the_scripts_of_a_sieve_user(
    ansible: Ansible, dovecot: Dovecot, ca: CertificateAuthority, tmp_path: Path
) -> None:
    script = tmp_path / "good.sieve"
    script.write_text('require "vacation";\nvacation "Away";\n')
    log_in_and_judge(
        ansible,
        ca,
        "sieve",
        {
            "port": dovecot.sieve,
            "tls": "starttls",
            "username": SIEVE_ACTIVE,
            "require_active": True,
            "have_space": 100,
            "check_script": str(script),
        },
        [
            f"result.facts.active_script == '{ACTIVE_SCRIPT}'",
            f"result.facts.script_count == {len(SCRIPTS)}",
            "result.facts.scripts | length == result.facts.script_count",
            "'vacation' in result.facts.sieve_extensions",
        ],
    )


@pytest.fixture
def plain_ports(postfix: Postfix, dovecot: Dovecot) -> dict[str, int]:
    """The port of each protocol that needs no TLS."""
    return {"imap": dovecot.imap, "pop3": dovecot.pop3, "sieve": dovecot.sieve, "smtp": postfix.plain}


@pytest.mark.parametrize("module", MODULES)
def test_the_whole_report_is_returned_on_success_and_failure(
    ansible: Ansible, plain_ports: dict[str, int], module: str
) -> None:
    there, nowhere = plain_ports[module], free_port()
    good, bad, unusable, *refused = ansible.run(
        module,
        {"host": "localhost", "port": there},
        {"host": "127.0.0.1", "port": nowhere},
        {"host": "localhost", "port": there, "expect": "\r"},
        # What Ansible itself refuses.
        {"host": "localhost", "port": "smtp"},
        {"host": "localhost", "port": there, "tls": "always"},
        {"host": "localhost", "port": there, "prot": 25},
        {"port": there},
    ).results
    blank = Report(module, "host", 25, FACTS[module]()).to_dict()
    for found in (good, bad, unusable, *refused):
        assert set(blank) | {"state", "healthy", "msg", "unmet", "changed", "failed"} <= set(found)
        assert set(found["facts"]) == set(blank["facts"])
        assert found["protocol"] == module
        assert found["changed"] is False
    assert set(good) - set(blank) - {"warnings"} == {"state", "healthy", "msg", "unmet", "changed", "failed"}
    assert (good["state"], good["failed"], good["msg"]) == ("ok", False, f"localhost:{there} works")
    assert good["facts"]["banner"]
    assert good["facts"]["capabilities"]
    assert (bad["state"], bad["failed"]) == ("critical", True)
    assert bad["problems"][0]["code"] == "connection-refused"
    assert bad["msg"].startswith(f"127.0.0.1:{nowhere}, at connect: ")
    assert bad["problems"][0]["hint"] in bad["msg"]
    for found in (unusable, *refused):
        assert (found["state"], found["healthy"], found["failed"]) == ("unknown", False, True)
        assert found["facts"] == bad["facts"] == blank["facts"]
    for found, words in zip(refused, ("'port'", "tls", "prot", "host"), strict=True):
        assert words in found["msg"]
    assert [(found["host"], found["port"]) for found in refused] == [
        ("localhost", None),
        ("localhost", there),
        ("localhost", there),
        ("", there),
    ]


def test_what_a_play_expects_is_judged_by_the_module(
    ansible: Ansible, postfix: Postfix, ca: CertificateAuthority
) -> None:
    good = {"host": "localhost", "port": postfix.starttls, "tls": "starttls", "ca_file": str(ca.pem_path)}
    met, slow, short, warned, unknown, wrong = ansible.run(
        "smtp",
        {**good, "max_seconds": 10, "min_certificate_days": 30},
        {**good, "max_seconds": 0},
        {**good, "min_certificate_days": 365},
        {**good, "warn_certificate_days": 365},
        {**good, "min_certificate_days": 1, "port": free_port()},
        {**good, "max_seconds": -1},
    ).results
    assert (met["failed"], met["unmet"]) == (False, [])
    assert (slow["failed"], slow["healthy"], met["healthy"], warned["healthy"]) == (True, False, True, True)
    assert re.fullmatch(r"the run took [0-9.]+ s, more than 0 \(max_seconds\)", slow["unmet"][0])
    assert slow["unmet"][0] in slow["msg"]
    assert slow["state"] == "ok"
    assert short["unmet"] == ["the certificate of 127.0.0.1 expires in 89 days, fewer than 365 (min_certificate_days)"]
    assert warned["failed"] is False
    assert any("expires in 89 days, fewer than 365" in warning for warning in warned["warnings"])
    assert unknown["unmet"] == ["the expiry of the certificate is not known (min_certificate_days)"]
    assert wrong["msg"] == "max_seconds: '-1.0' is less than 0"
    assert (wrong["unmet"], wrong["state"], wrong["healthy"]) == ([], "unknown", False)


def test_a_folder_that_is_missing_fails_and_the_others_are_measured(
    ansible: Ansible, dovecot: Dovecot, ca: CertificateAuthority
) -> None:
    found = ansible.result(
        "imap",
        host="localhost",
        port=dovecot.imaps,
        tls="implicit",
        ca_file=str(ca.pem_path),
        username=READER,
        password=PASSWORD,
        folder=["Missing", "INBOX"],
    )
    assert found["failed"] is True
    assert [problem["code"] for problem in found["problems"]] == ["mailbox-unavailable"]
    assert "Missing" in found["msg"]
    assert [folder["messages"] for folder in found["facts"]["folders"]] == [None, len(INBOX)]


def test_a_script_that_is_not_sieve_fails_in_the_words_of_the_server(
    ansible: Ansible, dovecot: Dovecot, ca: CertificateAuthority, tmp_path: Path
) -> None:
    script = tmp_path / "bad.sieve"
    script.write_text("nonsense;\n")
    found = ansible.result(
        "sieve",
        host="localhost",
        port=dovecot.sieve,
        tls="starttls",
        ca_file=str(ca.pem_path),
        username=SIEVE_ACTIVE,
        password=PASSWORD,
        check_script=str(script),
    )
    assert found["failed"] is True
    assert [problem["code"] for problem in found["problems"]] == ["script-refused"]
    assert "nonsense" in found["msg"]
    assert found["facts"]["active_script"] == ACTIVE_SCRIPT


def test_without_cryptography_the_key_is_null_and_a_warning_says_why(
    ansible: Ansible, postfix: Postfix, ca: CertificateAuthority
) -> None:
    found = ansible.result("smtp", host="localhost", port=postfix.implicit, tls="implicit", ca_file=str(ca.pem_path))
    assert found["state"] == "ok"
    assert found["tls"]["verified"] is True
    assert "localhost" in found["certificate"]["names"]
    assert found["certificate"]["days_left"] > 80
    assert found["certificate"]["key_type"] is None
    assert any("cryptography is not installed" in warning for warning in found["warnings"])


def test_a_refusal_for_now_fails_and_is_a_warning_to_monitoring(ansible: Ansible, postfix: Postfix) -> None:
    found = ansible.result("smtp", host="localhost", port=postfix.deferring, rcpt_to=["user@example.test"])
    assert (found["failed"], found["state"]) == (True, "warning")
    assert found["problems"][0]["severity"] == "temporary"


def test_check_mode_runs_and_sends_nothing(ansible: Ansible, postfix: Postfix) -> None:
    before = len(postfix.delivered())
    found = ansible.result(
        "smtp", "--check", host="localhost", port=postfix.plain, rcpt_to=["user@example.test"], send=True
    )
    assert found["state"] == "ok"
    assert found["facts"]["deliveries"] == []
    assert any("check mode: send is left out" in warning for warning in found["warnings"])
    assert len(postfix.delivered()) == before


LOGIN = {"username": "probe", "password": "a long password", "tls": "starttls"}
# The options of a task, less host and port, and the option that is wrong. What all modules have in common is with pop3.
WRONG: dict[str, list[tuple[dict[str, Any], str]]] = {
    "imap": [
        ({"username": "probe", "password": "a long password"}, "username"),
        ({**LOGIN, "folder": ["INBOX", ""]}, "folder"),
        ({**LOGIN, "folder": ["a\r\nb"]}, "folder"),
        ({**LOGIN, "search": " "}, "search"),
        ({**LOGIN, "search": "TEXT {5}"}, "search"),
    ],
    "pop3": [
        ({"username": "probe", "tls": "implicit", "mechanism": "APOP"}, "password"),
        ({"username": "probe", "password": "a long password"}, "username"),
        ({"username": "probe", "tls": "starttls"}, "password"),
        ({"password": "a long password"}, "password"),
        ({**LOGIN, "token": "a long token"}, "token"),
        ({**LOGIN, "mechanism": "OAUTHBEARER"}, "token"),
        ({**LOGIN, "mechanism": "EXTERNAL"}, "client_cert"),
        ({"expect_login_refused": True}, "expect_login_refused"),
        ({"tls": "implicit", "ca_file": "/nowhere.pem"}, "ca_file"),
        ({"expect": "a\r\nb"}, "expect"),
        ({"port": 0}, "port"),
        ({"min_certificate_days": 14}, "min_certificate_days"),
        ({"warn_certificate_days": 14}, "warn_certificate_days"),
    ],
    "sieve": [
        ({"username": "probe", "password": "a long password"}, "username"),
        ({"require_active": True}, "require_active"),
        ({**LOGIN, "have_space": 0}, "have_space"),
        ({**LOGIN, "check_script": "/nowhere.sieve"}, "check_script"),
    ],
    "smtp": [
        ({"username": "probe", "password": "a long password"}, "username"),
        ({"rcpt_to": ["a b@example.org"]}, "rcpt_to"),
        ({"helo": "a\r\nQUIT"}, "helo"),
        ({"command": ["NOOP"], "response": ["("]}, "response"),
        ({"send": True}, "send"),
    ],
}


@pytest.mark.parametrize("module", MODULES)
def test_a_wrong_option_fails_by_name_before_anything_connects(ansible: Ansible, module: str) -> None:
    with Scripted("S: hello") as server:
        tasks = [{"host": "localhost", "port": server.port, **options} for options, dummy in WRONG[module]]
        results = ansible.run(module, *tasks).results
    for found, (options, name) in zip(results, WRONG[module], strict=True):
        assert found["failed"] is True, options
        assert found["msg"].startswith(f"{name}: "), options
        assert found["problems"] == [], options
        assert set(found["facts"]) == {f.name for f in fields(FACTS[module])}
    assert server.connections == 0


def test_a_package_that_an_option_needs_is_missing_in_ansibles_words(ansible: Ansible) -> None:
    """Those name the Python that does not have it."""
    unverified = {"tls": "starttls", "validate_certs": False}
    needing = [
        ({"nameserver": "127.0.0.1"}, "nameserver", "dnspython"),
        ({"require_name_agreement": True}, "require_name_agreement", "dnspython"),
        ({**unverified, "min_certificate_days": 14}, "min_certificate_days", "cryptography"),
        ({**unverified, "warn_certificate_days": 14}, "warn_certificate_days", "cryptography"),
    ]
    with Scripted("S: 220 hello") as server:
        tasks = [{"host": "127.0.0.1", "port": server.port, **options} for options, *dummy in needing]
        results = ansible.run("smtp", *tasks).results
    for found, (dummy, name, package) in zip(results, needing, strict=True):
        assert found["msg"].startswith(f"{name}: Failed to import the required Python library ({package}) on ")
        assert f"'s Python {ansible.interpreter}. " in found["msg"]
        assert (found["state"], found["healthy"]) == ("unknown", False)
    assert server.connections == 0


def spellings(secret: str, *names: str) -> Iterator[str]:
    """The forms in which a password could be printed."""
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield b64encode(secret.encode()).decode()
    yield from (b64encode(f"\0{name}\0{secret}".encode()).decode() for name in names)


@pytest.mark.parametrize("module", MODULES)
def test_a_login_is_accepted_or_refused_and_the_password_is_nowhere(
    ansible: Ansible, postfix: Postfix, dovecot: Dovecot, ca: CertificateAuthority, module: str
) -> None:
    ports = {"imap": dovecot.imap, "pop3": dovecot.pop3, "sieve": dovecot.sieve, "smtp": postfix.submission}
    login = {
        "host": "localhost",
        "port": ports[module],
        "tls": "starttls",
        "ca_file": str(ca.pem_path),
        "username": AWKWARD_USER.name,
    }
    played = ansible.run(
        module,
        {**login, "password": "{{ good }}", "mechanism": "PLAIN"},
        {**login, "password": "{{ bad }}", "mechanism": "PLAIN"},
        {**login, "password": "{{ bad }}"},
        {**login, "password": "{{ bad }}", "expect_login_refused": True},
        arguments=["-vvv"],
        good=AWKWARD_USER.password,
        bad=CANARY,
    )
    accepted, *refused, expected = played.results
    assert accepted["failed"] is False, accepted["msg"]
    assert (accepted["facts"]["login"], accepted["facts"]["mechanism"]) == ("accepted", "PLAIN")
    for found in refused:
        assert (found["failed"], found["state"]) == (True, "critical")
        assert [(problem["code"], problem["stage"]) for problem in found["problems"]] == [("auth-rejected", "auth")]
        assert "Wrong user name or password" in found["msg"]
    assert expected["failed"] is False, expected["msg"]
    assert (expected["facts"]["login"], expected["problems"]) == ("refused", [])
    assert "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" in played.output  # hence the options were shown
    results = json.dumps(played.results, ensure_ascii=False)
    for password in (AWKWARD_USER.password, CANARY):
        for spelling in spellings(password, AWKWARD_USER.name):
            assert spelling not in played.output
            assert spelling not in results


def test_ansible_test_sanity_passes_on_the_installed_artefact(ansible: Ansible) -> None:
    done = ansible.test("sanity", "--requirements")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert 'Running sanity test "validate-modules"' in done.stdout + done.stderr
    assert "All targets skipped" not in done.stdout + done.stderr
