"""What integration tests share: one server of the miniature."""

from collections.abc import Iterator

import pytest
import servers


@pytest.fixture(scope="session")
def policy_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Served]:
    """A server with the policy of the miniature, for all tests that leave it running.

    Such a test is marked `pytest.mark.xdist_group("server")`, so that one start is enough.
    """
    with servers.served(tmp_path_factory.mktemp("policy")) as server:
        yield server
