"""The command line of every check, derived from the declaration of its options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from mailprobe.options import Declaration, Options, UsageError, declarations, read, spell
from mailprobe.text import printable

from .credentials import SOURCES, expand, secret

EXIT_UNKNOWN = 3

# The letters that every Nagios plugin has; all other options have their long name only.
LETTERS = {"host": "-H", "port": "-p", "timeout": "-t"}

T = TypeVar("T", bound=Options)


class Parser(argparse.ArgumentParser):
    """argparse with the exit codes of the monitoring world: 3 for a wrong command line, `--help` and `--version`."""

    def error(self, message: str) -> NoReturn:
        """End with one line on standard output, which is where Nagios looks."""
        dummy, colon, unknown = message.partition("unrecognized arguments: ")
        if colon:
            # Names only: behind an option that we do not have there may be a password, as check_smtp takes it.
            # The first word only, and of that the name: what follows may be anything.
            found = re.match(r"--[\w-]*|-\w", unknown)
            message = f"{found[0] if found else printable(unknown, limit=80)}: there is no such option; see --help"
        raise Misuse(message.removeprefix("argument "))

    def exit(self, status: int = EXIT_UNKNOWN, message: str | None = None) -> NoReturn:
        """End with 3, whatever argparse thinks."""
        super().exit(EXIT_UNKNOWN, message)


class Misuse(Exception):
    """A wrong command line; the message names the option as the user spells it."""


def flag(declared: Declaration) -> str:
    """The option's name on the command line."""
    if declared.secret:
        return _long(f"{declared.name}_file")
    return _long(f"no_{declared.name}" if declared.default is True else declared.name)


def _long(name: str) -> str:
    return "--" + name.replace("_", "-")


def add_options(parser: argparse.ArgumentParser, options: type[Options]) -> None:
    """Add an argument for each declared option, in a group for each family; no default is set here."""
    flags = {declared.name: flag(declared) for declared in declarations(options)}
    left = dict.fromkeys(flags)
    for family in reversed(options.__mro__):
        # A protocol may declare anew what its family has; it stays in the family's group.
        names = [name for name in vars(family).get("__annotations__", {}) if name in left]
        own = [declared for declared in declarations(options) if declared.name in names]
        left = {name: None for name in left if name not in names}
        if own:
            group = parser.add_argument_group((family.__doc__ or "").partition("\n")[0].rstrip("."))
            for declared in own:
                _add(group, declared, flags)


def _add(group: Any, declared: Declaration, flags: Mapping[str, str]) -> None:
    words = spell(declared.help, lambda name: flags.get(name, name)).replace("%", "%%")
    if declared.secret:
        for source, (metavar, meaning) in SOURCES.items():
            group.add_argument(_long(f"{declared.name}_{source}"), metavar=metavar, help=meaning.format(declared.name))
        return
    names = [name for name in (LETTERS.get(declared.name), flag(declared)) if name]
    if declared.kind == "bool":
        action = "store_false" if declared.default else "store_true"
        if declared.default:
            words = f"Do not {words[0].lower()}{words[1:]}"
        group.add_argument(*names, dest=declared.name, action=action, default=None, help=words)
        return
    if declared.default not in (None, ()):
        default = ", ".join(declared.default) if declared.many else declared.default
        shown = f"{default:g}" if declared.kind == "float" else str(default).rstrip(".")
        words += f" Default: {shown}."
    if declared.name == "family":
        group = group.add_mutually_exclusive_group()
    if declared.many:
        words += " May be given more than once."
    group.add_argument(
        *names,
        dest=declared.name,
        type=NUMBERS.get(declared.kind, str),
        choices=declared.choices or None,
        action="append" if declared.many else "store",
        required=declared.required,
        metavar=None if declared.choices else (declared.metavar or declared.name.upper()),
        help=words,
    )
    if declared.name == "family":
        for version in "46":
            group.add_argument(
                f"-{version}",
                dest="family",
                action="store_const",
                const=f"ipv{version}",
                help=f"Short for {flag(declared)} ipv{version}.",
            )


def _whole_number(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"'{printable(text, limit=80)}' is not a whole number")
    return int(text)


def _number(text: str) -> float:
    if not re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{0,18})?|-?\.[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"'{printable(text, limit=80)}' is not a number")
    return float(text)


NUMBERS: dict[str, Any] = {"int": _whole_number, "float": _number}


def to_options(options: type[T], given: argparse.Namespace, inline: Mapping[str, str]) -> T:
    """The options object for a parsed command line and the secrets of a file of options. Raises `Misuse`."""
    declared = {d.name: d for d in declarations(options)}
    try:
        values = {name: getattr(given, name) for name, declaration in declared.items() if not declaration.secret}
        for name in (name for name, declaration in declared.items() if declaration.secret):
            sources = {source: getattr(given, f"{name}_{source}") for source in SOURCES}
            values[name] = secret(name, sources, given.timeout or declared["timeout"].default, inline.get(name))
        return read(options, values)
    except UsageError as error:
        raise misuse(options, error) from None


def parse(parser: Parser, options: type[Options], arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Parse a command line, a file of options included; returns the secrets of that file beside it. Raises `Misuse`."""
    secrets = frozenset(declared.name for declared in declarations(options) if declared.secret)
    try:
        arguments, inline = expand(arguments, parser.prog, secrets)
    except UsageError as error:
        raise misuse(options, error) from None
    arguments = _joined(arguments)
    for argument in arguments:
        if re.fullmatch(r"(-\w|--[a-z-]+=)--", argument):  # argparse makes a list of it
            raise Misuse(f"{argument[:-2].rstrip('=')}: '--' is no value")
    return parser.parse_args(arguments), inline


def _joined(arguments: list[str]) -> list[str]:
    """Join a range that begins with a minus sign to its option, which argparse would take it for."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in RANGE_OPTIONS and argument.startswith("-") and RANGE.fullmatch(argument):
            option = joined.pop()
            joined.append(f"{option}={argument}" if option.startswith("--") else option + argument)
        else:
            joined.append(argument)
    return joined


def misuse(options: type[Options], error: UsageError) -> Misuse:
    """A wrong option in the words of the command line."""
    flags = {declared.name: flag(declared) for declared in declarations(options)}
    words = spell(error.words, lambda name: flags.get(name, _long(name)))
    return Misuse(f"{flags.get(error.option, _long(error.option))}: {words}")


# Thresholds.

RANGE_OPTIONS = frozenset({"-w", "-c", "--warning", "--critical"})
RANGE = re.compile(r"@?(?:(?:~|-?[0-9]{1,15}(?:\.[0-9]{1,9})?)?:)?(?:-?[0-9]{1,15}(?:\.[0-9]{1,9})?)?")


@dataclass(frozen=True)
class Threshold:
    """A metric that `-w` and `-c` can judge, and what it is; empty where the next one's meaning says it, too."""

    metric: str
    meaning: str


def add_thresholds(parser: argparse.ArgumentParser, thresholds: Iterable[Threshold]) -> None:
    """Add `-w`, `-c` and `-D`."""
    names = ", ".join(f"{known.metric} ({known.meaning})" if known.meaning else known.metric for known in thresholds)
    group = parser.add_argument_group(
        "When to raise an alarm",
        "RANGE as in the Monitoring Plugins' guidelines: 5 is alarm above 5 (or below 0), 30: is alarm below 30, 1:9"
        f" outside and @1:9 inside of 1 to 9. METRIC is one of: {names}; without it, time.".replace("%", "%%"),
    )
    for letter, name in (("-w", "--warning"), ("-c", "--critical")):
        group.add_argument(
            letter,
            name,
            metavar="[METRIC=]RANGE",
            action="append",
            default=[],
            help=f"{name[2:].upper()} when the metric is outside of the range; may be given more than once.",
        )
    group.add_argument(
        "-D",
        "--certificate",
        metavar="WARN[,CRIT]",
        help="Alarm when the certificate has fewer days left; short for -w certificate_days=WARN: and -c"
        " certificate_days=CRIT: (CRIT is 0, expired, when it is not given).",
    )


def to_ranges(given: argparse.Namespace, known: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The warning and the critical ranges by metric. Raises `Misuse`."""
    names = frozenset(known)
    warning = _ranges("-w/--warning", given.warning, names)
    critical = _ranges("-c/--critical", given.critical, names)
    if given.certificate is not None:
        days = re.fullmatch(r"([0-9]{1,5})(?:,([0-9]{1,5}))?", given.certificate)
        if days is None:
            raise Misuse(
                f"-D/--certificate: '{printable(given.certificate, limit=80)}' is not WARN[,CRIT] in whole days"
            )
        if days[2] is not None and int(days[2]) > int(days[1]):
            raise Misuse(f"-D/--certificate: CRIT {days[2]} is more than WARN {days[1]}; it comes first, so it is less")
        if "certificate_days" in {**warning, **critical}:
            raise Misuse("-D/--certificate: there is another range for certificate_days: give one of them")
        warning["certificate_days"] = f"{days[1]}:"
        critical["certificate_days"] = f"{days[2] or 0}:"  # as check_smtp has it: an expired one is always CRITICAL
    return warning, critical


def _ranges(option: str, values: Iterable[str], known: frozenset[str]) -> dict[str, str]:
    pairs = (value.rpartition("=") for value in values)
    try:
        return ranges(((metric if equals else "time", text) for metric, equals, text in pairs), known)
    except Misuse as misuse:
        raise Misuse(f"{option}: {misuse}") from None


def ranges(pairs: Iterable[tuple[str, str]], known: Collection[str]) -> dict[str, str]:
    """Pairs of a metric and its range as a mapping. Raises `Misuse`, which does not name the option."""
    found: dict[str, str] = {}
    for metric, text in pairs:
        if metric not in known:
            names = ", ".join(sorted(known))
            raise Misuse(f"there is no metric '{printable(metric, limit=80)}'; there are {names}")
        if metric in found:
            raise Misuse(f"{metric} is given twice")
        start, colon, end = text.lstrip("@").rpartition(":")
        if not text or not RANGE.fullmatch(text) or text in ("@", ":", "@:"):
            raise Misuse(f"'{printable(text, limit=80)}' is not a range like 5, 30: or 1:9")
        if start not in ("", "~") and end and float(start) > float(end):
            raise Misuse(f"'{text}' begins above its end")
        if not colon and float(end) < 0:
            raise Misuse(f"'{text}' ends below 0, where it begins; write ~:{end}")
        found[metric] = text
    return found
