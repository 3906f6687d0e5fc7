"""What the environment says of the compiled kernels, asked once, when this is imported: `BEAMNODE_KERNEL`.

The only file of `etf`, `wire` and `core` that imports `os` (the import contract names it): the choice has to be made
before anybody could pass an argument, and by whoever starts the Python process.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType
from typing import Final

# "require": the compiled kernels or an ImportError; "off": Python; "": the compiled ones where they are.
KERNEL_WANTED: Final = os.environ.get("BEAMNODE_KERNEL", "")


def compiled(name: str) -> ModuleType | None:
    """The compiled kernel of that name, unless it is not wanted or not there. Errors: ImportError, see above."""
    if KERNEL_WANTED not in ("", "off", "require"):
        raise ImportError(f"BEAMNODE_KERNEL is {KERNEL_WANTED!r}: it may be require, off or unset")
    if KERNEL_WANTED == "off":
        return None
    try:
        return import_module(name)
    except ImportError as error:
        if KERNEL_WANTED == "require":
            raise ImportError(
                f"BEAMNODE_KERNEL=require, but the compiled kernel {name} cannot be imported ({error}). Install "
                "a C compiler and the headers of this Python, then beamnode anew (pip install --force-reinstall "
                "--no-cache-dir beamnode); or unset BEAMNODE_KERNEL, to do with Python"
            ) from error
        return None
