import jaxtyping
import pytest


@pytest.fixture
def no_shape_checks():
    """Turn off the checks of annotated shapes, which tests add, to reach the errors that users see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
