"""Settings of the whole suite."""

from __future__ import annotations

from hypothesis import settings

# The same examples in every run, and no deadline: an example that is slow on a busy machine is not wrong.
settings.register_profile("seeded", derandomize=True, deadline=None)
settings.load_profile("seeded")
