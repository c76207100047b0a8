"""What all tests share. Fixtures of one room live in that room's conftest."""

from __future__ import annotations

import hypothesis

# The machine is shared and small: a slow example is no failure, and what failed once must fail again.
hypothesis.settings.register_profile("orderflow", deadline=None, print_blob=True)
hypothesis.settings.load_profile("orderflow")
