"""What a kernel is handed: the addresses and sizes of its arrays, which compiled code reads off Python's own objects.

Numba unpacks every argument of a call by itself, 80 ns an array, and the kernels take a dozen. Here Python hands over
one tuple. `fill` writes what a kernel needs of it, two words an array, into a *frame* on the caller's stack; `unframe`
makes arrays of it again inside the kernel, where they are all the compiler sees.

    frame       counter of tasks, alone on its cache lines | number of tasks | address, size of each array

A kernel has one compiled function for each combination of dtypes. Its *table* lists them; a table is never changed,
because a thread without the GIL may be reading it.

    table       number of arrays | address of the type tuple | of ndarray | number of functions | functions
    function    its address | addresses of the dtypes that it takes

Whatever is not a contiguous array of those dtypes is not in the table, and thus never reaches a kernel.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastconv.cpu.cached import inline
from fastconv.cpu.simd import I32, I64, i64

# Words of a frame. The counter is two cache lines from what all threads read: the prefetcher brings pairs.
TASKS, ARRAYS = 16, 17
MOST_ARRAYS = 24
# Words of a table.
COUNT, TUPLE, NDARRAY, FUNCTIONS, FIRST = range(5)

# Bytes from an object's address to what C code reads there: every extension module has these numbers compiled in.
_HEAD = object.__basicsize__  # reference count, type
_TYPE = _HEAD - 8
_LENGTH, _ITEMS = _HEAD, tuple.__basicsize__
_DATA, _AXES, _SHAPE, _DTYPE, _FLAGS = (_HEAD + offset for offset in (0, 8, 16, 40, 48))  # PyArrayObject_fields
USABLE = 0x101  # flags: C-contiguous, aligned


def frame_type(arrays: tuple[types.Array, ...]) -> types.Type:
    """Of the address of a frame of such arrays."""
    return types.CPointer(types.Tuple(arrays))


def place(builder: Any, address: Any, index: Any) -> Any:
    """Pointer to the `index`-th word from an address."""
    return builder.gep(builder.inttoptr(address, I64.as_pointer()), [index])


@intrinsic
def word(typingctx: Any, address: Any, index: Any) -> Any:
    """The `index`-th word from an address."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(place(builder, *args))

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def set_word(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], place(builder, *args[:2]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def _number(typingctx: Any, address: Any) -> Any:
    """A C ``int``."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.sext(builder.load(builder.inttoptr(args[0], I32.as_pointer())), I64)

    return types.int64(types.int64), codegen


@intrinsic
def new_frame(typingctx: Any) -> Any:
    """Address of a frame in the caller's stack frame, its counter at 0."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        memory = cgutils.alloca_once(builder, ir.ArrayType(I64, ARRAYS + 2 * MOST_ARRAYS))
        memory.align = 128
        builder.store(i64(0), builder.gep(memory, [i64(0), i64(0)]))
        return builder.ptrtoint(memory, I64)

    return types.int64(), codegen


@inline
def _size(array):  # type: ignore[no-untyped-def]
    """Elements of an array."""
    shape, size = word(array + _SHAPE, 0), 1
    for axis in range(_number(array + _AXES)):
        size *= word(shape, axis)
    return size


@inline
def fill(frame, table, arrays, tasks):  # type: ignore[no-untyped-def]
    """Write a frame. The address of the function that takes these arrays, 0 if there is none yet.

    `arrays` is the address of a tuple.
    """
    count = word(table, COUNT)
    if word(arrays + _TYPE, 0) != word(table, TUPLE) or word(arrays + _LENGTH, 0) != count:
        return 0
    set_word(frame, TASKS, tasks)
    for i in range(count):
        array = word(arrays + _ITEMS, i)
        if word(array + _TYPE, 0) != word(table, NDARRAY) or _number(array + _FLAGS) & USABLE != USABLE:
            return 0
        set_word(frame, ARRAYS + 2 * i, word(array + _DATA, 0))
        set_word(frame, ARRAYS + 2 * i + 1, _size(array))
    for function in range(word(table, FUNCTIONS)):
        row = FIRST + function * (1 + count)
        same = 0
        while same < count and word(table, row + 1 + same) == word(word(arrays + _ITEMS, same) + _DTYPE, 0):
            same += 1
        if same == count:
            return word(table, row)
    return 0


def _array(context: Any, builder: Any, kind: types.Array, pointer: Any, size: Any) -> Any:
    """A one-dimensional contiguous array of numba's."""
    array = context.make_array(kind)(context, builder)
    item = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    array.data = builder.bitcast(pointer, array.data.type)
    array.nitems, array.itemsize = size, i64(item)
    array.shape, array.strides = (cgutils.pack_array(builder, [n]) for n in (size, i64(item)))
    return array._getvalue()


@intrinsic
def unframe(typingctx: Any, frame: Any) -> Any:
    """(counter, number of tasks, *arrays) of a frame."""
    counter, arrays = types.int64[::1], frame.dtype.types
    result = types.Tuple((counter, types.int64, *arrays))

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        words = builder.bitcast(args[0], I64.as_pointer())

        def at(index: int) -> Any:
            return builder.gep(words, [i64(index)])

        values = [_array(context, builder, counter, words, i64(1)), builder.load(at(TASKS))]
        for i, kind in enumerate(arrays):
            address, size = (builder.load(at(ARRAYS + 2 * i + part)) for part in (0, 1))
            pointer = builder.inttoptr(address, ir.IntType(8).as_pointer())
            values.append(_array(context, builder, kind, pointer, size))
        return context.make_tuple(builder, result, values)

    return result(frame), codegen
