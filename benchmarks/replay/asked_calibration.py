"""How often what the search asks for is good, by how sure it was: from the `beliefs.jsonl` of replays.

tune bench replay benchmarks/replay/limits/*.yaml --strategies meta --seeds 3 --leave-out app,service,model --out out
python benchmarks/replay/asked_calibration.py out/beliefs.jsonl
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

EDGES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Of bands of what was believed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("beliefs", type=Path, nargs="+")
    options = parser.parse_args()
    beliefs = pd.concat([pd.read_json(path, lines=True) for path in options.beliefs])
    asked = beliefs[beliefs["chance"].notna()]
    bands = pd.cut(asked["chance"].astype(float), list(EDGES), include_lowest=True)
    print("believed to be within 5 %     asked   mean belief   within 5 %")
    for band, group in asked.groupby(bands, observed=True):
        error = np.sqrt(group["hit"].mean() * (1.0 - group["hit"].mean()) / len(group))
        print(
            f"{max(band.left, 0.0):.1f} to {band.right:.1f} {len(group):24} {group['chance'].mean():13.2f} "
            f"{group['hit'].mean():8.2f} +- {error:.2f}"
        )


if __name__ == "__main__":
    main()
