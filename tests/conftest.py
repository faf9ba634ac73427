"""What all tests share under pytest."""

import gc

import pytest


@pytest.fixture(autouse=True, scope="module")
def _frozen_garbage():
    """Keeps what earlier modules left from being looked at again.

    TensorFlow never lets go of the graphs that `fit` makes. Each collection
    of garbage, and each conversion to LiteRT asks for one, would go through
    all of them: after a thousand tests that takes ten seconds.
    """
    yield
    gc.collect()
    gc.freeze()
