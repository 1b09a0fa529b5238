"""A tuner to be killed: runs one long trial and prints its phases.

python long_trial.py MODULE:RUNNER STUDY TOKEN
"""

from __future__ import annotations

import importlib
import sys

from tests.runners.brief_load import BriefLoad
from tests.runners.trials import a_device, a_plan, a_spec
from tuner.trial import Attempt

if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    runner = getattr(importlib.import_module(module), name)({}, BriefLoad())
    attempt = Attempt(study_id=sys.argv[2], trial=0, token=sys.argv[3])
    runner.run(
        a_spec("detaches"),
        a_device(),
        a_plan(windows=10**6),
        attempt,
        lambda progress: print(progress.phase.name, flush=True),
    )
