"""Where the programs of the contract are: beside the checkout if they are there, else the copies of this folder.

They fix the names that users type, and run unchanged: the copies are never edited.
"""

from __future__ import annotations

import os
from pathlib import Path


def contract() -> Path:
    """The folder; BEAMNODE_CONTRACT names another."""
    named = os.environ.get("BEAMNODE_CONTRACT")
    if named:
        return Path(named)
    beside = Path(__file__).parents[2] / "shared" / "contract"
    return beside if beside.is_dir() else Path(__file__).parent / "contract"
