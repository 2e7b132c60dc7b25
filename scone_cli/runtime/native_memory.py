"""What compiled kernels need of memory beyond arrays: addresses as arrays, copies between addresses, and prefetching.

A look-up waits for memory more than it works. `prefetch` asks for a line of the cache some steps before it is needed, so that
many are on their way at a time. Addresses are passed as numbers because unpacking an array costs a call more than a probe.
"""

# Numba infers the types of kernels; what makes one is called with arguments that not all of them need.
# ruff: noqa: ANN001, ANN201, ARG001
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any, NoReturn

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE = 64  # bytes of a line of the cache


class Addressed:
    """What keeps addresses of memory of its own: a copy would go on using that of the first, and is refused."""

    def __reduce__(self) -> NoReturn:
        """What copies and pickles ask for."""
        raise TypeError(f"a {type(self).__name__} cannot be copied: open or make another")


@intrinsic
def pointer(typing_context, address):
    """The number `address` as a pointer, for `numba.carray`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), generate


@intrinsic
def prefetch(typing_context, address):
    """Begin to read the line of the cache at `address`, and do not wait; an address that is not mapped does nothing."""

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
