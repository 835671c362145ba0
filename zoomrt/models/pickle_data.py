"""Pickles read as data: what their instructions build, without ever importing or calling what they name.

The standard library parses the instructions (`pickletools`); the stack machine here keeps plain values as they are and
turns whatever a file names or calls into a record of its name and arguments. `torch.load(weights_only=True)` refuses
such files whole, Lightning's callbacks among them, and a dictionary key of a million nested tuples ends any process
that unpickles it (hashing recurses in C); here neither happens, as nothing is hashed but text and numbers.
"""

from __future__ import annotations

import pickletools
import warnings
from dataclasses import dataclass, field
from typing import Any

MOST_INSTRUCTIONS = 10_000_000
"""Of one pickle, some 10 seconds; a checkpoint of 10,000 tensors with the state of its optimiser has two million."""
_KEYS = (str, int, float, bytes, type(None))
_MARK = object()
_OBJECTS = ("GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "BUILD", "BINPERSID", "PERSID")


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's, about escapes in a text that nobody wrote
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
        match name:
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "MARK":
                stack.append(_MARK)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._popped(int(name[-1]))))
            case "TUPLE" | "FROZENSET":
                stack.append(tuple(self._above_mark()))
            case "LIST":
                stack.append(self._above_mark())
            case "APPEND":
                self._extend(self._popped(1))
            case "APPENDS" | "ADDITEMS":
                self._extend(self._above_mark())
            case "SETITEM":
                _fill(self._popped(2), stack[-1])
            case "SETITEMS":
                _fill(self._above_mark(), stack[-1])
            case "DICT":
                found = self._above_mark()
                stack.append({})
                _fill(found, stack[-1])
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._above_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                (self.result.content,) = self._popped(1)
            case "EXT1" | "EXT2" | "EXT4" | "NEXT_BUFFER" | "READONLY_BUFFER":
                raise ValueError(f"a pickle with the instruction {name}")
            case _ if name not in _OBJECTS:  # a number or a text, which the parser has read already
                stack.append(argument)
            case _:
                self._object(name, argument)

    def _object(self, name: str, argument: Any) -> None:
        match name:
            case "GLOBAL":
                self._global(argument.replace(" ", ".", 1))
            case "STACK_GLOBAL":
                module, attribute = self._popped(2)
                self._global(f"{_text(module)}.{_text(attribute)}")
            case "REDUCE" | "NEWOBJ":
                self._call(*self._popped(2))
            case "NEWOBJ_EX":
                self._call(*self._popped(3)[:2])  # the third are arguments by name
            case "OBJ":
                what, *args = self._above_mark()
                self._call(what, tuple(args))
            case "INST":
                given = tuple(self._above_mark())
                self._global(argument.replace(" ", ".", 1))
                self._call(self._stack.pop(), given)
            case "BUILD":  # sets attributes, of which none is needed
                self._popped(1)
            case "BINPERSID":
                self._refer(*self._popped(1))
            case "PERSID":
                self._refer(argument)

    def _popped(self, count: int) -> list[Any]:
        found = self._stack[-count:]
        if len(found) != count or any(value is _MARK for value in found):
            raise ValueError("a pickle that takes more from its stack than there is")
        del self._stack[-count:]
        return found

    def _above_mark(self) -> list[Any]:
        stack = self._stack
        place = next(i for i in range(len(stack) - 1, -2, -1) if i < 0 or stack[i] is _MARK)
        if place < 0:
            raise ValueError("a pickle that ends a group it did not begin")
        found = stack[place + 1 :]
        del stack[place:]
        return found

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(items)

    def _global(self, name: str) -> None:
        self.result.names.add(name)
        self._stack.append(Named(name))

    def _refer(self, reference: Any) -> None:
        self.result.persistent.append(Persistent(reference))
        self._stack.append(self.result.persistent[-1])

    def _call(self, what: Any, args: Any) -> None:
        if not isinstance(what, Named) or not isinstance(args, tuple):
            what, args = Named(f"a call of {type(what).__name__}"), ()
        made: dict[Any, Any] = {} if what.name == "collections.OrderedDict" else Made(what, args)
        if not isinstance(made, Made):
            for pair in args[0] if args else ():  # Python 2 gave the items as argument
                _fill(list(pair), made)
        self._stack.append(made)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a pickle that names a global by something else than text")
    return value


def _fill(items: list[Any], target: Any) -> None:
    """Keys and values in turn into a mapping, under keys whose hash is cheap; whatever else was meant is not needed."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        if isinstance(target, dict) and isinstance(key, (*_KEYS, Named, Made)):
            target[key] = value
