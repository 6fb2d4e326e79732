"""Plain lines where nobody watches, a bar where somebody does."""

import io
import os
import time

import pytest

from dipod_jax.runs.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class AsciiTerminal(io.TextIOWrapper):
    def __init__(self):
        super().__init__(io.BytesIO(), encoding="ascii", write_through=True)

    def isatty(self) -> bool:
        return True

    def shown(self) -> str:
        return self.buffer.getvalue().decode("ascii")


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    """A terminal of 120 columns that can move its cursor, whatever the tests run in."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")


def test_plain_output_is_whole_lines_with_the_time_left():
    stream = io.StringIO()
    with Progress(1_000_000, name="BallInCup", stream=stream, interval_s=0) as progress:
        progress.update(0, 0.0)
        progress.update(250_000, 7500.0, 431.26)
        progress.line("evaluation at 250k env steps: return 512 ± 40")
        progress.update(1_000_000, 8000.0, float("nan"))
    assert stream.getvalue() == (
        "BallInCup   0.0%  0/1M env steps  0 steps/s  ETA -  return -\n"
        "BallInCup  25.0%  250k/1M env steps  7.5k steps/s  ETA 1m40s  return 431.3\n"
        "evaluation at 250k env steps: return 512 ± 40\n"
        "BallInCup 100.0%  1M/1M env steps  8k steps/s  ETA 0s  return -\n"
    )


def test_plain_output_keeps_its_distance_but_shows_the_end():
    stream = io.StringIO()
    with Progress(100, stream=stream, interval_s=3600) as progress:
        for env_steps in range(0, 101, 10):
            progress.update(env_steps, 10.0)
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["0.0%", "100.0%"]


def test_a_terminal_gets_a_bar_and_lines_above_it():
    stream = Terminal()
    with Progress(1000, name="BallInCup", stream=stream) as progress:
        progress.update(500, 100.0, 12.0)
        progress.line("evaluation [bold]at[/bold] 500 env steps")
    shown = stream.getvalue()
    assert "evaluation [bold]at[/bold] 500 env steps\n" in shown
    assert "50%" in shown and "100 steps/s  ETA 5s  return 12.0" in shown


def test_closing_twice_and_printing_afterwards_is_harmless():
    stream = Terminal()
    progress = Progress(10, stream=stream)
    progress.close()
    progress.close()
    progress.line("done")
    assert stream.getvalue().endswith("done\n")


def test_an_exception_frees_the_terminal():
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), Progress(10, stream=stream):
        raise KeyboardInterrupt
    assert stream.getvalue().count("\x1b[?25l") == stream.getvalue().count("\x1b[?25h")  # cursor hidden, shown again


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress(10, stream=stream) as progress:
        progress.update(10, 5.0, 1.0)
    assert stream.getvalue() == "training 100.0%  10/10 env steps  5 steps/s  ETA 0s  return 1.0\n"


def test_an_ascii_terminal_gets_a_bar_of_its_own_characters():
    stream = AsciiTerminal()
    with Progress(1000, name="BallInCup", stream=stream) as progress:
        progress.update(500, 100.0, 12.0)
        progress.line("return 512 ± 40")
    assert "return 512 \\xb1 40" in stream.shown()
    assert "50%" in stream.shown() and "----" in stream.shown()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_a_stream_that_is_closed_under_way_does_not_stop_a_training(kind):
    stream = kind()
    with Progress(1000, stream=stream, interval_s=0) as progress:
        progress.update(10, 1.0)
        stream.close()
        progress.update(20, 1.0)
        progress.line("evaluation")
        time.sleep(0.3)  # the bar redraws itself from a thread of its own
        progress.update(1000, 1.0)


def test_a_pipe_whose_reader_has_left_does_not_stop_a_training_and_is_said_once(capfd):
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w", encoding="utf-8")
    progress = Progress(1000, stream=stream, interval_s=0)
    progress.update(10, 1.0)
    assert os.read(reading, 1000).startswith(b"training   1.0%")
    os.close(reading)
    progress.update(20, 1.0)
    progress.line("evaluation")
    progress.close()
    stream.close()  # what was buffered went nowhere, so that Python does not complain at its end
    assert capfd.readouterr().err.count("standard output is gone") == 1
