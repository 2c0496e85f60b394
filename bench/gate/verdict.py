"""The gate's findings as an exit code, Markdown for a pull request, and JUnit XML for a CI server."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from reports import text

Verdict = Literal["pass", "regression", "inconclusive", "unmeasured", "broken"]
Part = Literal["exact", "fresh", "time", "parity"]

# 2 is bad input, as everywhere on the command line.
EXIT_CODES: dict[Verdict, int] = {"pass": 0, "regression": 1, "inconclusive": 3, "unmeasured": 4, "broken": 5}
SHOWN = 12  # mismatches of one case that a summary prints


@dataclass(frozen=True)
class Mismatch:
    """One reading that differs from the baseline."""

    reading: str
    expected: str
    observed: str

    def __str__(self) -> str:
        return f"{self.reading}: {self.expected} expected, {self.observed} seen"


@dataclass(frozen=True)
class Finding:
    """What came of one case."""

    part: Part
    case: str
    verdict: Verdict
    detail: str = ""  # one sentence
    mismatches: tuple[Mismatch, ...] = ()
    seconds: float = 0.0

    def lines(self) -> list[str]:
        """The sentence and the first mismatches, a line each."""
        rest = len(self.mismatches) - SHOWN
        return [
            *([self.detail] if self.detail else []),
            *(str(mismatch) for mismatch in self.mismatches[:SHOWN]),
            *([f"... and {rest} more"] if rest > 0 else []),
        ]


def overall(findings: Iterable[Finding]) -> Verdict:
    """One verdict: a certain regression first, then what kept the gate from judging; `unmeasured` where nothing was."""
    verdicts = {finding.verdict for finding in findings}
    order: tuple[Verdict, ...] = ("regression", "broken", "inconclusive", "pass")
    return next((verdict for verdict in order if verdict in verdicts), "unmeasured")


def markdown(findings: Sequence[Finding], against: str) -> str:
    """A summary for a pull request: the verdict, a table of the cases, and what is wrong with them."""
    verdict = overall(findings)
    counts = [f"{sum(f.verdict == kind for f in findings)} {kind}" for kind in EXIT_CODES]
    out = [f"## Reconbench: {verdict}", "", f"{', '.join(c for c in counts if c[0] != '0')}; compared with {against}."]
    out += ["", "| part | case | verdict | |", "|---|---|---|---|"]
    for finding in findings:
        detail = finding.detail or (f"{len(finding.mismatches)} readings differ" if finding.mismatches else "")
        out.append(f"| {finding.part} | {text.markdown(finding.case)} | {finding.verdict} | {text.markdown(detail)} |")
    for finding in findings:
        if finding.mismatches:
            out += ["", f"<details><summary>{finding.part}: {text.markdown(finding.case)}</summary>", ""]
            out += [f"- {text.markdown(line)}" for line in finding.lines()] + ["", "</details>"]
    return "\n".join(out) + "\n"


def junit(findings: Sequence[Finding]) -> str:
    """JUnit XML, a test case a finding: a regression is a failure, a broken check an error, the rest is skipped."""
    suite = ET.Element("testsuite", name="reconbench check", tests=str(len(findings)))
    for kind, verdicts in (
        ("failures", ("regression",)),
        ("errors", ("broken",)),
        ("skipped", ("inconclusive", "unmeasured")),
    ):
        suite.set(kind, str(sum(finding.verdict in verdicts for finding in findings)))
    tags = {"regression": "failure", "broken": "error", "inconclusive": "skipped", "unmeasured": "skipped"}
    for finding in findings:
        case = ET.SubElement(suite, "testcase", classname=f"reconbench.{finding.part}", name=finding.case)
        case.set("time", f"{finding.seconds:.3f}")
        if finding.verdict in tags:
            lines = [_printable(line) for line in finding.lines()] or [finding.verdict]
            ET.SubElement(case, tags[finding.verdict], message=lines[0]).text = "\n".join(lines)
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _printable(line: str) -> str:
    """`line` without the control characters that XML forbids."""
    return "".join(c if c >= " " or c in "\t\n" else "?" for c in line)
