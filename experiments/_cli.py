"""From a command line to a run: one line for every mistake, exit status 2, nothing written."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from dipod_jax.runs.errors import CheckpointError, RunFolderError, StorageError, reason_of

Config = TypeVar("Config")

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
BROKEN_PIPE = 141  # 128 + SIGPIPE
_SEE_HELP = "; see --help"
_BOX_BORDER = "─│╭╮╰╯┌┐└┘|+- "
# How Python's own constructors, called by tyro, say that a word is no value of their type.
_NO_SUCH_VALUE = (
    re.compile(r"could not convert string to float: (.+)"),
    re.compile(r"invalid literal for int\(\) with base 10: (.+)"),
    re.compile(r"no type matching .+ could be instantiated from (\[.*?\])\."),
)


class _Rejected(Exception):
    """tyro rejects the arguments, for the reason in the message."""


def run_cli(
    parse: Callable[[list[str]], Config], main: Callable[[Config], None], argv: Sequence[str] | None = None
) -> None:
    """Parse `argv` with `parse` (tyro) and hand the configuration to `main`.

    A mistake of the user's is one line on standard error, `error: --flag: value ...; allowed: ...`, and exit status 2:
    what tyro rejects, a ValueError of `parse` (validation of the configuration included), a RunFolderError or
    CheckpointError of `parse` or `main`. A ValueError of `main` is a bug and keeps its traceback. `--help` is tyro's.
    Ctrl-C is one line and exit status 130, a run that saved on another signal 143; an OSError, as of a full disk, one
    line and exit status 74.

    Args:
        parse: from arguments (without the program's name) to a validated configuration. It calls `tyro.cli` and
            imports nothing slow: `--help` and mistakes are answered before jax is imported.
        main: the run itself; imports what it needs.
        argv: arguments; those of the process where None.

    Raises:
        SystemExit: as above, and with status 0 after `--help`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            main(_parse(parse, arguments))
        finally:
            if sys.stdout is not None:  # None where it was closed before we began
                sys.stdout.flush()  # here, where a reader that has left is answered, and not at exit
    except (RunFolderError, CheckpointError) as error:
        _fail(str(error))
    except KeyboardInterrupt as interrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(getattr(interrupt, "exit_status", INTERRUPTED))
    except BrokenPipeError:  # whoever read our output has left, as `| head` does; Python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(BROKEN_PIPE)
    except OSError as error:  # a full or failing disk; what is wrong with the arguments was found by `parse`
        file = "" if error.filename is None else f"{error.filename}: "
        print("error:", " ".join(f"{file}{reason_of(error)}".split()), file=sys.stderr)
        sys.exit(StorageError.EXIT_STATUS)


def _parse(parse: Callable[[list[str]], Config], arguments: list[str]) -> Config:
    """Run `parse`; turn what it rejects into one line and exit status 2."""
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr), _tyro_errors_raised():
            config = parse(arguments)
    except SystemExit as stopped:
        if stopped.code != USAGE_ERROR:  # --help, completion scripts
            sys.stderr.write(stderr.getvalue())
            raise
        _fail(_condense_box(stderr.getvalue()) + _SEE_HELP)
    except _Rejected as rejected:
        _fail(f"{rejected}{_SEE_HELP}")
    except ValueError as error:
        _fail(str(error))
    sys.stderr.writelines(dict.fromkeys(stderr.getvalue().splitlines(keepends=True)))  # arms of a sweep say the same
    return config


def _fail(message: str) -> NoReturn:
    print("error:", " ".join(message.split()), file=sys.stderr)
    sys.exit(USAGE_ERROR)


@contextlib.contextmanager
def _tyro_errors_raised() -> Iterator[None]:
    """Have tyro raise what it rejects instead of drawing a box that wraps our messages at 80 columns.

    tyro offers this in a module it calls unstable. A version without it, or an event that is not known here, comes
    out as a box all the same, and `_condense_box` makes one line of that.
    """
    try:
        from tyro._errors import on_parse_error
    except ImportError:
        yield
        return
    with on_parse_error(_raise_rejected):
        yield


def _raise_rejected(event: Any) -> None:
    kind = type(event).__name__
    if kind == "InstantiationFailure" and event.argument is None:  # a ValueError of a configuration's __post_init__
        raise ValueError(event.message)
    if kind == "InstantiationFailure":
        raise _Rejected(_bad_value(_flag(event.argument), event.message, str(event.argument.lowered.metavar)))
    if kind == "InvalidChoice":
        raise _Rejected(f"{_flag(event.argument)}: value {event.value!r}; allowed: {', '.join(event.choices)}")
    if kind == "BadValue" and event.reason == "too_few_values":
        raise _Rejected(f"{_flag(event.argument)}: value missing; allowed: {event.argument.lowered.metavar}")
    if kind == "MissingArgs":
        unknown = [token for token in event.unrecognized_tokens if token.startswith("--")]
        missing = [_usage(item.arg) for item in event.missing_arguments]
        also = f"{', '.join(unknown)}: unknown option; " if unknown else ""
        raise _Rejected(f"{also}required and missing: {', '.join(missing)}")


def _flag(argument: Any) -> str:
    """`--beta` for an option, its placeholder for a positional argument."""
    return argument.lowered.metavar if argument.is_positional() else argument.lowered.name_or_flags[0]


def _usage(argument: Any) -> str:
    """`--beta FLOAT` for an option, its placeholder for a positional argument."""
    flag, metavar = _flag(argument), str(argument.lowered.metavar)
    return metavar if argument.is_positional() else f"{flag} {metavar}"


def _bad_value(flag: str, message: str, allowed: str) -> str:
    for pattern in _NO_SUCH_VALUE:
        match = pattern.match(" ".join(message.split()))
        if match:
            return f"{flag}: value {match[1]}; allowed: {allowed}"
    return f"{flag}: {message.partition(chr(10) * 2)[0]}; allowed: {allowed}"


def _condense_box(box: str) -> str:
    """The sentence in one of tyro's boxes: its first section, and the first option it proposes instead.

    A box is a title in a border, then sections with rules between them; the last section points at --help.
    """
    lines = [line.strip(_BOX_BORDER) if set(line) & set("╭╰┌└") else line.strip("│| ") for line in box.splitlines()]
    if not lines:
        return "the arguments were rejected"
    title, *body = lines
    sections = [[]]
    for line in body:
        if line and not set(line) <= set(_BOX_BORDER):
            sections[-1].append(line)
        elif sections[-1]:
            sections.append([])
    sentence = re.sub(r"^Error parsing \S+: (?=--)", "", " ".join(sections[0]) or title).rstrip(".")
    unknown = re.match(r"Unrecognized options?: (.+)", sentence)
    if unknown:
        options = re.findall(r"--[^\s,]+", unknown[1])
        sentence = f"{', '.join(options) or unknown[1]}: unknown option"
    proposal = re.search(r"(?:Perhaps you meant:|Arguments similar to \S+:)\s+(--\S+)", " ".join(body))
    return f"{sentence}; did you mean {proposal[1]}?" if proposal else sentence
