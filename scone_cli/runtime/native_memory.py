"""Raw memory for compiled kernels: numbers as pointers, copies between addresses, and prefetching.

A look-up spends more time waiting for memory than computing. `prefetch` requests a cache line some steps before it is
needed, so that many requests run at once. Addresses are passed as numbers, because unpacking an array argument costs a
kernel call more than one probe of the hash table.
"""

# Numba infers the types of kernels, and calls the functions here with arguments that not all of them use.
# ruff: noqa: ANN001, ANN201, ARG001
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any, NoReturn

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE = 64  # bytes of a cache line


class Addressed:
    """Base class of objects that hold addresses of their own memory; copying is refused, as a copy would share them."""

    def __reduce__(self) -> NoReturn:
        """Refuse `copy` and `pickle`, which both call this."""
        raise TypeError(f"a {type(self).__name__} cannot be copied: open or make another")


@intrinsic
def pointer(typing_context, address):
    """The number `address` as a pointer, for `numba.carray`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), generate


@intrinsic
def prefetch(typing_context, address):
    """Start loading the cache line at `address` without waiting for it; has no effect on an address that is not mapped."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, i32, i32, i32])
        llvm = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, keep, data = (ir.Constant(i32, number) for number in (0, 3, 1))
        builder.call(llvm, [builder.inttoptr(args[0], cgutils.voidptr_t), read, keep, data])
        return context.get_dummy_value()

    return types.void(types.uint64), generate


@intrinsic
def copy(typing_context, target, source, size):
    """Copy `size` bytes from one address to another; the two do not overlap."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, source = (builder.inttoptr(address, cgutils.voidptr_t) for address in args[:2])
        cgutils.raw_memcpy(builder, target, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.uint64), generate
