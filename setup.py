"""The compiled kernel of the codec. It is optional: where it cannot be built, the Python codec does its work.

All else about the package stands in pyproject.toml.
"""

import platform
import sys
import sysconfig

from setuptools import Extension, setup

try:
    from Cython.Build import cythonize
except ImportError:  # a build without isolation, where nobody installed it
    cythonize = None


def kernel() -> list[Extension]:
    if (
        cythonize is None
        or platform.python_implementation() != "CPython"
        or sysconfig.get_config_var("Py_GIL_DISABLED")
    ):
        return []
    names = ("beamnode.etf._kernel", "beamnode.wire._kernel", "beamnode.node._kernel")
    extensions = [Extension(name, [f"src/{name.replace('.', '/')}.pyx"], optional=True) for name in names]
    # The C files in a folder for each version of Python: environments of several versions share a checkout.
    return cythonize(
        extensions, build_dir=f"build/cython-{sys.implementation.cache_tag}", include_path=["src"], language_level=3
    )


setup(ext_modules=kernel())
