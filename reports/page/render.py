"""Pages from templates: the one environment, and the files that every page loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reports import text

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """The page `template` with `values`: every text escaped, a name that is missing an error."""
    return environment().get_template(template).render(**values)


def environment(**shared: Any) -> Environment:
    """For many pages of `shared` values; numbers are filtered by `text`."""
    out = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    out.policies["json.dumps_function"] = dumps
    out.filters |= {name: getattr(text, name) for name in ("number", "seconds", "joules", "size", "count", "kinds")}
    out.globals |= {"metric_name": text.metric_name, "NOT_ISOLATED": text.NOT_ISOLATED} | shared
    return out


def dumps(value: Any, **options: Any) -> str:
    """`value` as JSON; nothing in its texts is hidden."""
    return json.dumps(_shown(value), **options)


def _shown(value: Any) -> Any:
    """`value`, its texts as `text.shown`; what is markup already has been through here."""
    if isinstance(value, dict):
        return {_shown(key): _shown(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(part) for part in value]
    return text.shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def write_assets(out: Path, *names: str) -> list[Path]:
    """Copy style sheets and scripts of the templates into `out`/assets; returns the files."""
    folder = out / "assets"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text((TEMPLATES / name).read_text(encoding="utf-8"), encoding="utf-8", newline="\n")
    return [folder / name for name in names]
