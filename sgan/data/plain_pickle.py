"""Reads pickles of plain data without running them.

`pickle.load` calls whatever a file names. Here the opcodes are interpreted by a table in which nothing can be called:
the names of NumPy's own functions are only recognised, and every other name is refused.
"""

from __future__ import annotations

import pickletools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


def read_plain_pickle(path: Path) -> object:
    """Return what a pickle of dicts, lists, bytes, integers, strings and uint8 arrays holds.

    Protocols 1 to 4 of Python 2 and 3 are read, with NumPy's arrays as NumPy pickles them under these. Strings of
    Python 2 come as bytes, as `pickle.load(file, encoding="bytes")` gives them.

    Raises:
        ValueError: the file cannot be read, is cut short or no pickle, or holds anything else: a name that is not
            NumPy's for a uint8 array, a tuple, a set, a float, None, a persistent id, an object of any class.
    """
    try:
        return _Machine().run(path.read_bytes())
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        what = "a pickle of dicts, lists, bytes, integers, strings and uint8 arrays"
        raise ValueError(f"load_dataset: {path} must be {what}, got: {error}") from error


class _Name(NamedTuple):
    """A global name: never looked up."""

    module: str
    name: str


class _Mark:
    pass


class _Array:
    """An array from the moment that it is announced, before its values come."""

    def __init__(self) -> None:
        self.values: np.ndarray | None = None


UINT8 = _Name("numpy", "uint8")  # stands for the one admitted dtype
NDARRAY, DTYPE = _Name("numpy", "ndarray"), _Name("numpy", "dtype")
RECONSTRUCT = tuple(_Name(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core"))
ENCODE = _Name("_codecs", "encode")  # bytes, as Python 3 writes them for Python 2
NAMES = {NDARRAY, DTYPE, ENCODE, *RECONSTRUCT}

IGNORED = {"PROTO", "FRAME"}
INTEGERS = {"BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4"}
STRINGS_OF_PYTHON_2 = {"BINSTRING", "SHORT_BINSTRING"}
LITERALS = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"} | INTEGERS
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}  # parts of an array's state
PUTS, GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The pickle machine (PEP 307, Lib/pickletools.py) without the opcodes that make objects."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> object:
        for opcode, argument, position in pickletools.genops(content):
            if opcode.name == "STOP":
                (value,) = self.stack
                return _plain(value)
            self.step(opcode.name, argument, position)
        raise ValueError("no STOP")

    def step(self, opcode: str, argument: Any, position: int | None) -> None:
        stack = self.stack
        if opcode in LITERALS:
            stack.append(argument)
        elif opcode in STRINGS_OF_PYTHON_2:
            stack.append(argument.encode("latin-1"))  # how genops decoded it
        elif opcode in CONSTANTS:
            stack.append(CONSTANTS[opcode])
        elif opcode in PUTS:
            self.memo[argument] = stack[-1]
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif opcode in GETS:
            stack.append(self.memo[argument])
        elif opcode == "MARK":
            stack.append(_Mark)
        elif opcode == "EMPTY_LIST":
            stack.append([])
        elif opcode == "EMPTY_DICT":
            stack.append({})
        elif opcode in SHORT_TUPLES:
            stack.append(tuple(self.pop(SHORT_TUPLES[opcode])))
        elif opcode == "TUPLE":
            stack.append(tuple(self.pop_to_mark()))
        elif opcode == "APPEND":
            self.append(self.pop(1))
        elif opcode == "APPENDS":
            self.append(self.pop_to_mark())
        elif opcode == "SETITEM":
            self.set_items(self.pop(2))
        elif opcode == "SETITEMS":
            self.set_items(self.pop_to_mark())
        elif opcode == "GLOBAL":
            stack.append(_admitted(*argument.split(" ")))
        elif opcode == "STACK_GLOBAL":
            stack.append(_admitted(*self.pop(2)))
        elif opcode == "REDUCE":
            stack.append(_recognise(*self.pop(2)))
        elif opcode == "BUILD":
            (state,) = self.pop(1)
            _fill(stack[-1], state)
        elif opcode not in IGNORED:
            raise ValueError(f"opcode {opcode} at byte {position}")

    def pop(self, count: int) -> list[Any]:
        values = self.stack[-count:]
        if len(values) < count or any(value is _Mark for value in values):
            raise ValueError("an opcode without its operands")
        del self.stack[-count:]
        return values

    def pop_to_mark(self) -> list[Any]:
        values = []
        while (value := self.stack.pop()) is not _Mark:
            values.append(value)
        return values[::-1]

    def append(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError(f"items of a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(map(_plain, values))

    def set_items(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise ValueError(f"keys of a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(zip(map(_plain, values[::2]), map(_plain, values[1::2]), strict=True))


def _plain(value: Any) -> Any:
    """Return a value that may be part of the result."""
    value = value.values if type(value) is _Array else value
    if type(value) not in (dict, list, bytes, int, str, np.ndarray):
        raise ValueError(f"a {type(value).__name__} ({value})" if isinstance(value, _Name) else type(value).__name__)
    return value


def _admitted(module: object, name: object) -> _Name:
    if not isinstance(module, str) or not isinstance(name, str) or _Name(module, name) not in NAMES:
        raise ValueError(f"the name {module}.{name}")
    return _Name(module, name)


def _recognise(function: Any, arguments: Any) -> Any:
    """Return what the call would have made: an array or dtype to fill, or bytes."""
    if function in RECONSTRUCT and arguments in ((NDARRAY, (0,), b"b"), (NDARRAY, (0,), "b")):
        return _Array()
    if function == DTYPE and type(arguments) is tuple and arguments[:1] in ((b"u1",), ("u1",)):
        return UINT8
    if function == ENCODE and type(arguments) is tuple and len(arguments) == 2 and arguments[1] == "latin1":
        return arguments[0].encode("latin-1")
    raise ValueError(f"a call of {function} with other arguments than a uint8 array's")


def _fill(target: Any, state: Any) -> None:
    """Give an array its values: state is (version, shape, dtype, is_fortran, content)."""
    if target == UINT8:
        return
    if type(target) is not _Array or type(state) is not tuple or len(state) != 5:
        raise ValueError(f"a state of a {type(target).__name__}")
    _, shape, dtype, is_fortran, content = state
    is_shape = type(shape) is tuple and all(type(size) is int and size >= 0 for size in shape)
    if dtype != UINT8 or type(content) is not bytes or not is_shape:
        raise ValueError("an array that is not of uint8 with sizes >= 0")
    values = np.frombuffer(bytearray(content), dtype=np.uint8)
    target.values = values.reshape(shape, order="F" if is_fortran else "C")
