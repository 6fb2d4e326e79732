"""From a command line to a run: one line for every mistake, exit status 2, nothing written."""

import contextlib
import dataclasses
import difflib
import io
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar, cast

from dipod_jax.checks import require
from dipod_jax.runs.errors import (
    CheckpointError,
    MachineError,
    NumbersError,
    RunFolderError,
    StorageError,
    TaskError,
    reason_of,
)
from dipod_jax.runs.terminal import Terminal

Config = TypeVar("Config")

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
BROKEN_PIPE = 141  # 128 + SIGPIPE


def run_cli(
    parse: Callable[[list[str]], Config],
    main: Callable[[Config], None],
    argv: Sequence[str] | None = None,
    *,
    lasts: bool = False,
) -> None:
    """Parse `argv` with `parse` and hand the configuration to `main`.

    A user's mistake is reported as one line on standard error, `error: --flag value is not allowed: ...`, and exit
    status 2: a ValueError of `parse` (`parse_options` and validation included), a RunFolderError, CheckpointError,
    MachineError or TaskError of `parse` or `main`. Another ValueError of `main` is a bug and keeps its traceback.
    Ctrl-C is one line and exit status 130, a run that saved on another signal 143; an OSError, as of a full disk, one
    line and exit status 74; a run whose numbers are no longer finite, one line and exit status 65.

    Args:
        parse: from arguments (without the program's name) to a validated configuration. It imports no physics, and jax
            only where objectives and policies, which need it, bring the options, so that `--help` and mistakes are
            answered soon. Its output on standard error is shown after it has succeeded, each line once.
        main: the run itself; imports what it needs.
        argv: arguments; those of the process where None.
        lasts: `main` works for long and keeps in files what it makes, so that it goes on where standard output is
            closed, full, or read by nobody any more. Other commands end there: what they print is what they are for.

    Raises:
        SystemExit: as above, and with status 0 after `--help`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _open_closed_streams()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it has lines of its own on a home that takes no files
    if isinstance(sys.stdout, io.TextIOWrapper):
        with contextlib.suppress(OSError, ValueError):  # where it is closed or full, whoever writes is told
            sys.stdout.reconfigure(errors="backslashreplace")  # letters that a terminal lacks must end no command
    try:
        try:
            config = _parse(parse, arguments)
            with _lasting_output() if lasts else contextlib.nullcontext():
                main(config)
        finally:
            sys.stdout.flush()  # here, where a reader that has left is answered, and not at exit
    except BrokenPipeError:  # whoever read our output has left, as `| head` does; Python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(BROKEN_PIPE)
    except BaseException as error:
        if (ended := ending(error)) is None:
            raise
        print(ended[0], file=sys.stderr)
        sys.exit(ended[1])


def _open_closed_streams() -> None:
    """Let standard streams that were closed lead nowhere: else the next file, a lock or records, would get the number
    that libraries print to."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  as long as the process


@contextlib.contextmanager
def _lasting_output() -> Iterator[None]:
    """Meanwhile, a standard output that no failure to write ends the process by."""
    terminal = Terminal(sys.stdout)
    with contextlib.redirect_stdout(cast(TextIO, terminal)):
        try:
            yield
        finally:
            terminal.flush()


def ending(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit status that a command ends with where `error` was raised; None of a bug."""
    if isinstance(error, (RunFolderError, CheckpointError, MachineError, TaskError)):
        return _line(str(error)), USAGE_ERROR
    if isinstance(error, NumbersError):
        return _line(str(error)), error.EXIT_STATUS
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", getattr(error, "exit_status", INTERRUPTED)
    if isinstance(error, OSError):  # a full or failing disk; what is wrong with the arguments was found by `parse`
        file = "" if error.filename is None else f"{error.filename}: "
        return _line(f"{file}{reason_of(error)}"), StorageError.EXIT_STATUS
    return None


def parse_options(
    options_class: type[Config],
    arguments: Sequence[str],
    *,
    prog: str,
    description: str | None = None,
    default: Config | None = None,
) -> Config:
    """A dataclass of options from a command line, by tyro; `--help` is tyro's.

    Args:
        options_class: its fields are the options, the strings under them their help.
        arguments: without the program's name.
        prog: the program's name in the help.
        description: the help's first lines; the class's docstring where None.
        default: the defaults of the options; those of the class where None.

    Raises:
        ValueError: one line that names the option, its value and what is allowed.
        SystemExit: with status 0 after `--help`.
    """
    import tyro

    start: dict[str, Any] = {} if default is None else {"default": default}
    with _mistakes_raised(arguments):
        options, unknown = tyro.cli(
            options_class, args=arguments, prog=prog, description=description, return_unknown_args=True, **start
        )
    if unknown:
        raise ValueError(f"{_unknown(unknown, options)}; see --help")
    return options


def command_name(name: str) -> str:
    """A command as its user called it: `dipod train`, or `python -m experiments.train` in the repository."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    in_repository = spec is not None and spec.name.startswith("experiments.")
    return f"python -m experiments.{name}" if in_repository else f"dipod {name}"


def resume_command(name: str, folder: Path) -> str:
    """The command that goes on with the run in `folder`, as a shell takes it whatever the folder's name is."""
    path = f"./{folder}" if str(folder).startswith("-") else str(folder)
    return f"{command_name(name)} --resume --out {shlex.quote(path)}"


def parse_with_folder(options_class: type[Config], name: str, arguments: Sequence[str]) -> Config:
    """The options of `dipod <name>`, their `out` filled in (runs/<name>/<time>).

    Raises:
        ValueError: as `parse_options`. RunFolderError: `out` holds something or cannot be written.
    """
    from dipod_jax.runs import check_unused, check_writable

    options: Any = parse_options(options_class, arguments, prog=command_name(name))
    out = options.out or Path("runs") / name / time.strftime("%Y%m%d-%H%M%S")
    check_writable(out)
    check_unused(out)
    return dataclasses.replace(options, out=out)


def _parse(parse: Callable[[list[str]], Config], arguments: list[str]) -> Config:
    """Run `parse`; turn a rejection into one line and exit status 2."""
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            _check_text(arguments)
            config = parse(arguments)
    except ValueError as error:
        _fail(str(error))
    except SystemExit:  # --help, completion scripts
        sys.stderr.write(stderr.getvalue())
        raise
    sys.stderr.writelines(dict.fromkeys(stderr.getvalue().splitlines(keepends=True)))  # arms of a sweep say the same
    return config


def _check_text(arguments: Sequence[str]) -> None:
    """Refuse bytes that are no text in the terminal's encoding: no file that others read could name them."""
    for argument in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise ValueError(f"{argument!a} holds bytes that are no text; give names of whole characters")


def _fail(message: str) -> NoReturn:
    print(_line(message), file=sys.stderr)
    sys.exit(USAGE_ERROR)


def _line(message: str) -> str:
    return f"error: {' '.join(message.split())}"


@contextlib.contextmanager
def _mistakes_raised(arguments: Sequence[str]) -> Iterator[None]:
    """Have tyro raise ValueError for what it rejects, instead of drawing a box that wraps our sentences at 80 columns.

    tyro's public functions draw that box and exit, and tell a caller neither the option nor the value. Its hook for
    errors is in a private module; with a version that lacks it, the user sees the box, and the exit status is still 2.
    """
    try:
        from tyro._errors import on_parse_error
    except ImportError:
        yield
        return
    with on_parse_error(lambda event: _raise(event, arguments)):
        yield


def _raise(event: Any, arguments: Sequence[str]) -> None:
    """ValueError for an error that tyro found; for an unknown kind, tyro draws its box."""
    kind = type(event).__name__
    if kind == "MissingArgs":
        unknown = f"{_unknown(event.unrecognized_tokens)}; " if event.unrecognized_tokens else ""
        missing = ", ".join(f"{_name(missing.arg)} is required" for missing in event.missing_arguments)
        raise ValueError(f"{unknown}{missing}; see --help")
    if kind not in ("InstantiationFailure", "InvalidChoice", "BadValue"):
        return
    if event.argument is None:  # a dataclass that refuses its own fields
        raise ValueError(event.message)
    if kind == "BadValue" and event.argument.is_positional():
        raise ValueError(f"{_name(event.argument)} is required; see --help")
    flags = event.argument.lowered.name_or_flags
    allowed = f"one of {', '.join(event.choices)}" if kind == "InvalidChoice" else event.argument.lowered.metavar
    require(False, flags[0].removeprefix("--"), _value(arguments, flags), f"{allowed}; see --help")


def _name(argument: Any) -> str:
    """`--beta FLOAT` of an option, `RUN_DIR` of an argument without a flag."""
    metavar = str(argument.lowered.metavar)
    return metavar if argument.is_positional() else f"{argument.lowered.name_or_flags[0]} {metavar}"


def _value(arguments: Sequence[str], flags: Sequence[str]) -> str:
    """The value that the command line gave for an option, the last time it appeared."""
    words: list[str] = []
    mine = False
    for argument in arguments:
        name, given, value = argument.partition("=")
        if argument.startswith("--"):
            mine = name.replace("_", "-") in flags
            words = ([value] if given else []) if mine else words
        elif mine:
            words.append(argument)
    return " ".join(words) or "without a value"


def _unknown(words: Sequence[str], options: Any = None) -> str:
    """The message for words that no option takes; `options` is the dataclass whose names are suggested."""
    names = [word.partition("=")[0] for word in words if word.startswith("--")] or list(words)
    near = difflib.get_close_matches(names[0].removeprefix("--"), _names(options), n=1) if options is not None else []
    what = "is not an option" if len(names) == 1 else "are not options"
    return f"{', '.join(names)} {what}" + (f", did you mean --{near[0]}?" if near else "")


def _names(options: Any, prefix: str = "") -> Iterator[str]:
    """The options' names without dashes in front: `beta`, `policy.num-steps`."""
    for field in dataclasses.fields(options):
        value, name = getattr(options, field.name), prefix + field.name.replace("_", "-")
        yield from _names(value, f"{name}.") if dataclasses.is_dataclass(value) else (name,)
