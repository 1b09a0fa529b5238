"""What a study's storage keeps of its forecast: enough for a report, wherever it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

RAN_OUT: Final = "surely out of memory, as trials that need no more were"
"""What trials of the study have ruled out, as a reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastNote:
    """How predictions took part in a study.

    Attributes:
        silence: why there were none; empty where there were.
        looked_at: configurations predicted, or all where trials ruled some out.
        excluded: of those, how many are never asked as they surely cannot run, by reason.
        origins: by device type, where predicted times come from.
    """

    silence: str = ""
    looked_at: int = 0
    excluded: Mapping[str, int] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    def with_ran_out(self, count: int, valid: int) -> ForecastNote:
        """The same where trials have shown that `count` of `valid` configurations run out of memory."""
        return replace(self, excluded={**self.excluded, RAN_OUT: count}, looked_at=max(self.looked_at, valid))

    def to_json(self) -> str:
        """As `from_json` reads it."""
        return json.dumps(
            {
                "silence": self.silence,
                "looked_at": self.looked_at,
                "excluded": dict(self.excluded),
                "origins": dict(self.origins),
            },
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str) -> ForecastNote:
        """What `to_json` wrote."""
        return cls(**json.loads(text))
