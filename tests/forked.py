"""Child processes that need not import anything again."""

import os
import traceback
import warnings
from collections.abc import Callable

from capo.store import atomic


def fork(work: Callable[[], object], **environment: str) -> int:
    """Start a child process that does `work`; return its process id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of libraries do not matter here
        child = os.fork()
    if child:
        return child
    try:
        atomic._passed = 0
        os.environ.update(environment)
        work()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(child: int) -> int:
    """Wait for a child process; return its exit code, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
