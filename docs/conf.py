"""The documentation as a site: `make docs`. Pages are Markdown; the API reference is made of the docstrings."""

import dataclasses
import pkgutil
import re
from importlib import import_module
from pathlib import Path

from docutils import nodes

import dipod_jax

project = "dipod-jax"
author = "the dipod-jax contributors"
copyright = "the dipod-jax contributors, Apache-2.0"
release = version = dipod_jax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "results"]  # what commands have written, linked as files
html_theme = "furo"
html_title = "dipod-jax"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
default_role = "code"
highlight_language = "text"  # a block without a language is a formula or a table
suppress_warnings = ["ref.python"]  # a word in a type that names several classes: no link is wrong, one is not made

API = Path(__file__).parent / "api"
# What each part is for, in the order of the reference; a module that is new in one of them appears by itself.
PARTS = {
    "api": "Configure, train, evaluate",
    "envs": "Tasks as batched environments",
    "objectives": "Objectives",
    "regularisers": "Regularisers",
    "policies": "Policies",
    "advantages": "Advantage estimators",
    "bounds": "Bounds, samplers, likelihoods",
    "diagnostics": "The drift meter",
    "training": "Training",
    "config": "Options",
    "runs": "Run folders",
    "studies": "Studies",
    "toys": "Exact masked diffusion",
    "language": "Masked-diffusion language models",
    "export": "Export",
    "viz": "Figures and films",
    "report": "Reports",
}


def write_api(app) -> None:
    """One page for each part, with a section for each of its modules."""
    API.mkdir(exist_ok=True)
    for part, title in PARTS.items():
        module = import_module(f"dipod_jax.{part}")
        names = [module.__name__]
        if hasattr(module, "__path__"):
            found = pkgutil.walk_packages(module.__path__, f"{module.__name__}.")
            names += [m.name for m in found if not m.name.rsplit(".", 1)[1].startswith("_")]
        sections = [f"# {title}"]
        for name in names:
            head = [] if len(names) == 1 else [f"## `{name}`"]
            members = (
                "\n   :no-members:" if hasattr(import_module(name), "__path__") else ""
            )  # they stand in its modules
            sections += [*head, f"```{{eval-rst}}\n.. automodule:: {name}{members}\n```"]
        (API / f"{part}.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    pages = "\n".join(PARTS)
    head = "# API reference\n\nMade of the docstrings, one page for each part."
    (API / "index.md").write_text(f"{head}\n\n```{{toctree}}\n:maxdepth: 1\n\n{pages}\n```\n", encoding="utf-8")


def plain_text(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings are plain text with code in backticks: what reStructuredText would read as markup is escaped."""
    if lines and re.match(r"Alias for field number \d+", lines[0]):
        lines.clear()  # Python's own words for a field of a NamedTuple that has none
    if what in ("attribute", "property", "data"):
        lines[:0] = ["..", ""]  # else napoleon takes what precedes a colon in the first line for a type
    code = re.compile(r"(``.+?``|`.+?`)")
    literal = indented_blocks(lines)
    for number, line in enumerate(lines):
        if number not in literal:
            parts = code.split(line)
            parts[::2] = [re.sub(r"(?<!\S)--[a-z][\w.-]*\w", r"`\g<0>`", part) for part in parts[::2]]  # no dash
            parts = code.split("".join(parts))
            parts[::2] = [re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
            lines[number] = re.sub(r"(: \w)\.$", r"\1\\.", "".join(parts))  # `d.` opens no list
    for number in sorted((n for n in literal if n - 1 not in literal), reverse=True):
        lines[number:number] = ["::", ""]  # a formula or a table keeps its lines


ARRAY_LIKE = re.compile(r"\S*\bArray \| \S*ndarray \| \S*bool \| \S*number \| bool \| int \| float \| complex")


def short_signature(app, what, name, obj, options, signature, return_annotation):
    """Fields that are listed below are not listed in a class's signature too; types go by their short names."""
    listed = dataclasses.is_dataclass(obj) or hasattr(obj, "_fields") or getattr(obj, "_is_protocol", False)
    if what == "class" and listed:
        return "", None
    short = lambda text: text and ARRAY_LIKE.sub("ArrayLike", text)
    return short(signature), short(return_annotation)


def tidy_reference(app, doctree) -> None:
    """A class has no `Bases: object`; a function in the value of a constant goes by its name."""
    for line in list(doctree.findall(nodes.paragraph)):
        if line.astext() == "Bases: object":
            line.parent.remove(line)
    for text in list(doctree.findall(nodes.Text)):
        if "<function " in text:
            text.parent.replace(text, nodes.Text(re.sub(r"<function ([\w.]+)>", r"\1", text)))


def indented_blocks(lines: list[str]) -> set[int]:
    """Numbers of the lines of blocks that stand after an empty line, further in than the text before it."""
    indent = lambda line: len(line) - len(line.lstrip())
    found: set[int] = set()
    outer, text = None, ""  # indentation around the block that the line is in; the last line that is not empty
    for number, line in enumerate(lines):
        if line.strip():
            if outer is not None and indent(line) <= outer:
                outer = None
            opens = text and not lines[number - 1].strip() and indent(line) > indent(text)
            if outer is None and opens and not re.match(r"\s*([-*]|\d+\.) |.*::$", text):
                outer = indent(text)
            text = line
        if outer is not None:
            found.add(number)
    return found


def setup(app) -> None:
    """Hooks of the build."""
    app.connect("builder-inited", write_api)
    app.connect("autodoc-process-docstring", plain_text, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", short_signature)
    app.connect("doctree-read", tidy_reference)
