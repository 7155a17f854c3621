"""Read the pickles in which verification sets are shared, without running anything that they name.

An interpreter of the opcodes that lists, tuples, byte strings, numbers and numpy arrays are made of in Python 2 and 3.
What a pickle *calls* is looked up in a literal table at the end and only ever builds such plain values; any other
name, and any other opcode, is refused. Python's own unpickler, even with `find_class` overridden, lets one flipped bit
in a memo index reserve gigabytes; here memory is bounded by a multiple of the file's size.
"""
from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from askd.errors import DataError

_NUMBERS = {name: np.dtype(name) for name in ("b1", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")}
_INTEGER = re.compile(rb"-?[0-9]{1,19}L?")


@dataclass
class PickledArray:
    """A numpy array of integers or booleans met in a pickle; `value` is flat, (N,), and None until its data came."""

    value: np.ndarray | None = None


@dataclass
class _Dtype:
    name: str
    order: str = "|"


@dataclass(frozen=True)
class _Name:
    path: str


def read_plain_pickle(data: bytes, source: str) -> object:
    """The value that a pickle of any protocol holds: lists, tuples, bytes, str, int, bool, None and `PickledArray`.

    Python-2 strings are bytes, as with `pickle.loads(data, encoding="bytes")`. Raises DataError, naming `source` and
    the byte, for a truncated or damaged pickle, and for one that names anything but numpy arrays and bytes.
    """
    return _Machine(data, source).run()


class _Machine:
    def __init__(self, data: bytes, source: str):
        self.data, self.source = data, source
        self.at = 0
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.text_left_to_encode = len(data)

    def run(self) -> object:
        while (opcode := self.take(1)) != b".":
            if opcode not in _OPCODES:
                raise self.error(f"opcode {opcode!r} does not belong to lists of encoded images")
            _OPCODES[opcode](self)
        if len(self.stack) != 1 or self.marks or self.at != len(self.data):
            raise self.error("the pickle stops here, but not its content")
        return self.stack[0]

    def error(self, problem: str) -> DataError:
        return DataError(f"{self.source}: at byte {self.at} of {len(self.data)}: {problem}; "
                         f"the file is damaged or not an InsightFace .bin: fetch it again from where it is published")

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self.at:
            raise self.error(f"{count} bytes are announced, the file ends before them")
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise self.error("the file ends within a line")
        return self.take(end + 1 - self.at)[:-1]

    def text(self, encoded: bytes, encoding: str = "utf-8") -> str:
        try:
            return encoded.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
        except UnicodeDecodeError as error:
            raise self.error(f"text that is not {encoding}") from error

    def integer(self, digits: bytes) -> int:
        if not _INTEGER.fullmatch(digits):
            raise self.error("a line that is not an integer")
        return int(digits.rstrip(b"L"))

    def integer_or_bool(self, digits: bytes) -> int | bool:
        return digits == b"01" if digits in (b"00", b"01") else self.integer(digits)

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.error("a value is missing")
        return self.stack.pop()

    def pop_mark(self) -> list:
        if not self.marks:
            raise self.error("a mark is missing")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def push_tuple(self, size: int) -> None:
        values = [self.pop() for _ in range(size)]
        self.push(tuple(reversed(values)))

    def extend(self, values: list) -> None:
        target = self.pop()
        if type(target) is not list:
            raise self.error("values are appended to something that is no list")
        target.extend(values)
        self.push(target)

    def put(self, index: int) -> None:
        self.push(self.pop())
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise self.error(f"value {index} is referred to before it came")
        self.push(self.memo[index])

    def quoted(self, literal: bytes) -> bytes:
        if len(literal) < 2 or literal[:1] not in (b"'", b'"') or literal[-1:] != literal[:1]:
            raise self.error("a string without its quotes")
        try:
            return codecs.escape_decode(literal[1:-1])[0]
        except ValueError as error:
            raise self.error("a string with a broken escape") from error

    def name(self, module: str, name: str) -> None:
        path = f"{module}.{name}".replace("numpy._core.", "numpy.core.").replace("__builtin__.", "builtins.")
        if path not in _CALLS and path != "numpy.ndarray":
            raise self.error(f"{path[:80]!r} is refused, only numpy arrays and bytes are read from a pickle")
        self.push(_Name(path))

    def stack_name(self) -> None:
        name, module = self.pop(), self.pop()
        self.name(self.plain_text(module), self.plain_text(name))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        path = function.path if type(function) is _Name else "a value"
        build, count = _CALLS.get(path, (None, -1))
        if build is None or type(arguments) is not tuple or len(arguments) != count:
            raise self.error(f"{path} is called in a way that builds neither an array nor bytes")
        self.push(build(self, *arguments))

    def build(self) -> None:
        state, target = self.pop(), self.pop()
        if type(state) is not tuple or len(state) < 2:
            raise self.error("an object without its state")
        if type(target) is _Dtype:
            target.order = self.plain_text(state[1])
        elif type(target) is PickledArray and len(state) == 5:
            _, shape, dtype, fortran, content = state
            if fortran:
                raise self.error("an array in Fortran order, which no encoded image has")
            target.value = self.array(content, dtype, shape)
        else:
            raise self.error("the state of something that has none")
        self.push(target)

    def array(self, content: object, dtype: object, shape: object) -> np.ndarray:
        if type(dtype) is not _Dtype or dtype.name not in _NUMBERS or dtype.order not in ("|", "<", ">", "="):
            raise self.error("an array of something other than integers or booleans")
        number = _NUMBERS[dtype.name].newbyteorder(dtype.order)
        if type(content) is not bytes or type(shape) is not tuple or not all(type(side) is int for side in shape):
            raise self.error("an array without its bytes or shape")
        size = number.itemsize
        for side in shape:
            size = min(size * max(side, 0), len(content) + 1)  # so that hostile shapes make no giant integers
        if size != len(content):
            raise self.error(f"an array has {len(content)} bytes, which is not what its shape needs")
        return np.frombuffer(content, number)

    def plain_text(self, value: object) -> str:
        if type(value) not in (str, bytes):
            raise self.error("a name that is no text")
        return value if type(value) is str else self.text(value, "latin-1")

    def dtype(self, name: object, _align: object, _copy: object) -> _Dtype:
        return _Dtype(self.plain_text(name))

    def empty_array(self, _kind: object, _shape: object, _typecode: object) -> PickledArray:
        return PickledArray()

    def array_from_buffer(self, content: object, dtype: object, shape: object, order: object) -> PickledArray:
        if order != "C":
            raise self.error("an array in Fortran order, which no encoded image has")
        return PickledArray(self.array(content, dtype, shape))

    def scalar(self, dtype: object, content: object) -> int | bool:
        return self.array(content, dtype, (1,))[0].item()

    def encode(self, text: object, encoding: object) -> bytes:
        if type(text) is not str or encoding not in ("latin1", "latin-1", b"latin1", b"latin-1"):
            raise self.error("a call of codecs.encode that does not stand for bytes")
        self.text_left_to_encode -= len(text)
        if self.text_left_to_encode < 0:
            raise self.error("the same text is expanded again and again")
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError as error:
            raise self.error("bytes above 255") from error

    def no_bytes(self) -> bytes:
        return b""


_CALLS: dict[str, tuple[Callable, int]] = {  # what a name in the pickle builds, from how many arguments
    "numpy.core.multiarray._reconstruct": (_Machine.empty_array, 3),
    "numpy.core.multiarray.scalar": (_Machine.scalar, 2),
    "numpy.core.numeric._frombuffer": (_Machine.array_from_buffer, 4),
    "numpy.dtype": (_Machine.dtype, 3),
    "_codecs.encode": (_Machine.encode, 2),
    "builtins.bytes": (_Machine.no_bytes, 0),
}

_OPCODES: dict[bytes, Callable[[_Machine], object]] = {
    b"\x80": lambda m: m.take(1),  # PROTO
    b"\x95": lambda m: m.take(8),  # FRAME
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"0": lambda m: m.pop(),
    b"1": lambda m: m.pop_mark(),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": lambda m: m.push(m.integer_or_bool(m.line())),
    b"L": lambda m: m.push(m.integer(m.line())),
    b"K": lambda m: m.push(m.number(1)),
    b"M": lambda m: m.push(m.number(2)),
    b"J": lambda m: m.push(m.number(4, signed=True)),
    b"\x8a": lambda m: m.push(m.number(m.number(1), signed=True)),
    b"S": lambda m: m.push(m.quoted(m.line())),
    b"U": lambda m: m.push(m.take(m.number(1))),
    b"T": lambda m: m.push(m.take(m.number(4, signed=True))),
    b"C": lambda m: m.push(m.take(m.number(1))),
    b"B": lambda m: m.push(m.take(m.number(4))),
    b"\x8e": lambda m: m.push(m.take(m.number(8))),
    b"\x96": lambda m: m.push(m.take(m.number(8))),  # a bytearray
    b"V": lambda m: m.push(m.text(m.line(), "raw-unicode-escape")),
    b"\x8c": lambda m: m.push(m.text(m.take(m.number(1)))),
    b"X": lambda m: m.push(m.text(m.take(m.number(4)))),
    b"\x8d": lambda m: m.push(m.text(m.take(m.number(8)))),
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.pop_mark()),
    b"a": lambda m: m.extend([m.pop()]),
    b"e": lambda m: m.extend(m.pop_mark()),
    b")": lambda m: m.push(()),
    b"\x85": lambda m: m.push_tuple(1),
    b"\x86": lambda m: m.push_tuple(2),
    b"\x87": lambda m: m.push_tuple(3),
    b"t": lambda m: m.push(tuple(m.pop_mark())),
    b"p": lambda m: m.put(m.integer(m.line())),
    b"q": lambda m: m.put(m.number(1)),
    b"r": lambda m: m.put(m.number(4)),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": lambda m: m.get(m.integer(m.line())),
    b"h": lambda m: m.get(m.number(1)),
    b"j": lambda m: m.get(m.number(4)),
    b"c": lambda m: m.name(m.text(m.line()), m.text(m.line())),
    b"\x93": lambda m: m.stack_name(),
    b"R": lambda m: m.call(),
    b"b": lambda m: m.build(),
}
