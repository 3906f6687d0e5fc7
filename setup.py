"""The compiled kernels. They are optional: where they cannot be built, Python does their work.

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


KERNELS = ("beamnode.etf._kernel", "beamnode.wire._kernel", "beamnode.node._kernel")


def kernels() -> list[Extension]:
    if (
        cythonize is None
        or platform.python_implementation() != "CPython"
        or sysconfig.get_config_var("Py_GIL_DISABLED")
    ):
        return []
    # The C files in a folder for each version of Python: environments of several versions share a checkout.
    extensions: list[Extension] = cythonize(
        [Extension(name, [f"src/{name.replace('.', '/')}.pyx"]) for name in KERNELS],
        build_dir=f"build/cython-{sys.implementation.cache_tag}",
        include_path=["src"],
        language_level=3,
    )
    for extension in extensions:  # which are not the ones given: `optional` would be lost
        extension.optional = True
    return extensions


setup(ext_modules=kernels())
