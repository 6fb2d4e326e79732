"""What all pages share: the templates, how values are written as text, and files inside a page."""

import base64
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

REPORT = "report.html"
# A longer film is linked, not embedded: a page of this size still opens at once and passes through mail.
MAX_EMBEDDED_BYTES = 12_000_000


def rendered(template: str, content: dict[str, Any]) -> str:
    """A page. Every value is escaped (`<` becomes `&lt;`), also in the JSON of `tojson`."""
    return _environment().get_template(template).render(content)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("dipod_jax.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["value"] = setting
    environment.globals["zip"] = zip
    return environment


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, keys joined by dots, as the options of the command line are written."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat = {}
    for key, item in value.items():
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def setting(value: Any) -> str:
    """A value of a configuration as text: `none`, `0.002`, `64, 64`."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(setting(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def embedded(path: Path, kind: str, limit: int) -> str | None:
    """The file as a data URI; its name if it has more than `limit` bytes, None if it does not exist."""
    if not path.exists():
        return None
    if path.stat().st_size > limit:
        return path.name
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
