"""What this floor asks of the environment, once, when it is imported: which kernel of the codec to use.

The only file of `etf`, `wire` and `core` that imports `os` (the import contract names it): the choice has to be made
before anybody could pass an argument, and by whoever starts the Python process.
"""

from __future__ import annotations

import os
from typing import Final

# "require": the compiled kernel or an ImportError; "off": the Python codec; "": the compiled kernel where there is one.
KERNEL_WANTED: Final = os.environ.get("BEAMNODE_KERNEL", "")
