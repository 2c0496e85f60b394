"""Numbers as people read them. Files for machines keep every digit; these are for pages and papers."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

MISSING = "–"
TRUTH_NAMES = {"exact": "exact truth", "colmap": "COLMAP truth", "scan": "scanned truth"}
NOT_ISOLATED = "not isolated"  # of a trial that ran without walls


def number(value: float | None, digits: int = 3) -> str:
    """`value` at `digits` significant digits, without an exponent where it stays short."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    magnitude = abs(value)
    if not 1e-4 <= magnitude < 1e5:
        return f"{value:.{digits - 1}e}"
    rounded = float(f"{value:.{digits}g}")
    decimals = max(0, digits - 1 - int(f"{rounded:e}".partition("e")[2]))
    return f"{rounded:.{decimals}f}"


def seconds(value: float | None) -> str:
    """A duration, its unit beside it."""
    if value is None:
        return MISSING
    if value < 0.0009995:
        return f"{number(value * 1e6)} µs"
    if value < 0.9995:
        return f"{number(value * 1000)} ms"
    if value < 99.95:
        return f"{number(value)} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def joules(value: float | None) -> str:
    """An energy, its unit beside it."""
    return MISSING if value is None else f"{number(value)} J"


def count(value: float | None) -> str:
    """A large count in thousands, millions or billions: 12.3 k, 1.2 B."""
    return _scaled(value, 1000.0, ("", " k", " M", " B", " T"))


def size(value: float | None) -> str:
    """Bytes in binary units."""
    return _scaled(value, 1024.0, (" B", " KiB", " MiB", " GiB", " TiB"))


def _scaled(value: float | None, step: float, units: tuple[str, ...]) -> str:
    if value is None:
        return MISSING
    power = 0
    while abs(value) >= step * 0.9995 and power < len(units) - 1:
        value, power = value / step, power + 1
    return (f"{value:.0f}" if power == 0 or abs(value) >= 100 else number(value)) + units[power]


def kinds(failures: Mapping[str, int]) -> str:
    """Failures by kind: `oom 2, timeout 1`; empty where there are none."""
    return ", ".join(f"{kind.replace('_', ' ')} {times}" for kind, times in failures.items())


def metric_name(metric: str, unit: str, better: str) -> str:
    """A column's head: the metric, its unit and an arrow towards good; it may break after the metric only."""
    marks = ([] if unit == "ratio" else [f"[{unit}]"]) + ["↓" if better == "lower" else "↑"]
    return f"{metric} " + "\N{NO-BREAK SPACE}".join(marks)


HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode's categories of control, format, half and separating characters


def shown(value: str) -> str:
    """`value` with what acts and is not seen spelled out: escape sequences, turned writing, bytes that are no text.

    New lines and tabs stay."""
    if value.isprintable():
        return value
    return "".join(
        mark if mark.isprintable() or mark in "\n\t" or unicodedata.category(mark) not in HIDDEN else _spelled(mark)
        for mark in value
    )


def _spelled(mark: str) -> str:
    number = ord(mark)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


FORMULAS = tuple("=+-@\t\r\n＝＋－＠")  # what begins a formula in a spreadsheet


def csv(value: str) -> str:
    """`value` as plain text in a cell of a spreadsheet: never a formula."""
    value = shown(value)
    return f"'{value}" if value.startswith(FORMULAS) else value


def one_line(value: str) -> str:
    """`value` with every run of white space as one space, and nothing hidden."""
    return shown(" ".join(value.split()))


def markdown(value: str) -> str:
    """`value` as plain text on one line of a Markdown table: nothing in it is markup."""
    out = one_line(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    out = "".join(f"\\{c}" if c in "\\|`*_[]~" else c for c in out)
    return out.replace("://", "&#58;//").replace("www.", "www&#46;")  # else some renderers make links of them


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    **{mark: "\\" + mark for mark in "&%$#_{}"},
}


def latex(value: str) -> str:
    """`value` as plain text on one line of LaTeX."""
    return "".join(_TEX.get(mark, mark) for mark in one_line(value))
