import io
import itertools

import pytest

from capo.engine.progress import progress, say


@pytest.fixture(autouse=True)
def _loud(monkeypatch):
    monkeypatch.setenv("CAPO_QUIET", "0")


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test advances."""
    now = [0.0]
    monkeypatch.setattr("capo.engine.progress.time.monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_line_is_printed_every_ten_seconds_and_at_the_end(clock, capsys):
    with progress("generate", 100, "prompts") as bar:
        for _ in range(100):
            clock[0] += 0.25
            bar.advance()
    assert capsys.readouterr().err.splitlines() == [
        "generate: 40/100 prompts, 0:15 left",
        "generate: 80/100 prompts, 0:05 left",
        "generate: 100/100 prompts, done in 0:25",
    ]


def test_resumed_work_does_not_count_toward_speed(clock, capsys):
    with progress("generate", 100) as bar:
        bar.advance(50, resumed=True)
        assert bar.remaining() is None
        clock[0] = 10.0
        bar.advance(10)
        assert bar.remaining() == 40.0
    assert "generate: 60/100, 0:40 left" in capsys.readouterr().err


def test_a_note_is_printed_after_the_progress(clock, capsys):
    with progress("train", 2, "steps") as bar:
        bar.note("loss 0.5")
        bar.advance(2)
    assert capsys.readouterr().err == "train: 2/2 steps, done in 0:00; loss 0.5\n"


def test_an_exception_propagates_and_the_line_says_stopped(clock, capsys):
    def fail():
        with progress("train", 2, "steps") as bar:
            bar.advance()
            clock[0] = 3700.0
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert capsys.readouterr().err == "train: 1/2 steps, stopped after 1:01:40\n"


def test_quiet_prints_nothing(monkeypatch, capsys):
    monkeypatch.setenv("CAPO_QUIET", "1")
    with progress("train", 2) as bar:
        bar.advance(2)
        bar.note("x")
    say("hello")
    assert capsys.readouterr() == ("", "")


def test_say_prints_a_line_to_stderr(capsys):
    say("hello [red]")
    assert capsys.readouterr() == ("", "hello [red]\n")


def make_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return terminal


def test_bars_that_are_open_at_once_share_the_screen(monkeypatch):
    terminal = make_terminal(monkeypatch)
    with progress("score [/a]", 4, "images") as first, progress("score b", 4, "images") as second:
        first.advance(4)
        second.advance(3)
    last = terminal.getvalue().split("\r")[-1]
    lines = [line for line in last.split("\n") if "score" in line]
    assert [line.count("score") for line in lines] == [1, 1]
    assert "4/4 images" in lines[0]
    assert "3/4 images" in lines[1]


def test_a_terminal_gets_a_live_bar(monkeypatch):
    terminal = make_terminal(monkeypatch)
    ticks = itertools.count()
    monkeypatch.setattr("capo.engine.progress.time.monotonic", lambda: float(next(ticks)))
    with progress("generate", 4, "prompts") as bar:
        bar.advance(2)
        bar.note("[loss] 0.5")
        say("a line in between")
        bar.advance(2)
    shown = terminal.getvalue()
    assert "4/4 prompts" in shown
    assert "[loss] 0.5" in shown
    assert "a line in between" in shown
