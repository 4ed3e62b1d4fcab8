"""The version of this package, as its installation says."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("torouter")
except PackageNotFoundError:
    __version__ = "0+unknown"  # a checkout that is on the path and not installed
