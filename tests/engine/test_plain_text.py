"""Text from outside, as it may appear in a terminal."""

import pytest

from capo.engine.plain_text import plain_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a red square\tand\nmore", "a red square\tand\nmore"),
        ("ein größeres Quadrat, 大きな四角 🟥", "ein größeres Quadrat, 大きな四角 🟥"),
        ("\x1b[2J\x1b]0;title\x07red", "red"),
        ("invoice\u202efdp.exe", "invoice\ufffdfdp.exe"),
        ("one\rtwo\r\nthree", "one\ntwo\nthree"),
        ("a\x00b\x9b31mc", "a\ufffdb\ufffd31mc"),
    ],
)
def test_commands_go_and_everything_else_stays(text, shown):
    assert plain_text(text) == shown
