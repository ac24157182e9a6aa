"""What a test needs and this machine may lack."""

import os
from typing import NoReturn

import pytest


def lacking(reason: str) -> NoReturn:
    """Skip a test because of what is absent here; fail where CI=true, where nothing may be."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
