"""What tests of the engine share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.phone import Phone


@pytest.fixture
def phone() -> Iterator[Phone]:
    phone = Phone()
    yield phone
    phone.close()
