"""Public names that went out of use. Each works for one minor version more and says what to write instead.

The rule is in CONTRIBUTING.md; tests/test_deprecated.py fails once a name has outlived its version.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

REMOVED_IN: dict[str, str] = {
    "CameraFrame.size": "0.3",
    "ZoomSession.bicubic(center=)": "0.3",
    "ZoomSession.process(center=)": "0.3",
    "ZoomSession.submit(center=)": "0.3",
    "load(smaller=)": "0.3",
    "trt-upscale --smaller": "0.3",
    "trt-zoom --center": "0.3",
}
"""Old name -> the version that has it no more."""


def deprecated(old: str, new: str) -> str:
    """The sentence for a name of `REMOVED_IN`, with what to write instead."""
    return f"{old} will be removed in zoomrt {REMOVED_IN[old]}: use {new}"


def renamed_arguments(
    function: str, **names: str
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Decorate a function to take arguments by their old names too, with a DeprecationWarning.

    function : its public name. names : old name -> new name. Raises TypeError where both are given.
    """

    def decorate(wrapped: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @functools.wraps(wrapped)
        def call(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Result:
            for old in names.keys() & keywords.keys():
                new = names[old]
                if new in keywords:
                    raise TypeError(f"{function}() got both {new!r} and {old!r}, its old name")
                warnings.warn(deprecated(f"{function}({old}=)", f"{new}="), DeprecationWarning, stacklevel=2)
                keywords[new] = keywords.pop(old)
            return wrapped(*arguments, **keywords)

        return call

    return decorate
