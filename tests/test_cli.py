"""Every mistake on a command line is one line and exit status 2; help is tyro's, and quick."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Literal

import pytest

from dipod_jax.cli import parse_options, resume_command, run_cli
from dipod_jax.commands import COMMANDS, _arms
from dipod_jax.runs import CheckpointError, RunFolderError


@dataclass(frozen=True)
class Resumed:
    """What a command that goes on with a run names."""

    out: Path
    """the folder"""
    resume: bool = False
    """go on"""


PRINT = "import sys; from dipod_jax.cli import run_cli; run_cli(lambda words: words[0], print, sys.argv[1:])"
LONG = "finite and more than 0, which this sentence says at such length that a box of 80 columns has to wrap it"


@dataclass(frozen=True)
class Clip:
    epsilon: float = 0.05
    """half width, > 0"""

    def __post_init__(self):
        if not self.epsilon > 0:
            raise ValueError(f"--clip.epsilon {self.epsilon} is not allowed: {LONG}")


@dataclass(frozen=True)
class Options:
    task: str
    """which task"""
    beta: float = 0.0
    """weight, >= 0"""
    seeds: int = 1
    """how many"""
    seed_list: tuple[int, ...] | None = None
    """which"""
    preset: Literal["auto", "cpu", "paper"] = "auto"
    """which recipe"""
    clip: Clip = field(default_factory=Clip)

    def __post_init__(self):
        if not self.beta >= 0:
            raise ValueError(f"--beta {self.beta} is not allowed: a finite number, at least 0")


def parse(arguments: list[str]) -> Options:
    return parse_options(Options, arguments, prog="train")


def never(options: Options) -> None:
    raise AssertionError("main must not run")


def error_of(capsys, arguments: list[str], main=never) -> str:
    with pytest.raises(SystemExit) as stopped:
        run_cli(parse, main, arguments)
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == ""
    assert err.count("\n") == 1 and err.startswith("error: ") and err.endswith("\n")
    return err.removeprefix("error: ").removesuffix("\n")


MISTAKES = [
    (["--task", "a", "--beta", "abc"], "--beta abc is not allowed: FLOAT; see --help"),
    (["--task", "a", "--beta=abc"], "--beta abc is not allowed: FLOAT; see --help"),
    (["--task", "a", "--beta", "nan"], "--beta nan is not allowed: a finite number, at least 0"),
    (["--task", "a", "--clip.epsilon", "-1"], f"--clip.epsilon -1.0 is not allowed: {LONG}"),
    (["--task", "a", "--seeds", "1.5"], "--seeds 1.5 is not allowed: INT; see --help"),
    (["--task", "a", "--preset", "gpu"], "--preset gpu is not allowed: one of auto, cpu, paper; see --help"),
    (["--task", "a", "--beta"], "--beta without a value is not allowed: FLOAT; see --help"),
    (["--task", "a", "--betta", "1"], "--betta is not an option, did you mean --beta?; see --help"),
    (["--task", "a", "--epsilon=1"], "--epsilon is not an option, did you mean --clip.epsilon?; see --help"),
    (["--task", "a", "--x", "1", "--y"], "--x, --y are not options; see --help"),
    (["--task", "a", "stray"], "stray is not an option; see --help"),
    ([], "--task STR is required; see --help"),
    (["--tusk", "a"], "--tusk is not an option; --task STR is required; see --help"),
]


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES)
def test_a_mistake_is_one_line_that_names_the_option_and_what_is_allowed(capsys, arguments, expected):
    assert error_of(capsys, arguments) == expected


def test_an_argument_without_a_flag_that_is_missing_is_named(capsys):
    from dipod_jax.commands import evaluate

    with pytest.raises(SystemExit):
        evaluate.main([])
    assert capsys.readouterr().err == "error: RUN_DIR is required; see --help\n"


def test_a_mistake_is_told_by_its_last_value_whatever_stands_between(capsys):
    arguments = ["--task", "a", "--seed_list", "1", "--beta", "2", "--seed-list", "1", "x", "--seeds", "3"]
    assert error_of(capsys, arguments).startswith("--seed-list 1 x is not allowed: ")


def test_a_mistake_is_a_value_error_for_a_caller_in_python():
    with pytest.raises(ValueError, match=r"^--beta abc is not allowed: FLOAT; see --help$"):
        parse(["--task", "a", "--beta", "abc"])


@pytest.mark.parametrize("arguments", [arguments for arguments, _ in MISTAKES])
def test_a_tyro_without_its_hook_still_ends_with_status_2_and_names_the_option(capsys, monkeypatch, arguments):
    import tyro._errors

    monkeypatch.delattr(tyro._errors, "on_parse_error")
    with pytest.raises(SystemExit) as stopped:
        run_cli(parse, never, arguments)
    named = next((word for word in arguments[2:] if word.startswith("--") or word == "stray"), "--task")
    assert stopped.value.code == 2 and named.partition("=")[0] in capsys.readouterr().err


def test_what_parsing_says_is_shown_once_and_only_where_it_succeeds(capsys):
    def said(arguments: list[str]) -> Options:
        for _ in range(2):
            print("auto: preset cpu", file=sys.stderr)
        return parse(arguments)

    run_cli(said, lambda options: None, ["--task", "a"])
    assert capsys.readouterr().err == "auto: preset cpu\n"
    with pytest.raises(SystemExit):
        run_cli(said, never, ["--task", "a", "--beta", "x"])
    assert capsys.readouterr().err == "error: --beta x is not allowed: FLOAT; see --help\n"


def test_a_good_command_line_reaches_main(capsys):
    seen = []
    run_cli(parse, seen.append, ["--task", "a", "--beta", "0.1", "--clip.epsilon", "0.2", "--seed-list", "3", "4"])
    assert seen == [Options("a", beta=0.1, seed_list=(3, 4), clip=Clip(0.2))]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [RunFolderError, CheckpointError])
def test_a_folder_or_checkpoint_error_of_the_run_is_one_line(capsys, error):
    def main(options: Options) -> None:
        raise error("runs/x already holds a run;\n  continue it with --resume")

    assert error_of(capsys, ["--task", "a"], main) == "runs/x already holds a run; continue it with --resume"


def test_a_value_error_of_the_run_is_a_bug_and_keeps_its_traceback():
    def main(options: Options) -> None:
        raise ValueError("shapes do not match")

    with pytest.raises(ValueError, match="shapes do not match"):
        run_cli(parse, main, ["--task", "a"])


def test_an_interrupt_is_one_line_and_status_130(capsys):
    def main(options: Options) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        run_cli(parse, main, ["--task", "a"])
    assert stopped.value.code == 130
    assert capsys.readouterr() == ("", "interrupted\n")


SCRIPT = """
    import sys, time
    from dataclasses import dataclass
    from dipod_jax.cli import parse_options, run_cli

    @dataclass(frozen=True)
    class Options:
        beta: float = 0.0
        "weight of the regulariser"

    def parse(arguments):
        return parse_options(Options, arguments, prog="script")

    def main(options):
        print("running", flush=True)
        time.sleep(60)

    try:
        run_cli(parse, main)
    finally:
        slow = [name for name in ("jax", "flax", "mujoco", "matplotlib") if name in sys.modules]
        print("imported:", slow)
"""


@pytest.fixture
def script(tmp_path) -> list[str]:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    return [sys.executable, str(tmp_path / "script.py")]


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}


def test_help_is_tyros_and_takes_under_two_seconds_where_the_options_need_nothing_slow(script):
    started = time.monotonic()
    done = subprocess.run([*script, "--help"], capture_output=True, text=True, env=environment())
    assert time.monotonic() - started < 2.0
    assert done.returncode == 0 and done.stderr == ""
    assert "--beta FLOAT" in done.stdout and "weight of the regulariser" in done.stdout
    assert done.stdout.endswith("imported: []\n")


# Their options are those of methods, or of a run that one of them trained.
WITH_METHODS = {"train", "sweep", "ablation", "comparison", "language", "table1", "evaluate", "export"}
HELPS = """
import contextlib, io, sys
from dipod_jax.commands import main
for name in sys.argv[1:]:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as said:
        main([name, "--help"])
    assert said.getvalue().startswith(f"usage: dipod {name}"), said.getvalue()
print(*(name for name in ("jax", "mujoco", "warp", "matplotlib") if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("names", "imported"),
    [(set(COMMANDS) - WITH_METHODS, ""), pytest.param(WITH_METHODS, "jax", marks=pytest.mark.slow)],
)
def test_help_imports_jax_only_where_methods_bring_the_options_and_never_physics_or_pictures(names, imported):
    command = [sys.executable, "-c", HELPS, *sorted(names)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, imported, "")


def test_ctrl_c_ends_a_process_with_one_line(script):
    # A shell starts what it puts into the background with the signal ignored, and children inherit that.
    process = subprocess.Popen(
        script,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None and process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "interrupted\n")


@pytest.mark.slow
def test_help_into_a_pipe_that_closes_early_ends_without_a_traceback():
    command = f"{sys.executable} -m experiments.train --help | head -n 1"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("usage: python -m experiments.train") and ended.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("module", ["evaluate", "sweep", "ablation"])
def test_help_whose_reader_has_left_ends_without_a_traceback(module, unbuffered):
    command = f"{sys.executable} -m experiments.{module} --help | true"  # all of it fits the buffer
    env = environment() | {"PYTHONUNBUFFERED": unbuffered}
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, env=env)
    assert ended.stdout == "" and ended.stderr == ""


def test_letters_that_the_terminal_lacks_are_written_as_escapes():
    done = subprocess.run(
        [sys.executable, "-c", PRINT, "50 ± 3 µs"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "50 \\xb1 3 \\xb5s\n", "")


def test_a_command_that_draws_says_nothing_of_a_home_that_takes_no_files(tmp_path):
    code = (
        "from dipod_jax.cli import run_cli; run_cli(lambda words: words[0], lambda _: __import__('matplotlib'), ['x'])"
    )
    homeless = {name: value for name, value in environment().items() if name not in ("MPLCONFIGDIR", "XDG_CONFIG_HOME")}
    homeless |= {"HOME": "/proc/nobody", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=homeless, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_bytes_that_are_no_text_are_refused_in_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        run_cli(lambda words: words[0], print, ["run\udcff"])
    line = "error: 'run\\udcff' holds bytes that are no text; give names of whole characters\n"
    assert ended.value.code == 2 and capsys.readouterr() == ("", line)


LASTING = """
    import contextlib, os
    from pathlib import Path
    from dipod_jax.cli import run_cli

    def main(folder):
        with open(folder / "records", "w") as file:
            print("an iteration", flush=True)
            with contextlib.suppress(OSError):
                os.write(1, b"a warning of a library")
            print("another", flush=True)
            file.write("whole")

    run_cli(lambda words: Path(words[0]), main, lasts=True)
"""
GONE = "warning: standard output is gone ({}); the command goes on\n"


@pytest.mark.parametrize(
    "ending, said",
    [
        ("> /dev/full", GONE.format("[Errno 28] No space left on device")),
        ("| true", GONE.format("[Errno 32] Broken pipe")),
        (">&-", ""),
        ("<&- >&- 2>&-", ""),
    ],
)
def test_a_command_that_lasts_ends_whole_without_an_output_and_its_files_hold_what_it_wrote(ending, said, tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(LASTING))
    words = f"(sleep 0.1; exec {sys.executable} {tmp_path}/script.py {tmp_path}) {ending}"
    bash = ["bash", "-o", "pipefail", "-c", words]
    ended = subprocess.run(bash, capture_output=True, text=True, env=environment())
    assert (ended.returncode, ended.stderr) == (0, said)
    assert (tmp_path / "records").read_text() == "whole"


def test_a_mistake_on_a_command_line_is_status_2_also_where_nobody_can_be_told():
    code = "from dipod_jax.cli import run_cli; run_cli(lambda words: int(words[0]), print, ['x'])"
    ended = subprocess.run(["bash", "-c", f'{sys.executable} -c "{code}" >&- 2>&-'], env=environment())
    assert ended.returncode == 2


def test_the_command_that_goes_on_with_a_run_is_one_that_a_shell_takes(monkeypatch, tmp_path):
    for name in ('-a <b>x</b> "q\'s" é&amp; $(x) `y`', "plain", "~", "two\nlines"):
        command = resume_command("train", Path(name))
        words = subprocess.check_output(["bash", "-c", f"set -- {command}; printf '%s\\0' \"$@\""], text=True)
        program, train, *options = words.split("\0")[:-1]
        assert (program, train) == ("dipod", "train")
        assert parse_options(Resumed, options, prog="train") == Resumed(Path(name), resume=True)


def test_every_command_that_trains_goes_on_without_standard_output(monkeypatch):
    short = {"evaluate", "compare", "report", "export"}
    lasting = {}
    for name in set(COMMANDS) - short:
        module = import_module(f"dipod_jax.commands.{name}")
        shared = module if hasattr(module, "run_cli") else _arms
        with monkeypatch.context() as patch:
            note = lambda *arguments, lasts=False, name=name: lasting.update({name: lasts})
            patch.setattr(shared, "run_cli", note)
            module.main([])
    assert lasting == dict.fromkeys(set(COMMANDS) - short, True)
