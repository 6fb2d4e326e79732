"""What the tests of training share: programs over a probe task, compiled once a process."""

import pytest
from small import probe_programs


@pytest.fixture(scope="session")
def fpo():
    """Programs of `small.BASE`, one seed over two devices."""
    return probe_programs()
