"""Settings: what cannot work together is refused at the start."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from settings import Settings


def test_a_heartbeat_that_comes_too_late_for_the_lease_is_refused() -> None:
    with pytest.raises(ValidationError, match="UNABRIDGED_HEARTBEAT_S must be shorter"):
        Settings(_env_file=None, heartbeat_s=30, lease_s=30)
