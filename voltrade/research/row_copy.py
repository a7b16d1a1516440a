"""A copy of a row that costs compiled code nothing but the fields that are used."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from voltrade.compiled import Record, Rows


@intrinsic
def _copy_of(_: Any, rows: Any, row: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, given[0]).data
        record = signature.return_type
        place = cgutils.alloca_once(builder, context.get_data_type(record))
        place.align = 8
        size = context.get_constant(types.intp, record.size)
        cgutils.raw_memcpy(builder, place, builder.gep(data, [given[1]]), size, 1)
        return place

    return rows.dtype(rows, types.intp), generate


def copy_of(rows: Rows, row: int) -> Record:
    """Return a copy of a row, which the calling function must not return or keep: in compiled code it is on the stack.

    Of a copy that only inlined functions use, compiled code copies only the fields that they use, into registers.
    """
    return rows[row].copy()


@overload(copy_of, strict=False, inline="always")
def _compiled_copy_of(rows: Any, row: Any) -> Any:
    intrinsic: Any = _copy_of
    return lambda rows, row: intrinsic(rows, row)
