"""What becomes of compiled functions: an entry, which Python calls, is optimised once with all that it calls.

By itself numba optimises each function and makes machine code of it, and then does both again in each of its callers,
with all that it calls: what a function costs grows with the number of callers above it. Most rules are called by
compiled code only. Such a part stays as numba has translated it. An entry links its parts, of any depth, once; then it
is optimised, and only it becomes machine code. The first backtest with an empty cache takes half of the time so.

Both are compiler pipelines, which numba takes as an option; what they change is how a function's library is finalized.
"""

from __future__ import annotations

from typing import Any

from numba.core import codegen, compiler
from numba.core.environment import lookup_environment

_Library: Any = codegen.JITCodeLibrary  # numba's own classes are typed in part
_Compiler: Any = compiler.Compiler
_ENVIRONMENT = "_ZN08NumbaEnv"
"""How numba begins the name of what points to a function's environment: objects for its prints and errors."""


class _PartCodegen:
    """The code generator of a part. An environment can't be set before there is machine code: its entry sets it."""

    def __init__(self, codegen: Any) -> None:
        self._codegen = codegen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)

    def set_env(self, name: str, environment: Any) -> None:
        """Leave it to the entry."""


class _PartLibrary(_Library):  # type: ignore[misc]
    """A part as it was translated: neither linked with what it calls, nor optimised with it, nor machine code."""

    def __init__(self, codegen: Any, name: str) -> None:
        super().__init__(codegen, name)
        self.callees: dict[Any, None] = {}
        """The libraries of all that it calls, directly or indirectly, in their order."""

    @property
    def codegen(self) -> Any:
        return _PartCodegen(self._codegen)

    def add_linking_library(self, library: Any) -> None:
        self.callees |= _with_callees(library)

    def finalize(self) -> None:
        self._raise_if_finalized()
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Return 0, which numba understands: there is no machine code that Python could call."""
        return 0


class _EntryLibrary(_Library):  # type: ignore[misc]
    """An entry: linked with all its parts, then optimised, then machine code."""

    def add_linking_library(self, library: Any) -> None:
        self._linking_libraries += _with_callees(library)

    def _finalize_specific(self) -> None:
        super()._finalize_specific()
        for variable in self._final_module.global_variables:
            if variable.name.startswith(_ENVIRONMENT) and not variable.is_declaration:
                environment = lookup_environment(variable.name)
                if environment is not None:
                    self._codegen.set_env(variable.name, environment)


def _with_callees(library: Any) -> dict[Any, None]:
    """Return a library, and of a part all that it calls."""
    library._ensure_finalized()
    return {library: None} | (library.callees if isinstance(library, _PartLibrary) else {})


class PartCompiler(_Compiler):  # type: ignore[misc]
    """Compile a function that only compiled code calls."""

    def __init__(self, typing: Any, target: Any, library: Any, *given: Any) -> None:
        super().__init__(typing, target, library or _cachable(_PartLibrary(target.codegen(), "part")), *given)


class EntryCompiler(_Compiler):  # type: ignore[misc]
    """Compile a function that Python calls."""

    def __init__(self, typing: Any, target: Any, library: Any, *given: Any) -> None:
        super().__init__(typing, target, library or _cachable(_EntryLibrary(target.codegen(), "entry")), *given)


def _cachable(library: Any) -> Any:
    library.enable_object_caching()
    return library
