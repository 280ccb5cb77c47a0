import pytest

from noisyrnn.native.library import unavailable


@pytest.fixture(params=["cpp", "eager"])
def kernel(request: pytest.FixtureRequest) -> str:
    """Each fast kernel that can run here."""
    reason = unavailable() if request.param == "cpp" else None
    if reason is not None:
        pytest.skip(reason)
    return request.param
