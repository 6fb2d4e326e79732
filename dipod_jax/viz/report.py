"""One page that shows a run: what was asked, what came out, and its pictures."""

import base64
import html
from pathlib import Path
from typing import Any

from dipod_jax.runs._disk import write_text
from dipod_jax.runs.folder import RunFolder
from dipod_jax.tables import duration, short_number

REPORT = "report.html"
RETURNS = "returns.png"
DRIFT = "drift.png"
VIDEO = "policy.mp4"
# A longer film is linked, not embedded: a page of this size still opens at once and passes through mail.
MAX_EMBEDDED_BYTES = 12_000_000

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 60rem; margin: 2.5rem auto;
       padding: 0 1.25rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.25rem 0 .75rem; }
.subtitle { color: #666; margin: .25rem 0 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem;
           margin: 1.5rem 0; padding: 0; list-style: none; }
.figures li { border: 1px solid #ddd; border-radius: 6px; padding: .6rem .8rem; }
.figures b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
.figures span { color: #666; font-size: .85rem; }
img, video { max-width: 100%; height: auto; display: block; margin: 0 auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
td, th { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #eee; }
th { font-weight: 600; } td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.settings th { width: 18rem; font: .85rem/1.6 ui-monospace, monospace; }
pre { background: #f5f5f5; border-radius: 6px; padding: .75rem 1rem; overflow-x: auto; font-size: .85rem; }
summary { cursor: pointer; font-weight: 600; margin-top: 2rem; }
"""


def write_report(folder: RunFolder) -> Path:
    """Write `report.html` into the run's folder and return its path.

    The page needs nothing beside it: curves, drift plot and film are embedded (a film of more than 12 MB is linked).
    What the run has not written (yet) is left out. Shows `config.json` and `result.json` as they are; computes nothing.
    """
    result = folder.read_result()
    parts = [_heading(folder, result)]
    if result is not None:
        parts += [_figures(result), _seeds(result)]
    if (folder.path / RETURNS).exists():
        parts.append(f"<h2>Learning curves</h2>\n{_image(folder.path / RETURNS, 'Return over steps and over time')}")
    if (folder.path / VIDEO).exists():
        parts.append(f"<h2>The trained policy</h2>\n{_video(folder.path / VIDEO)}")
    if (folder.path / DRIFT).exists():
        parts.append(f"<h2>Drift</h2>\n{_image(folder.path / DRIFT, 'Gap, gradient, loss and actions over env steps')}")
    parts += [_command(folder), _table("Configuration", folder.config), _table("Provenance", _machine(folder))]
    if result is not None:
        parts.append(_table("Everything in result.json", result))
    title = html.escape(_title(folder.config))
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n{chr(10).join(parts)}\n</body>\n</html>\n"
    )
    path = folder.path / REPORT
    write_text(path, page)
    return path


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, keys joined by dots, as the options of the command line are written."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat = {}
    for key, item in value.items():
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _title(config: dict[str, Any]) -> str:
    objective = config.get("objective")
    if isinstance(objective, dict):
        objective = objective.get("name")
    beta = config.get("beta")
    beta = "" if beta is None else f"beta {beta}" if isinstance(beta, str) else f"beta {beta:g}"
    return " · ".join(str(part) for part in (config.get("task", "run"), objective, beta) if part)


def _heading(folder: RunFolder, result: dict[str, Any] | None) -> str:
    created = str(folder.provenance.get("created", "")).replace("T", " ").replace("+00:00", " UTC")
    machine = folder.provenance.get("machine") or {}
    device = f"{machine.get('device_kind', 'unknown device')}, {machine.get('cpu_count', '?')} CPUs"
    state = "" if result is not None else " · this run has not ended"
    subtitle = html.escape(f"started {created} on {device}{state}")
    return f'<h1>{html.escape(_title(folder.config))}</h1>\n<p class="subtitle">{subtitle}</p>'


def _figures(result: dict[str, Any]) -> str:
    """The numbers one asks for first. One that the result lacks is left out."""
    items = []
    for key, label in (("final_return", "final return"), ("final_return_zero_noise", "final return, zero noise")):
        final = result.get(key)
        if isinstance(final, dict) and isinstance(final.get("mean"), (int, float)):
            bounds = final.get("ci95")
            interval = f" ± {(bounds[1] - bounds[0]) / 2:.0f}" if bounds is not None else ""
            items.append((f"{final['mean']:.0f}{interval}", label))
    for key, label, text in (
        ("env_steps", "env steps", short_number),
        ("wall_clock_s", "wall-clock time", duration),
        ("env_steps_per_s", "env steps/s", short_number),
    ):
        if isinstance(result.get(key), (int, float)):
            items.append((text(result[key]), label))
    cells = "".join(f"<li><b>{html.escape(value)}</b><span>{html.escape(label)}</span></li>" for value, label in items)
    return f'<ul class="figures">{cells}</ul>' if items else ""


def _seeds(result: dict[str, Any]) -> str:
    """One row per seed: final returns, and the time to each return that was watched for."""
    seeds = result.get("seeds")
    if not isinstance(seeds, list):
        return ""
    columns: list[tuple[str, Any]] = [("seed", seeds)]
    for key, label in (("final_return", "final return"), ("final_return_zero_noise", "zero noise")):
        columns.append((label, (result.get(key) or {}).get("per_seed")))
    columns += [(f"seconds to {target}", times) for target, times in (result.get("seconds_to") or {}).items()]
    columns = [(label, values) for label, values in columns if isinstance(values, list) and len(values) == len(seeds)]
    head = "".join(f"<th>{html.escape(label)}</th>" for label, _ in columns)
    rows = ("".join(f"<td>{_cell(values[row])}</td>" for _, values in columns) for row in range(len(seeds)))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if value is None:
        return "never"
    return f"{value:.1f}" if isinstance(value, float) else html.escape(str(value))


def _command(folder: RunFolder) -> str:
    command = html.escape(str(folder.provenance.get("command", "")))
    return f"<h2>The command</h2>\n<pre>{command}</pre>" if command else ""


def _machine(folder: RunFolder) -> dict[str, Any]:
    return {key: value for key, value in folder.provenance.items() if key != "command"}


def _table(title: str, values: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(_text(value))}</td></tr>"
        for key, value in flatten(values).items()
    )
    return (
        f"<details><summary>{html.escape(title)}</summary>\n"
        f'<table class="settings"><tbody>{rows}</tbody></table></details>'
    )


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _image(path: Path, description: str) -> str:
    return f'<img alt="{html.escape(description)}" src="{_embedded(path, "image/png")}">'


def _video(path: Path) -> str:
    small = path.stat().st_size <= MAX_EMBEDDED_BYTES
    source = _embedded(path, "video/mp4") if small else html.escape(path.name)
    return f'<video controls loop muted autoplay playsinline src="{source}"></video>'


def _embedded(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
