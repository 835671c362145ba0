"""The manifest against damage: flipped bits, absurd numbers behind a valid seal, parts that do not fit together."""

from __future__ import annotations

import math
import random
import typing
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_bundles import TILE, manifest

from zoomrt.bundle import Evaluation, FileEntry, KernelFile, Manifest, NoiseFacts, SamplingFacts
from zoomrt.bundle.manifest import check_tile, parse_manifest
from zoomrt.bundle.records import GraphParity, Parity, WeightFacts
from zoomrt.errors import BundleError

PARITY = Parity("photograph", "onnxruntime", 1e-6, 99.5, 80.0, 1e-6)
ENTRY = FileEntry(bytes=5, sha256="0" * 64)
KERNEL = KernelFile(
    kernel="tile_gather",
    file="kernels/k.cubin",
    entry="gather",
    arguments=(("frame", "*u8"), ("count", "i32")),
    aligned=("frame",),
    constants={"BLOCK": 256, "gain": 0.5},
    grid=("cdiv(count, BLOCK)", "1", "1"),
    warps=4,
    shared_bytes=0,
    registers=32,
    spilled_bytes=0,
)
SAMPLING = SamplingFacts(
    channels=3,
    pixels=4,
    image_latents=0.5,
    noise=1.0,
    evaluations=tuple(Evaluation(timestep=t, prev_sample=(0.5, 0.0, 0.5, 0.0)) for t in (2.0, 1.0)),
)
ONE_STEP = manifest(
    files={"graph.onnx": ENTRY, "kernels/k.cubin": ENTRY, "fp16.engine": ENTRY},
    engines={"1": "fp16.engine"},
    kernels={"gather:sm89": KERNEL},
    seeds={"parity": 7},
    parity={"1": GraphParity(seed=7, results=(PARITY,), operators={"Conv": 3}, opset=23)},
    weights=WeightFacts(sha256="0" * 64, parameters=5),
    warnings=["none"],
)
MULTI_STEP = manifest(
    files={"encode.onnx": ENTRY, "step.onnx": ENTRY},
    graphs={"encode": "encode.onnx", "step": "step.onnx"},
    sampling=SAMPLING,
    steps=2,
    tile=msgspec.structs.replace(TILE, noise=NoiseFacts(channels=48, seed=3)),
)


def parsed(raw: bytes) -> Manifest:
    return parse_manifest(raw, "bundle 'b': manifest.json")


def problem_of(raw: bytes) -> BundleError | None:
    """What is wrong with it, which is one line of readable length."""
    found = None
    try:
        parsed(raw)
    except BundleError as problem:
        found = problem
    assert found is None or (len(str(found)) < 2000 and "\n" not in str(found))
    return found


@pytest.mark.parametrize("whole", [ONE_STEP, MULTI_STEP], ids=["one step", "multi step"])
def test_every_flipped_bit_is_noticed(whole: Manifest) -> None:
    """Of the compact form, where no bit is mere layout."""
    raw = msgspec.json.encode(whole.sealed())
    assert parsed(raw) == whole.sealed()
    for place in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[place // 8] ^= 1 << place % 8
        if problem_of(bytes(flipped)) is None:  # such as 1e5 for 1E5
            assert parsed(bytes(flipped)) == whole.sealed(), place


def numbers_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to all numbers of a manifest."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers_in(inner, (*path, key))
    elif isinstance(value, int | float):
        yield path


def changed(value: Any, path: tuple[Any, ...], new: object) -> Any:
    """A copy with another value at the path; nothing checks that it makes sense."""
    if not path:
        return new
    first, *rest = path
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.replace(value, **{first: changed(getattr(value, first), tuple(rest), new)})
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[first] = changed(copy[first], tuple(rest), new)
    return copy if isinstance(value, dict) else type(value)(copy)


ABSURD = (-1, 0, 2**31, 2**40, 2**63 - 1, 2**64, 10**300, -(2**63), 1e300, -1e300, 0.5)
ONLY_TOLD = {"files", "parity", "weights", "seeds", "kernels"}
"""Fields of which nothing is allocated: sizes of files are compared, and a driver refuses what it cannot launch."""


@pytest.mark.parametrize("whole", [ONE_STEP, MULTI_STEP], ids=["one step", "multi step"])
def test_no_absurd_number_gets_through_behind_a_valid_seal(whole: Manifest) -> None:
    """Either refused, or of a size that a session can allocate for."""
    through = 0
    for path in numbers_in(whole):
        for value in ABSURD:
            raw = changed(whole, path, value).sealed().to_json()
            if problem_of(raw) is not None or path[0] in ONLY_TOLD or path == ("tile", "noise", "seed"):
                continue
            through += 1
            found = parsed(raw)
            assert abs(value) <= 1e9, path
            assert all(math.prod(shape) <= 3 << 31 for shape in found.tile.shapes(found.tile.batches[-1])), path
    assert through


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=50)
@given(st.data())
def test_any_other_value_in_any_field_is_told_in_one_line(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([ONE_STEP, MULTI_STEP]))
    field = data.draw(st.sampled_from([*whole.__struct_fields__]))
    inner, value = getattr(whole, field), data.draw(ANYTHING)
    if isinstance(inner, dict) and data.draw(st.booleans()):
        value = {**inner, data.draw(st.text(max_size=5)): value}
    problem_of(msgspec.structs.replace(whole, **{field: value}).sealed().to_json())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"files": {}}, r"graphs\.1.*one of files"),
        ({"graphs": {"1": "../outside.onnx"}}, r"graphs\.1.*outside"),
        ({"graphs": {"1": "x" * 300}}, r"graphs\.1.*xxx"),
        ({"graphs": {"1": "fp16.engine"}}, r"in \.onnx"),
        ({"graphs": {}}, r"field graphs"),
        ({"graphs": {"1": "graph.onnx", "2": "graph.onnx"}}, r"field graphs"),
        ({"engines": {"1": "/etc/passwd"}}, r"engines\.1.*passwd"),
        ({"engines": {"7": "fp16.engine"}}, r"field engines"),
        ({"kernels": {"gather:sm89": msgspec.structs.replace(KERNEL, file="../k")}}, r"kernels\.gather.*one of files"),
        ({"steps": 0}, r"steps"),
        ({"family": ""}, r"family"),
        ({"backend": "x" * 101}, r"backend"),
    ],
)
def test_parts_that_do_not_fit(changes: dict[str, Any], said: str) -> None:
    raw = msgspec.structs.replace(ONE_STEP, **changes).sealed().to_json()
    with pytest.raises(BundleError, match=said):
        parsed(raw)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 3}, r"steps.*2, one for each"),
        ({"tile": TILE}, r"tile\.noise.*0, need 48"),
        ({"graphs": {"encode": "encode.onnx"}}, r"field graphs.*step"),
        ({"graphs": {"encode": "encode.onnx", "step": "step.onnx", "1": "step.onnx"}}, r"field graphs"),
        ({"sampling": msgspec.structs.replace(SAMPLING, evaluations=())}, r"evaluations"),
        ({"sampling": msgspec.structs.replace(SAMPLING, pixels=0)}, r"pixels"),
        ({"sampling": msgspec.structs.replace(SAMPLING, channels=10**6)}, r"channels"),
    ],
)
def test_parts_of_a_sampler_that_do_not_fit(changes: dict[str, Any], said: str) -> None:
    raw = msgspec.structs.replace(MULTI_STEP, **changes).sealed().to_json()
    with pytest.raises(BundleError, match=said):
        parsed(raw)


@pytest.mark.parametrize(
    "name",
    ["", "/a", "../a", "a/../b", "a//b", "./a", "a/", "a\\b", "c:a", "a\nb", "a\x00b", "a\x1b[31m", "a/" + "n" * 256],
)
def test_names_that_no_file_of_a_bundle_has(name: str) -> None:
    raw = msgspec.structs.replace(ONE_STEP, files={**ONE_STEP.files, name: ENTRY}).sealed().to_json()
    with pytest.raises(BundleError, match="inside the bundle"):
        parsed(raw)


@pytest.mark.parametrize("name", ["a", "a/b/c.onnx.data", "-x", ".hidden", "ä b.onnx", "n" * 255])
def test_names_that_files_of_a_bundle_may_have(name: str) -> None:
    raw = msgspec.structs.replace(ONE_STEP, files={**ONE_STEP.files, name: ENTRY}).sealed().to_json()
    assert name in parsed(raw).files


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"scale": 0}, "scale"),
        ({"scale": 17}, "scale"),
        ({"height": 0}, "height"),
        ({"width": 16385}, "width"),
        ({"overlap": 64}, "overlap"),
        ({"overlap": 0, "context": 0}, "overlap"),
        ({"context": 8}, "context"),
        ({"context": -1}, "context"),
        ({"batches": (2, 4)}, "batches"),
        ({"batches": (1, 4, 4)}, "batches"),
        ({"batches": ()}, "batches"),
        ({"batches": (1, 4000), "height": 8192, "width": 8192}, "batches"),
        ({"value_range": (1.0, 1.0)}, "value_range"),
        ({"noise": NoiseFacts(channels=0, seed=1)}, "channels"),
        ({"noise": NoiseFacts(channels=3, seed=-1)}, "seed"),
    ],
)
def test_tiles_that_cannot_be_planned_with(changes: dict[str, Any], field: str) -> None:
    raw = msgspec.structs.replace(ONE_STEP, tile=msgspec.structs.replace(TILE, **changes)).sealed().to_json()
    with pytest.raises(BundleError, match=field):
        parsed(raw)


def test_tiles_of_all_families_fit() -> None:
    for changes in ({}, {"scale": 16}, {"height": 16384, "width": 8}, {"batches": (1, 2, 8)}):
        check_tile(msgspec.structs.replace(TILE, **{"overlap": 4, "context": 1, **changes}))


@pytest.mark.parametrize("depth", [200, 1000, 200_000])
def test_deep_nesting(depth: int) -> None:
    for text in ('{"schema": 1, "parity": {"1": {"x": %s}}}', '{"schema": 1, "x": %s}', '{"schema": %s}', "%s"):
        raw = (text % ("[" * depth + "]" * depth)).encode()
        with pytest.raises(BundleError):
            parsed(raw)


def test_random_bytes() -> None:
    for _ in range(500):
        with pytest.raises(BundleError):
            parsed(random.randbytes(random.randrange(200)))


def types_in(kind: Any) -> Iterator[Any]:
    """A type and all that it is made of, fields of structs included."""
    yield kind
    inner = typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        inner = tuple(typing.get_type_hints(kind).values())
    for one in inner:
        yield from types_in(one)


def test_every_field_has_a_type_that_is_checked() -> None:
    found = list(types_in(Manifest))
    assert WeightFacts in found
    assert Parity in found
    assert not {Any, object, dict, list, tuple} & {one for one in found if typing.get_origin(one) is not Literal}


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("weights", {"sha256": "ab"}),
        ("weights", {"sha256": "0" * 64 + "\n"}),
        ("weights", {"parameters": -1}),
        ("parity", {"1": {"psnr": 99.5}}),
        ("numerics", {"largest": {"a": "wide"}}),
        ("memory", {"stages": [], "parts": {}}),
        ("speed", {"batch": 1, "threads": 1, "chosen": "a", "engines": {"a": [1, 2, 3]}}),
        ("engine_report", {"1": {"kernels": 7}}),
    ],
)
def test_a_record_of_another_shape_is_refused(field: str, wrong: object) -> None:
    document = msgspec.json.decode(ONE_STEP.sealed().to_json()) | {field: wrong}
    problem = problem_of(msgspec.json.encode(document))
    assert problem is not None
    assert f"$.{field}" in problem.seen
