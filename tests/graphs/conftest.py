import pytest

from convnextv2_fast.graphs import capture

from .tape import Recorder


@pytest.fixture
def recorder(monkeypatch):
    """CPUs that graphs can be made on."""
    made = Recorder()
    monkeypatch.setattr(capture, "recorder", made)
    return made
