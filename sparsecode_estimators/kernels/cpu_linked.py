"""Code that is only linked into other code is not finished by itself."""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _Unfinished(JITCodeLibrary):
    """LLVM's form of a function, to be optimised where it is linked to.

    Numba optimises every function, with all that it calls, and makes machine code of it, before it
    links it into its callers, where the same is done again: of ten functions that call each other
    the innermost is made ten times over.
    """

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0  # there is no machine code that could be called

    @property
    def codegen(self) -> type[_Nowhere]:
        return _Nowhere


class _Nowhere:
    """Where the environment of code goes that is not there: only Python objects need one."""

    @staticmethod
    def set_env(name: str, env: Any) -> None:
        pass


class Linked(Compiler):
    """As Numba compiles, for what only compiled code calls."""

    def define_pipelines(self) -> Any:
        codegen, name = self.state.targetctx.codegen(), self.state.func_id.func_qualname
        self.state.library = _Unfinished(codegen, name)
        return super().define_pipelines()
