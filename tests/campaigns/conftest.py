import pytest


@pytest.fixture
def table():
    return lambda name, row: print(name, row)
