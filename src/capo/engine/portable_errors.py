"""Errors that travel from one process to another."""

import contextlib
import pickle


def portable(error: BaseException) -> BaseException:
    """Return an error that another process can read: `error` without its traceback, or its text."""
    with contextlib.suppress(Exception):
        copy = pickle.loads(pickle.dumps(error))
        if isinstance(copy, BaseException) and str(copy) == str(error):
            return copy
    return RuntimeError(f"{type(error).__name__}: {error}")
