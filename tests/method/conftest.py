"""Property tests here are many and small: no deadline on a busy machine, the same cases each run."""

from hypothesis import settings

settings.register_profile("method", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("method")
