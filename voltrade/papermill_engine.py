"""Papermill's side of a session: what happens before and around an executed notebook."""

from __future__ import annotations

from typing import Any


class PapermillEngine:
    """The engine papermill calls; it hands the notebook on to papermill's own."""

    @classmethod
    def execute_notebook(cls, nb: Any, kernel_name: str, **options: Any) -> Any:
        """Execute a notebook as papermill's own engine does."""
        return NBClientEngine.execute_notebook(nb, kernel_name, **options)

    @classmethod
    def nb_kernel_name(cls, nb: Any, name: str | None = None) -> Any:
        """Name of the kernel that the notebook asks for."""
        return NBClientEngine.nb_kernel_name(nb, name)

    @classmethod
    def nb_language(cls, nb: Any, language: str | None = None) -> Any:
        """Language that the notebook is written in."""
        return NBClientEngine.nb_language(nb, language)


# Last, because papermill, while it is imported, loads this module for the class above.
from papermill.engines import NBClientEngine, papermill_engines  # noqa: E402

papermill_engines.register(None, PapermillEngine)
