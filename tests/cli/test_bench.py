"""trt-bench: one bundle end to end, its record and page, comparisons, and peers that fail as lines."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cli_helpers import SCALE, TILE, tree, write_noise
from PIL import Image
from seeds import rng_for

from zoomrt.bench.compare import changes, is_slower, lines
from zoomrt.bench.record import Memory, Record, read_record
from zoomrt.bench.report.table import TIME_HEAD, bound_words, time_cells
from zoomrt.bench.statistics import latency_of
from zoomrt.bundle import open_bundle, writing_bundle
from zoomrt.bundle.records import BuildFigures, EngineReport
from zoomrt.cli import bench
from zoomrt.cli._common import run
from zoomrt.errors import StorageError

QUICK = ("--repeats", "3", "--seconds", "0", "--threads", "1")


@pytest.fixture(autouse=True)
def _small_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    from zoomrt.bench import roofline

    monkeypatch.setattr(roofline, "_SIDE", 64)
    monkeypatch.setattr(roofline, "_COPY_BYTES", 1 << 20)


@pytest.fixture(scope="session")
def record(nearest_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A record of the nearest-neighbour bundle with peers that run, that cannot, and that have no weights."""
    folder = tmp_path_factory.mktemp("bench")
    os.environ["ZOOMRT_CACHE"] = str(folder / "cache")
    words = [str(nearest_bundle), "--peers", "onnxruntime,openvino,torch,onnxruntime-cuda,real-esrgan", *QUICK]
    assert run(bench.cli, [*words, "--json", str(folder / "r.json"), "-q"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["cache", "r.json"]
    return read_record(folder / "r.json")


def test_rows_are_timed_or_say_why_not(record: Record) -> None:
    rows = {row.name: row for row in record.rows}
    assert list(rows) == ["zoomrt", "onnxruntime", "openvino", "torch", "onnxruntime-cuda", "real-esrgan"]
    for name in ("zoomrt", "onnxruntime", "openvino", "real-esrgan"):
        found = rows[name].latency
        assert found is not None, rows[name].failed
        assert found.n == 3
        assert found.coverage == pytest.approx(0.75)  # three samples hold it no better
        assert (rows[name].ratio is None) == (name == "zoomrt")
    assert "nearest" in str(rows["torch"].failed)
    assert "CUDA" in str(rows["onnxruntime-cuda"].failed)
    assert rows["onnxruntime"].psnr_db == 200.0  # copies of pixels, whoever makes them
    assert rows["real-esrgan"].psnr_db is None
    assert "random weights" in rows["real-esrgan"].psnr_missing


def test_what_explains_it_is_there(record: Record) -> None:
    assert record.cost is not None
    assert record.cost.gmac == pytest.approx(3 * SCALE**2 * TILE**2 * 3 / 1e9)  # a 1x1 convolution
    assert record.layers is not None
    assert record.layers.groups_ms["convolution"] > 0
    assert set(record.stages_ms) == {"convert in", "engine", "blend", "convert out"}
    assert record.memory is not None
    assert record.memory.peak_mb >= max(record.memory.mb)
    assert record.machine["cores"] >= 1
    assert record.machine["after"].keys() == {"clock_mhz", "hottest_c", "load_1min", "gpus"}
    assert record.versions["zoomrt"]
    assert record.rows[0].roofline is not None


def test_record_survives_json(record: Record) -> None:
    assert msgspec.json.decode(msgspec.json.encode(record), type=Record) == record


@pytest.mark.parametrize("what", ["tile", "frame"])
def test_tiles_frames_and_truth(nearest_bundle: Path, tmp_path: Path, what: str, capfd) -> None:
    """Enlarged noise against itself: the engine is exact, bicubic is not."""
    low, high = tmp_path / "lr", tmp_path / "hr"
    source = write_noise(low / "a.png")
    high.mkdir()
    Image.fromarray(np.asarray(Image.open(source)).repeat(SCALE, axis=0).repeat(SCALE, axis=1)).save(high / "a.png")
    words = [str(nearest_bundle), "--time", what, "--input", str(source), "--pairs", str(low), str(high), *QUICK]
    assert run(bench.cli, [*words, "--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html")]) == 0
    found = read_record(tmp_path / "r.json")
    of = {one.of: one for one in found.quality}
    assert (of["zoomrt"].psnr_db, of["zoomrt"].ssim) == (200.0, 1.0)
    assert of["bicubic"].psnr_db < 40
    assert (what == "frame") == ("frame, inside the engine" in found.stages_ms)
    out = capfd.readouterr().out
    assert "median ms" in out
    assert f"timed: {what}" in out


class Balanced(HTMLParser):
    """Fails on tags that do not close in order; keeps what the page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href") and tag != "use"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(record: Record) -> None:
    from zoomrt.bench.report.page import page

    odd = msgspec.structs.replace(record, input="<script>alert(1)</script>")
    text = page(odd)
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert not [one for one in parser.loaded if not one.startswith("#")]
    assert "<script" not in text
    for title in ("Latency", "Stages", "Roofline", "Quality against speed", "Memory over time"):
        assert f"<h2>{title}</h2>" in text
    assert "currentColor" in text
    assert "#010203" not in text


def test_intervals_say_what_they_hold_and_p99_waits_for_samples(record: Record, rng: np.random.Generator) -> None:
    few, many = (
        msgspec.structs.replace(record.rows[1], latency=latency_of(rng.uniform(0.01, 0.02, n))) for n in (3, 100)
    )
    cells = dict(zip(TIME_HEAD, time_cells(few), strict=True))
    assert cells["interval"].endswith("; 75%, n = 3")
    assert cells["time / zoomrt"].endswith("; 75%, n = 3)")  # of the record's own ratio, three pairs
    assert cells["p99"] == "-"
    cells = dict(zip(TIME_HEAD, time_cells(many), strict=True))
    assert "%" not in cells["interval"]
    assert float(cells["p99"]) > 10
    assert dict(zip(TIME_HEAD, time_cells(record.rows[0]), strict=True))["time / zoomrt"] == "timed alone"
    assert "timed alone" in record.rows[0].detail
    assert record.warm_up_runs == 2


@pytest.mark.parametrize(("floor_ms", "words"), [(6.0, "bound by memory"), (4.0, "largest floor memory, 40% of")])
def test_a_floor_far_below_bounds_nothing(record: Record, floor_ms: float, words: str) -> None:
    wall = msgspec.structs.replace(record.rows[0].roofline, bound="memory", floors_ms={"memory": floor_ms})
    assert bound_words(wall, 10.0).startswith(words)


def test_every_peer_has_its_label_in_the_plot_of_memory(record: Record) -> None:
    from zoomrt.bench.report import plots

    labels = [f"peer{i}" for i in range(8)]  # all within one second of a hundred
    memory = Memory(at_s=(0.0, 100.0), mb=(5.0, 9.0), marks=tuple((i / 8, labels[i]) for i in range(8)), peak_mb=9.0)
    (plot,) = [p for p in plots.of(msgspec.structs.replace(record, memory=memory)) if p.title == "Memory over time"]
    assert all(label in plot.svg for label in labels)


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of one pair that fits."""
    low, high = tmp_path / "lr", tmp_path / "hr"
    high.mkdir()
    source = Image.open(write_noise(low / "a.png"))
    source.resize((source.width * SCALE, source.height * SCALE)).save(high / "a.png")
    return low, high


def _duplicate(low: Path, _high: Path) -> None:
    Image.open(low / "a.png").convert("RGB").save(low / "a.bmp")


def _misfit(_low: Path, high: Path) -> None:
    Image.open(high / "a.png").crop((0, 0, 20, 20)).save(high / "a.png")


def _tiny(low: Path, high: Path) -> None:
    Image.new("RGB", (8, 2)).save(low / "b.png")
    Image.new("RGB", (8 * SCALE, 2 * SCALE)).save(high / "b.png")


@pytest.mark.parametrize("spoil", [_duplicate, _misfit, _tiny])
def test_pairs_are_checked_before_anything_is_timed(
    nearest_bundle: Path, pairs: tuple[Path, Path], spoil, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    from zoomrt.bench import run as bench_run

    monkeypatch.setattr(bench_run, "time_alone", lambda *_: pytest.fail("timed"))
    spoil(*pairs)
    assert run(bench.cli, [str(nearest_bundle), "--pairs", *map(str, pairs), *QUICK]) == 3
    assert "bug in zoomrt" not in capfd.readouterr().err


def test_a_peer_that_fails_on_the_pairs_keeps_its_times(
    nearest_bundle: Path, pairs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoomrt.bench import quality

    monkeypatch.setattr(quality, "quality_of", lambda *_: 1 / 0)
    words = [str(nearest_bundle), "--peers", "onnxruntime", "--pairs", *map(str, pairs), *QUICK]
    assert run(bench.cli, [*words, "--json", str(tmp_path / "r.json"), "-q"]) == 0
    found = read_record(tmp_path / "r.json")
    assert all(row.latency is not None for row in found.rows)
    assert [one.of for one in found.quality] == ["bicubic"]
    assert [note for note in found.notes if note.startswith("no quality of onnxruntime: ZeroDivisionError")]


def scaled(record: Record, factor: float, spread: float = 0.01) -> Record:
    """The same record with other times for the engine."""
    seconds = rng_for(f"times {factor}").normal(factor, spread * factor, 40).clip(0.1 * factor)
    engine = msgspec.structs.replace(record.rows[0], latency=latency_of(seconds.tolist()))
    return msgspec.structs.replace(record, rows=(engine, *record.rows[1:]))


@pytest.mark.parametrize(
    ("factor", "spread", "beyond", "slower"),
    [(1.0, 0.01, False, False), (1.3, 0.01, True, True), (1.03, 0.001, True, False), (0.7, 0.01, True, False)],
)
def test_only_what_is_beyond_noise_is_a_change(
    record: Record, factor: float, spread: float, beyond: bool, slower: bool
) -> None:
    # the same times twice where nothing changed: fresh ones would differ beyond their intervals now and then
    before = scaled(record, 1.0, spread)
    found = changes(before, before if factor == 1.0 else scaled(record, factor, spread))
    assert found.rows[0].beyond_noise == beyond
    assert is_slower(found, 0.05) == slower
    assert ("no change beyond noise" in lines(found)[0]) == (not beyond)


def test_the_ends_of_the_ratio_are_those_of_the_intervals(record: Record) -> None:
    """Before 10 to 20 ms around 16, after 12 to 40 around 24: from 12 / 20 to 40 / 10."""

    def with_latency(low: float, middle: float, high: float) -> Record:
        found = msgspec.structs.replace(latency_of([1.0]), p50_ms=middle, interval_ms=(low, high))
        return msgspec.structs.replace(record, rows=(msgspec.structs.replace(record.rows[0], latency=found),))

    (change,) = changes(with_latency(10.0, 16.0, 20.0), with_latency(12.0, 24.0, 40.0)).rows
    assert (change.ratio, change.least, change.most) == pytest.approx((1.5, 0.6, 4.0))


def test_compare_as_a_command(record: Record, tmp_path: Path, capfd) -> None:
    paths = [tmp_path / name for name in ("a.json", "b.json")]
    for path, factor in zip(paths, (1.0, 1.5), strict=True):
        path.write_bytes(msgspec.json.encode(scaled(record, factor)))
    forth, back = [str(path) for path in paths], [str(path) for path in reversed(paths)]
    assert run(bench.cli, ["compare", *forth, "--fail-if", "slower:5%"]) == 20
    assert re.search(r"zoomrt: .* slower", capfd.readouterr().out)
    assert run(bench.cli, ["compare", *back, "--fail-if", "slower:5%"]) == 0
    assert run(bench.cli, ["compare", *forth, "--fail-if", "slower:80%"]) == 0
    assert run(bench.cli, ["compare", *forth]) == 0
    assert run(bench.cli, ["compare", *forth, "--fail-if", "bigger"]) == 2
    paths[0].write_text('{"schema_version": 99}')
    assert run(bench.cli, ["compare", *forth]) == 3
    assert "schema_version 99" in capfd.readouterr().err
    other = msgspec.structs.replace(record, rows=record.rows[1:])
    assert is_slower(changes(record, other), 0.05)  # the engine was not measured twice


def test_too_few_runs_tell_nothing(record: Record, tmp_path: Path, capfd) -> None:
    """Two runs of 1 ms and two of 3: no interval of 95 %, so neither slower nor faster, and no check passes."""
    paths = [tmp_path / name for name in ("a.json", "b.json")]
    for path, second in zip(paths, (1e-3, 3e-3), strict=True):
        engine = msgspec.structs.replace(record.rows[0], latency=latency_of([second, second * 1.01]))
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, rows=(engine,))))
    for forth in ([str(path) for path in paths], [str(path) for path in reversed(paths)]):
        assert run(bench.cli, ["compare", *forth, "--fail-if", "slower:5%"]) == 20
        assert "too few runs to tell (intervals hold the medians with 50%)" in capfd.readouterr().out
        assert run(bench.cli, ["compare", *forth]) == 0


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"what": "frame"}, "what is timed (engine -> frame)"),
        ({"input": "another.png"}, "another.png"),
        ({"threads": 7}, "threads (1 -> 7)"),
        ({"machine": {"cpu": "another CPU"}}, "another CPU"),
        ({"machine": {"cores": 1000}}, "1000"),
        ({"bundle": {"tile": [999, 999]}}, "[999, 999]"),
    ],
)
def test_no_check_passes_on_what_cannot_be_compared(
    record: Record, tmp_path: Path, changed: dict[str, object], told: str, capfd
) -> None:
    paths = [tmp_path / name for name in ("a.json", "b.json")]
    merged = {
        name: {**getattr(record, name), **value} if isinstance(value, dict) else value
        for name, value in changed.items()
    }
    for path, one in zip(paths, (record, msgspec.structs.replace(record, **merged)), strict=True):
        path.write_bytes(msgspec.json.encode(scaled(one, 1.0)))
    assert run(bench.cli, ["compare", *map(str, paths), "--fail-if", "slower:500%"]) == 3
    assert told in capfd.readouterr().err
    assert run(bench.cli, ["compare", *map(str, paths)]) == 0  # to look at, they may differ
    assert told in capfd.readouterr().out


def test_affinity_governor_and_target_are_told(record: Record) -> None:
    machine = {**record.machine, "affinity": [77], "governor": "powersave"}
    other = msgspec.structs.replace(record, machine=machine, bundle={**record.bundle, "target": "sm75"})
    told = " ".join(changes(record, other).differs)
    assert all(word in told for word in ("[77]", "powersave", "sm75"))


@pytest.mark.parametrize("damage", ["utf-8", "no rows", "no time", "cut", "deep"])
def test_damaged_records_are_refused(record: Record, tmp_path: Path, damage: str, capfd) -> None:
    path, raw = tmp_path / "r.json", msgspec.json.encode(record)
    latency = msgspec.structs.replace(record.rows[0].latency, p50_ms=0.0)
    still = msgspec.structs.replace(record.rows[0], latency=latency)
    damaged = {
        "utf-8": raw.replace(b"trt-bench", b"\xff\xfe", 1),
        "no rows": msgspec.json.encode(msgspec.structs.replace(record, rows=())),
        "no time": msgspec.json.encode(msgspec.structs.replace(record, rows=(still,))),
        "cut": raw[: len(raw) // 2],
        "deep": b'{"schema_version":' + b"[" * 100_000,
    }
    path.write_bytes(damaged[damage])
    assert run(bench.cli, ["compare", str(path), str(path)]) == 3
    assert "bug in zoomrt" not in capfd.readouterr().err


def test_an_engine_timed_in_neither_record_is_a_line(record: Record) -> None:
    failed = msgspec.structs.replace(record.rows[0], latency=None, failed="no GPU")
    both = msgspec.structs.replace(record, rows=(failed, *record.rows[1:]))
    assert "zoomrt is timed in neither record" in lines(changes(both, both))


@pytest.mark.parametrize("flags", [["-q"], ["--quiet"], ["--debug", "-q"]])
def test_compare_after_a_flag(record: Record, tmp_path: Path, flags: list[str], capfd) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(msgspec.json.encode(record))
    assert run(bench.cli, [*flags, "compare", str(path), str(path)]) == 0
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_places_are_checked_before_anything_is_measured(
    nearest_bundle: Path, tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoomrt.bench import run as bench_run

    monkeypatch.setattr(bench_run, "run_bench", lambda *_: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "r", tmp_path):
        assert run(bench.cli, [str(nearest_bundle), option, str(place), *QUICK]) == 13


def test_what_was_measured_is_shown_where_it_cannot_be_written(
    nearest_bundle: Path, tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoomrt.bench import record as records

    def full(*_: object, **__: object) -> None:
        raise StorageError("cannot write", seen="No space left on device", needed="room", remedy="Make some.")

    monkeypatch.setattr(records, "write_bytes", full)
    assert run(bench.cli, [str(nearest_bundle), *QUICK, "--json", str(tmp_path / "r.json")]) == 13
    assert "median ms" in capfd.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_an_engine_for_another_machine_is_a_line(nearest_bundle: Path, tmp_path: Path, capfd) -> None:
    """Nothing of it is timed; what was read back from it is shown."""
    source = open_bundle(nearest_bundle)
    path = tmp_path / "gpu"
    with writing_bundle(path) as (scratch, manifests):
        (scratch / "graph.onnx").write_bytes(source.file("graph.onnx").read_bytes())
        (scratch / "engine").write_bytes(b"of full TensorRT")
        report = {
            "1": EngineReport(
                backend="tensorrt",
                backend_version="11",
                precision="fp16",
                kernels=7,
                static_bytes=5_000_000,
                attentions_expected=0,
                engine_bytes=16,
                sha256="0" * 64,
                build=BuildFigures(1.0, None),
            )
        }
        changed = {"backend": "tensorrt", "engines": {"1": "engine"}, "engine_report": report}
        manifests.append(msgspec.structs.replace(source.manifest, **changed))
    assert run(bench.cli, [str(path), *QUICK, "--html", str(tmp_path / "p.html")]) == 0
    out = capfd.readouterr().out
    assert "zoomrt: cannot run bundle" in out
    assert "7 kernels, 5 MB read and written per run" in out
    assert "read back and not run" in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["none"], 9),
        (["B", "--peers", "torhc"], 2),
        (["B", "--time", "week"], 2),
        (["B", "--repeats", "0"], 2),
        (["B", "--pairs", "x", "y"], 3),
        (["B", "--input", "none.png"], 3),
        (["compare", "none.json", "none.json"], 3),
    ],
)
def test_bad_requests(nearest_bundle: Path, tmp_path: Path, words: list[str], code: int, capfd, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(bench.cli, [str(nearest_bundle) if word == "B" else word for word in words]) == code
    err = capfd.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert tree(tmp_path) == {}
