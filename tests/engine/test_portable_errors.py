"""Errors on their way to another process, which may not be able to read them."""

import threading

from capo.engine.portable_errors import portable


class Shard(ValueError):
    """Reads back as another text, as errors do whose constructor makes the text."""

    def __init__(self, shard):
        super().__init__(f"shard {shard} failed")


class Held(ValueError):
    """Cannot be written."""

    def __init__(self):
        super().__init__("it holds a lock")
        self.lock = threading.Lock()


def test_an_error_that_reads_back_the_same_is_sent_as_it_is():
    sent = portable(FileNotFoundError(2, "No such file", "name"))
    assert isinstance(sent, FileNotFoundError)
    assert sent.filename == "name"


def test_of_any_other_error_the_text_is_sent():
    for error in (Shard(3), Held()):
        sent = portable(error)
        assert type(sent) is RuntimeError
        assert str(sent) == f"{type(error).__name__}: {error}"
