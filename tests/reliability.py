"""How reliable the probe is, in figures: `python -m tests.reliability` (README.md, "Reliability"); it takes minutes.

Every scripted conversation and every mutant of the sane ones is played to a command of its own. With `--write` the
figures go into README.md.
"""

from __future__ import annotations

import re
import ssl
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import trustme

from .canary import leaks
from .mutation import MUTATIONS, mutants, sources
from .playing import Files, serve
from .running import REPOSITORY, Outcome, check
from .scripted import Script
from .test_conversations import SCRIPTS, name_of
from .test_mutation import given, why_legal

README = REPOSITORY / "README.md"
FIGURES = re.compile(r"(?<=<!-- figures -->\n).*?(?=<!-- /figures -->)", re.DOTALL)
# Processes at a time; more of them would measure the machine.
THREADS = 2


@dataclass(frozen=True)
class Try:
    """A conversation to be had, and the states that are right; `kind` is the row of the table."""

    kind: str
    protocol: str
    name: str
    script: Script
    words: list[str]
    right: frozenset[str]
    code: str


@dataclass(frozen=True)
class Result:
    """What came of it; `overrun` is what the run took beyond the time limit, the start of a Python aside."""

    tried: Try
    outcome: Outcome
    overrun: float

    @property
    def right(self) -> bool:
        """Whether the verdict is right, the finding too where it is known beforehand, and no secret got out."""
        code = self.tried.code
        named = code == "-" or f"] {code} at " in self.outcome.output
        return self.outcome.state in self.tried.right and named and not list(leaks(self.outcome.output))


def tries(files: Files) -> Iterator[Try]:
    """All there are."""
    for path in SCRIPTS:
        script = Script.read(path)
        kind = "legal, if odd" if script.state == "ok" else "misbehaving"
        words, right = files.arguments(script), frozenset({script.state})
        yield Try(f"scripted servers, {kind}", path.parent.name, name_of(path), script, words, right, script.code)
    for source in sources():
        for mutation in MUTATIONS:
            for mutant in mutants(source, mutation):
                leaving = mutant.farewell or mutant.leaves_after
                if why_legal(mutant) and not leaving:
                    continue  # a sane server may say so, and some options cannot do without what it then lacks
                right = frozenset({"ok", "warning"} if leaving else {"warning", "critical"})
                kind = "at the farewell" if leaving else "that must not be OK"
                words = given(mutant, files)
                yield Try(f"spoiled replies {kind}", mutant.protocol, mutant.name, mutant.script, words, right, "-")


def play(tried: Try, tls: ssl.SSLContext) -> Result:
    """Play one."""
    with serve(tried.script, tls) as server:
        outcome = check(tried.protocol, "-H", "localhost", "-4", "-p", server.port, "-vv", *tried.words)
    limit = float(tried.words[tried.words.index("--timeout") + 1])
    took = re.search(r" time=([0-9.]+)s", outcome.first_line)
    result = Result(tried, outcome, (float(took[1]) if took else outcome.seconds) - limit)
    if not result.right:
        print(f"WRONG {tried.name}: {outcome.first_line}", file=sys.stderr)
    return result


def table(results: list[Result]) -> str:
    """The figures as they stand in README.md."""
    rows = ["| conversations with | tried | right verdicts |", "| --- | ---: | ---: |"]
    for kind in dict.fromkeys(result.tried.kind for result in results):
        own = [result for result in results if result.tried.kind == kind]
        rows.append(f"| {kind} | {len(own)} | {sum(result.right for result in own)} |")
    overrun = max(max(result.overrun for result in results), 0)
    peak = max(result.outcome.peak_mib for result in results)
    words = f"The longest overrun of the time limit was {overrun:.1f} s. The largest process had {peak:.0f} MiB."
    return "\n".join([*rows, "", words, ""])


def main() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(THREADS) as pool:
        ca_file = Path(directory, "ca.pem")
        authority.cert_pem.write_to_path(str(ca_file))
        waiting = list(tries(Files.write(Path(directory), ca_file)))
        results = list(pool.map(lambda tried: play(tried, context), waiting))
    figures = table(results)
    print(figures)
    if "--write" in sys.argv:
        README.write_text(FIGURES.sub(lambda dummy: figures, README.read_text("utf-8")), encoding="utf-8")
    sys.exit(not all(result.right for result in results))


if __name__ == "__main__":
    main()
