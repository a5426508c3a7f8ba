"""When a server is asked again: urllib3's own rule, with one exception."""

from typing import Any, Self

import urllib3


class Patience(urllib3.Retry):
    """Asks again whoever is away, restarted or busy, but not whoever heard the question and keeps silent.

    A server that took a batch and is slower than `timeout` goes on with it: the same batch again
    would only wait behind it.
    """

    def increment(self, *place: Any, **told: Any) -> Self:
        """What is left to try after an answer, or after the `error` told; raises a read timeout at once."""
        if isinstance(error := told.get("error"), urllib3.exceptions.ReadTimeoutError):
            raise error
        return super().increment(*place, **told)
