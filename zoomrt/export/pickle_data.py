"""Pickles read as data: what their instructions build, without ever importing or calling what they name.

The standard library parses the instructions (`pickletools`); the stack machine here keeps plain values as they are and
turns whatever a file names or calls into a record of its name and arguments. `torch.load(weights_only=True)` refuses
such files whole, Lightning's callbacks among them, and a dictionary key of a million nested tuples ends any process
that unpickles it (hashing recurses in C); here neither happens, as nothing is hashed but text and numbers.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Made", "Named", "Persistent", "Pickled", "read_pickle"]

MOST_INSTRUCTIONS = 20_000_000
"""Of one pickle, some 20 seconds; a checkpoint of 10,000 tensors with the state of its optimiser has two million."""
_KEYS = (str, int, float, bytes, type(None))
_MARK = object()
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_MAKERS: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_SET": list, "EMPTY_DICT": dict}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_GETS, _PUTS = ("GET", "BINGET", "LONG_BINGET"), ("PUT", "BINPUT", "LONG_BINPUT")
_NOTHING = ("PROTO", "FRAME")


@dataclass(frozen=True, eq=False)
class Named:
    """A global that a pickle refers to, such as "torch.FloatStorage". `eq=False`: hashed by identity."""

    name: str


class Made(dict[Any, Any]):
    """The inert stand-in for an object: what made it, from what; as a mapping, the items that were set on it."""

    def __init__(self, what: Named, args: tuple[Any, ...]) -> None:
        super().__init__()
        self.what, self.args = what.name, args

    __hash__ = object.__hash__  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class Persistent:
    """A reference to something beside the pickle."""

    id: Any


@dataclass
class Pickled:
    """content : the object. names : every global referred to. persistent : every outside reference, in order."""

    content: Any = None
    names: set[str] = field(default_factory=set)
    persistent: list[Persistent] = field(default_factory=list)


def read_pickle(file: Any) -> Pickled:
    """Read one pickle from a binary file or from bytes; a file is left behind its end.

    Raises ValueError, LookupError, TypeError or AttributeError for what is no pickle, or not a whole one.
    """
    machine = _Machine()
    for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        if count >= MOST_INSTRUCTIONS:
            raise ValueError(f"a pickle of more than {MOST_INSTRUCTIONS} instructions")
        machine.run(instruction.name, argument)
    return machine.result


class _Machine:
    """The stack, its marks and the memo of one pickle."""

    def __init__(self) -> None:
        self.result = Pickled()
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _PUTS:
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in _GETS:
            stack.append(self._memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack[-count:] = [self._tuple(stack[-count:], count)]
        elif name in ("TUPLE", "FROZENSET"):
            stack.append(tuple(self._above_mark()))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _MAKERS:
            stack.append(_MAKERS[name]())
        elif name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "INST", "OBJ"):
            self._object(name, argument)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self._global(name, argument)
        elif name in ("BINPERSID", "PERSID"):
            reference = Persistent(stack.pop() if name == "BINPERSID" else argument)
            self.result.persistent.append(reference)
            stack.append(reference)
        elif name in ("APPEND", "APPENDS", "LIST", "ADDITEMS"):
            self._append(name)
        elif name in ("SETITEM", "SETITEMS", "DICT"):
            self._set(name)
        elif name in ("POP", "POP_MARK", "DUP"):
            self._shuffle(name)
        elif name == "STOP":
            (self.result.content,) = self._tuple(stack[-1:], 1)
        elif argument is not None and name not in _NOTHING and not name.startswith("EXT"):
            stack.append(argument)  # a number or a text, which the parser has read already
        elif name not in _NOTHING:
            raise ValueError(f"a pickle with the instruction {name}")

    def _above_mark(self) -> list[Any]:
        stack = self._stack
        place = next(i for i in range(len(stack) - 1, -2, -1) if i < 0 or stack[i] is _MARK)
        if place < 0:
            raise ValueError("a pickle that ends a group it did not begin")
        found = stack[place + 1 :]
        del stack[place:]
        return found

    def _tuple(self, values: list[Any], count: int) -> tuple[Any, ...]:
        if len(values) != count or any(value is _MARK for value in values):
            raise ValueError("a pickle that takes more from its stack than there is")
        return tuple(values)

    def _global(self, name: str, argument: str) -> None:
        if name == "STACK_GLOBAL":
            attribute, module = self._stack.pop(), self._stack.pop()
            full = f"{_text(module)}.{_text(attribute)}"
        else:
            full = argument.replace(" ", ".", 1)
        self.result.names.add(full)
        self._stack.append(Named(full))

    def _object(self, name: str, argument: str | None) -> None:
        stack = self._stack
        if name == "BUILD":  # sets attributes, of which none is needed
            stack.pop()
            return
        if name == "INST":
            args: Any = tuple(self._above_mark())
            self._global("GLOBAL", argument or "")
        elif name == "OBJ":
            what, *rest = self._above_mark()
            stack.append(what)
            args = tuple(rest)
        else:
            if name == "NEWOBJ_EX":
                stack.pop()  # arguments by name
            args = stack.pop()
        what = stack.pop()
        if not isinstance(what, Named) or not isinstance(args, tuple):
            what, args = Named(f"a call of {type(what).__name__}"), ()
        ordered = what.name == "collections.OrderedDict"
        stack.append(_ordered(args) if ordered else Made(what, args))

    def _append(self, name: str) -> None:
        found = [self._stack.pop()] if name == "APPEND" else self._above_mark()
        if name == "LIST":
            self._stack.append(found)
        elif isinstance(self._stack[-1], list):
            self._stack[-1].extend(found)

    def _set(self, name: str) -> None:
        found = self._above_mark() if name != "SETITEM" else [self._stack.pop() for _ in range(2)][::-1]
        if name == "DICT":
            self._stack.append({})
        _fill(self._stack[-1], zip(found[::2], found[1::2], strict=True))

    def _shuffle(self, name: str) -> None:
        if name == "DUP":
            self._stack.append(self._stack[-1])
        elif name == "POP":
            self._stack.pop()
        else:
            self._above_mark()


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a pickle that names a global by something else than text")
    return value


def _ordered(args: tuple[Any, ...]) -> dict[Any, Any]:
    """An OrderedDict; Python 2 gave its items as argument."""
    made: dict[Any, Any] = {}
    if args:
        _fill(made, ((key, value) for key, value in args[0]))
    return made


def _fill(target: Any, items: Any) -> None:
    """Into mappings only, under keys whose hash is cheap; whatever else was meant is not needed."""
    for key, value in items:
        if isinstance(target, dict) and isinstance(key, (*_KEYS, Named, Made)):
            target[key] = value
