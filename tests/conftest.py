"""What holds for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# The same examples in every run, and no clock: on a busy machine an example may take its time.
settings.register_profile("blocks", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("blocks")
