"""Pickles read as data: what Python's own unpickler makes of harmless ones, nothing at all run from the others."""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoomrt.models import pickle_data
from zoomrt.models.pickle_data import Made, Named, Persistent, read_pickle

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = st.text() | st.integers() | st.binary()
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
    max_leaves=20,
)


@given(value=PLAIN, protocol=st.integers(0, 5))
def test_plain_values_as_python_reads_them(value: Any, protocol: int) -> None:
    got = as_python(read_pickle(pickle.dumps(value, protocol=protocol)).content)
    assert got == value
    assert repr(got) == repr(value)  # True is 1


def as_python(value: Any) -> Any:
    """Before protocol 3 bytes are a call, which here stays one."""
    if isinstance(value, Made):
        assert value.what in ("_codecs.encode", "__builtin__.bytes")
        return value.args[0].encode(value.args[1]) if value.args else b""
    if isinstance(value, dict):
        return {as_python(key): as_python(one) for key, one in value.items()}
    return type(value)(map(as_python, value)) if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("protocol", range(6))
def test_shared_ordered_and_grouped(protocol: int) -> None:
    shared = [1, 2]
    value = OrderedDict(a=shared, b=shared, c={3, 4}, d=frozenset([5]))
    content = read_pickle(pickle.dumps(value, protocol=protocol)).content
    assert content["a"] is content["b"]
    assert list(content)[:2] == ["a", "b"]
    if protocol == 4:
        assert (sorted(content["c"]), content["d"]) == ([3, 4], (5,))


def test_an_ordered_dictionary_of_python_2() -> None:
    """Its items were the argument: c collections OrderedDict, [["a", 1]] in a tuple, REDUCE."""
    assert read_pickle(b"ccollections\nOrderedDict\n((l(lS'a'\naI1\naatR.").content == {"a": 1}


class Bag(dict):
    """A mapping of a class of its own, with an attribute, and with items that are set after it is made."""


class Thing:
    def __init__(self) -> None:
        self.state = {"weight": 1}


def test_objects_are_records() -> None:
    value = {"bag": Bag(lr=0.1), "thing": Thing(), "class": Thing, "method": [].append, Thing: 3}
    pickled = read_pickle(pickle.dumps(value, protocol=4))
    name = f"{__name__}."
    assert (pickled.content["bag"], pickled.content["bag"].what) == ({"lr": 0.1}, f"{name}Bag")
    assert pickled.content["thing"].what == f"{name}Thing"
    assert isinstance(pickled.content["class"], Named)
    assert pickled.names == {f"{name}Bag", f"{name}Thing", "builtins.getattr"}
    assert [key.name for key in pickled.content if isinstance(key, Named)] == [f"{name}Thing"]


def test_references_to_what_is_outside(tmp_path: Path) -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, one: Any) -> Any:
            return ("storage", one.name) if isinstance(one, Path) else None

    with (tmp_path / "p").open("w+b") as stream:
        Pickler(stream, protocol=2).dump([Path("a"), Path("b")])
        stream.write(b"what follows")
        stream.seek(0)
        pickled = read_pickle(stream)
        assert stream.read() == b"what follows"
    assert [one.id for one in pickled.persistent] == [("storage", "a"), ("storage", "b")]
    assert all(isinstance(one, Persistent) for one in pickled.content)


class Reduced:
    """Calls something when it is unpickled."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


ATTACKS = {
    "os.system": lambda marker: (os.system, (f"touch {marker}",)),
    "subprocess": lambda marker: (subprocess.check_call, (["touch", str(marker)],)),
    "a folder": lambda marker: (os.mkdir, (str(marker),)),
    "eval": lambda marker: (eval, (f"__import__('os').mkdir({str(marker)!r})",)),
    "exec": lambda marker: (exec, (f"import os; os.mkdir({str(marker)!r})",)),
    "a method": lambda marker: (Path.touch, (marker,)),
    "getattr": lambda marker: (getattr, (Reduced(Path, (str(marker),)), "touch")),
    "partial": lambda marker: (functools.partial(Path.touch, marker), ()),
    "items": lambda marker: (list, (), None, iter([Reduced(Path.touch, (marker,))])),
    "state": lambda marker: (Thing, (), Reduced(Path.touch, (marker,))),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_is_run(tmp_path: Path, attack: str, protocol: int) -> None:
    marker = tmp_path / "pwned"
    payload = pickle.dumps({"weight": Reduced(*ATTACKS[attack](marker))}, protocol=protocol)
    assert isinstance(read_pickle(payload).content["weight"], Made)
    assert not marker.exists()
    if attack != "getattr":  # which only looks the method up
        pickle.loads(payload)  # it is live
        assert marker.exists()


HARMS = {
    "lists in lists": b"]" * 500_000 + b"a" * 499_999 + b".",
    "a key of nested tuples": b"}" + b")" + b"\x85" * 1_000_000 + b"K\x01s.",
    "a value of nested tuples": b"}K\x01" + b")" + b"\x85" * 1_000_000 + b"s.",
    "a memo of 4 billion places": b"K\x01r\xff\xff\xff\xff.",
    "objects in objects": b"cos\nsystem\nq\x00)R" + b"\x85q\x010h\x00h\x01R" * 100_000 + b".",
}


@pytest.mark.parametrize("harm", HARMS)
def test_nothing_is_harmed(harm: str) -> None:
    """Python's own unpickler takes gigabytes for the memo, and its process ends with a segmentation fault for the
    key."""
    read_pickle(HARMS[harm])


NO_PICKLES = [b"", b"\x80", b"\x80\x02", b".", b"a.", b"e.", b"0.", b"h\x05.", b"(u.", b"\x85.", b"K\x01(\x86."]
NO_PICKLES += [
    b"\x82\x01.",
    b"NNb",
    b"X\xff\xff\xff\x7f.",
    b"\x8e" + b"\xff" * 8 + b".",
    b"\x97.",
    b"N(.",
    b"((K\x01d.",
]


@pytest.mark.parametrize("content", NO_PICKLES)
def test_what_is_no_pickle(content: bytes) -> None:
    with pytest.raises((ValueError, LookupError, TypeError, AttributeError)):
        read_pickle(content)


def test_any_damage(rng: np.random.Generator) -> None:
    whole = pickle.dumps({"a": [1.5, "text", (None, b"bytes")], "b": Bag(x=1), "c": OrderedDict(d=Thing())}, protocol=4)
    for _ in range(2000):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            damaged[place] = rng.integers(0, 256)
        try:
            read_pickle(bytes(damaged[: rng.integers(1, len(whole) + 1)]))
        except (ValueError, LookupError, TypeError, AttributeError):
            continue


def test_odd_escapes_are_no_warning() -> None:
    """Warnings are errors here."""
    read_pickle(b"S'\\_'\n.")
    read_pickle(b"c\\_\n\\_\n.")


def test_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_data, "MOST_INSTRUCTIONS", 100)
    read_pickle(b"N0" * 49 + b"N.")
    with pytest.raises(ValueError, match="more than 100 instructions"):
        read_pickle(b"N0" * 60 + b"N.")
