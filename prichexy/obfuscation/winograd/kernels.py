"""The transforms of `transforms` as machine code for this processor, made by LLVM when they are first asked for.

In torch they would be passes over memory, and take longer than what they save. Here a window is read once, transformed
in registers, sixteen channels at a time, and written once: 20 of the 85 ms that an image takes.

Images are float32, dense, (height, width, channels); channels are a multiple of `LANES`. The code does not check what
it is given: `layers` does.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

from prichexy.obfuscation.winograd.transforms import INPUT, OUTPUT, TILE, WINDOW

LANES = 16
"""Channels that are computed at once: an AVX-512 register; LLVM splits it where registers are shorter."""


PLANE_GAP = LANES
"""Floats between two of the planes that windows are put into: without them, the 36 places of a window are apart by a
power of 2 and share one of the cache's sets (12.3 instead of 9.5 ms an image)."""


class Kernels(NamedTuple):
    """The two transforms. Rows and columns of tiles are numbered from the image's upper left.

    Attributes:
        transform_input: (image, windows, height, width, channels, first, end): the windows of the rows of tiles from
            `first` to before `end`, transformed, as (36, tiles, channels) with a gap after each plane. Beyond the
            image is 0.
        transform_output: (products, bias, image, slope, height, width, channels, first, end): the other way, from
            (36, tiles, channels), with a bias for each channel; what is below 0 is multiplied by `slope`.
        code: the machine code, which lives as long as this does.
    """

    transform_input: Callable[[int, int, int, int, int, int, int], None]
    transform_output: Callable[[int, int, int, float, int, int, int, int, int], None]
    code: Any


@cache
def kernels() -> Kernels:
    """The transforms for this processor; compiled once a process, in about 0.3 s."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    module = binding.parse_assembly(_source(binding.get_process_triple()))
    # LLVM's passes over the code are left out: they take longer, and nothing is faster for them.
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3
    )
    compiled = binding.create_mcjit_compiler(module, machine)
    compiled.finalize_object()
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    take = ctypes.CFUNCTYPE(None, pointer, pointer, *[number] * 5)
    give = ctypes.CFUNCTYPE(None, pointer, pointer, pointer, ctypes.c_float, *[number] * 5)
    return Kernels(
        take(compiled.get_function_address("transform_input")),
        give(compiled.get_function_address("transform_output")),
        compiled,
    )


def _source(triple: str) -> str:
    """Both transforms in LLVM's language."""
    from llvmlite import ir

    module = ir.Module("winograd")
    module.triple = triple
    _input(module)
    _output(module)
    return str(module)


def _input(module: Any) -> None:
    code = _Code(module, "transform_input", ("image", "windows"), ("height", "width", "channels", "first", "end"))
    with code.each_tile() as (y, x, tile, plane):
        y, x = code.plus(y, -1), code.plus(x, -1)
        row = code.times(code["width"], code["channels"])
        begin = code.sum(code.times(y, row), code.times(x, code["channels"]))
        whole = code.all([code.inside(y, "height", 0, WINDOW), code.inside(x, "width", 0, WINDOW)])

        def transform(at_border: bool) -> None:
            with code.each_channel() as channel:
                columns = []
                for across in range(WINDOW):
                    values = []
                    for down in range(WINDOW):
                        offset = code.sum(begin, code.times(row, down), code.times(code["channels"], across), channel)
                        seen = [code.inside(y, "height", down, 1), code.inside(x, "width", across, 1)]
                        values.append(code.load("image", offset, seen if at_border else []))
                    columns.append([code.combined(share, values) for share in INPUT])
                for i in range(WINDOW):
                    for j, share in enumerate(INPUT):
                        value = code.combined(share, [column[i] for column in columns])
                        place = code.sum(tile, channel, code.times(code.plus(plane, PLANE_GAP), i * WINDOW + j))
                        code.store(value, "windows", place)

        code.either(whole, transform)
    code.end()


def _output(module: Any) -> None:
    pointers = ("products", "bias", "image")
    code = _Code(module, "transform_output", pointers, ("height", "width", "channels", "first", "end"), ("slope",))
    slope = code.spread(code["slope"])
    with code.each_tile() as (y, x, tile, plane):
        row = code.times(code["width"], code["channels"])
        begin = code.sum(code.times(y, row), code.times(x, code["channels"]))
        whole = code.all([code.inside(y, "height", 0, TILE), code.inside(x, "width", 0, TILE)])

        def transform(at_border: bool) -> None:
            with code.each_channel() as channel:
                columns = []
                for j in range(WINDOW):
                    places = [code.sum(tile, channel, code.times(plane, i * WINDOW + j)) for i in range(WINDOW)]
                    values = [code.load("products", place) for place in places]
                    columns.append([code.combined(share, values) for share in OUTPUT])
                bias = code.load("bias", channel)
                for down in range(TILE):
                    for across, share in enumerate(OUTPUT):
                        value = code.combined(share, [column[down] for column in columns])
                        value = code.sloped(code.added(value, bias), slope)
                        offset = code.sum(begin, code.times(row, down), code.times(code["channels"], across), channel)
                        there = [code.inside(y, "height", down, 1), code.inside(x, "width", across, 1)]
                        code.store(value, "image", offset, there if at_border else [])

        code.either(whole, transform)
    code.end()


class _Code:
    """One function as it is written, instruction after instruction."""

    def __init__(
        self, module: Any, name: str, pointers: Sequence[str], numbers: Sequence[str], reals: Sequence[str] = ()
    ) -> None:
        """Begin a function of these arguments: pointers, reals, numbers."""
        from llvmlite import ir

        self._ir = ir
        self._number, real = ir.IntType(64), ir.FloatType()
        self._vector = ir.VectorType(real, LANES)
        types = [real.as_pointer()] * len(pointers) + [real] * len(reals) + [self._number] * len(numbers)
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), types), name)
        self._given = dict(zip([*pointers, *reals, *numbers], function.args, strict=True))
        for pointer in pointers:
            self._given[pointer].add_attribute("noalias")
        self._multiply_add = module.globals.get("llvm.fmuladd.v16f32") or ir.Function(
            module, ir.FunctionType(self._vector, [self._vector] * 3), "llvm.fmuladd.v16f32"
        )
        self._write = ir.IRBuilder(function.append_basic_block("entry"))

    def __getitem__(self, name: str) -> Any:
        """An argument."""
        return self._given[name]

    def end(self) -> None:
        """Return to the caller."""
        self._write.ret_void()

    # Numbers.

    def plus(self, left: Any, right: int) -> Any:
        return self._write.add(left, self._number(right))

    def sum(self, *parts: Any) -> Any:
        total = parts[0]
        for part in parts[1:]:
            total = self._write.add(total, part)
        return total

    def times(self, left: Any, right: Any) -> Any:
        return self._write.mul(left, self._number(right) if isinstance(right, int) else right)

    def inside(self, begin: Any, side: str, offset: int, length: int) -> Any:
        """Whether the pixels from `begin` + `offset` on, `length` of them, lie within that side of the image."""
        first = self.plus(begin, offset)
        after = self._write.icmp_signed("<=", self.plus(first, length), self[side])
        return self._write.and_(self._write.icmp_signed(">=", first, self._number(0)), after)

    def all(self, conditions: Sequence[Any]) -> Any:
        every = conditions[0]
        for condition in conditions[1:]:
            every = self._write.and_(every, condition)
        return every

    # What is repeated and what depends.

    @contextmanager
    def _loop(self, begin: Any, end: Any, step: int) -> Iterator[Any]:
        write = self._write
        before, head = write.block, write.append_basic_block("loop")
        body, after = write.append_basic_block("body"), write.append_basic_block("after")
        write.branch(head)
        write.position_at_end(head)
        index = write.phi(self._number)
        index.add_incoming(begin, before)
        write.cbranch(write.icmp_signed("<", index, end), body, after)
        write.position_at_end(body)
        yield index
        index.add_incoming(self.plus(index, step), write.block)
        write.branch(head)
        write.position_at_end(after)

    @contextmanager
    def each_tile(self) -> Iterator[tuple[Any, Any, Any, Any]]:
        """Of the rows `first` to before `end`: its first output pixel (y, x), where its first channel lies in a plane
        of (tiles, channels), and how far a plane is from the next.
        """
        write = self._write
        across = write.sdiv(self.plus(self["width"], TILE - 1), self._number(TILE))
        plane = self.times(self.times(write.sub(self["end"], self["first"]), across), self["channels"])
        with (
            self._loop(self["first"], self["end"], 1) as row,
            self._loop(self._number(0), across, 1) as column,
        ):
            number = self.sum(self.times(write.sub(row, self["first"]), across), column)
            yield self.times(row, TILE), self.times(column, TILE), self.times(number, self["channels"]), plane

    @contextmanager
    def each_channel(self) -> Iterator[Any]:
        """The first of every `LANES` channels."""
        with self._loop(self._number(0), self["channels"], LANES) as channel:
            yield channel

    def either(self, whole: Any, write: Callable[[bool], None]) -> None:
        """Write the same twice: for tiles within the image, and for those at its border (True), which ask more."""
        with self._write.if_else(whole) as (within, at_border):
            with within:
                write(False)
            with at_border:
                write(True)

    # Vectors of `LANES` channels.

    def _constant(self, value: int) -> Any:
        return self._ir.Constant(self._vector, [float(value)] * LANES)

    def spread(self, value: Any) -> Any:
        """The same value in each lane."""
        write, empty = self._write, self._ir.Constant(self._vector, self._ir.Undefined)
        first = write.insert_element(empty, value, self._ir.IntType(32)(0))
        lanes = self._ir.Constant(self._ir.VectorType(self._ir.IntType(32), LANES), [0] * LANES)
        return write.shuffle_vector(first, empty, lanes)

    def _place(self, pointer: str, offset: Any) -> Any:
        return self._write.bitcast(self._write.gep(self[pointer], [offset]), self._vector.as_pointer())

    def load(self, pointer: str, offset: Any, conditions: Sequence[Any] = ()) -> Any:
        """What lies there; 0 where a condition fails, and then nothing there is read."""
        if not conditions:
            return self._write.load(self._place(pointer, offset), align=4)
        met, nothing = self.all(conditions), self._constant(0)
        safe = self._write.select(met, offset, self._number(0))  # the first pixel is always there
        return self._write.select(met, self._write.load(self._place(pointer, safe), align=4), nothing)

    def store(self, value: Any, pointer: str, offset: Any, conditions: Sequence[Any] = ()) -> None:
        """Put it there, if all conditions are met."""
        if not conditions:
            self._write.store(value, self._place(pointer, offset), align=4)
            return
        with self._write.if_then(self.all(conditions)):
            self._write.store(value, self._place(pointer, offset), align=4)

    def added(self, left: Any, right: Any) -> Any:
        return self._write.fadd(left, right)

    def sloped(self, value: Any, slope: Any) -> Any:
        """The larger of the value and slope times it. What is infinite or no number becomes, or stays, no number."""
        less = self._write.fmul(value, slope)
        return self._write.select(self._write.fcmp_ordered(">", value, less), value, less)

    def combined(self, shares: Sequence[int], values: Sequence[Any]) -> Any:
        """The sum of the values, each times its share; a share of 1 or -1 is added first, and costs no product."""
        write, total = self._write, None
        terms = [(share, value) for share, value in zip(shares, values, strict=True) if share]
        for share, value in sorted(terms, key=lambda term: abs(term[0])):
            if total is None:
                total = value if share == 1 else write.fmul(value, self._constant(share))
            elif abs(share) == 1:
                total = write.fadd(total, value) if share == 1 else write.fsub(total, value)
            else:
                total = write.call(self._multiply_add, [value, self._constant(share), total])
        return total
