"""Which pictures a command line means and where results go; contradictions are refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoomrt.cli._pictures import plan_jobs
from zoomrt.errors import InputError, UsageError


def jobs(
    words: list[object],
    output: Path,
    *,
    format_name: str | None = None,
    suffix: str = "",
    recursive: bool = False,
) -> list[tuple[str, str]]:
    planned = plan_jobs(
        [str(word) for word in words], output, format_name=format_name, suffix=suffix, recursive=recursive
    )
    return [(str(job.source), str(job.output)) for job in planned]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.png", "deep/c.webp", "deep/er/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_one_file_to_one_file(photos: Path, tmp_path: Path) -> None:
    assert jobs([photos / "b.jpg"], tmp_path / "x.png") == [(f"{photos}/b.jpg", f"{tmp_path}/x.png")]


def test_folder_takes_its_pictures_sorted_and_not_what_is_below(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert jobs([photos], out) == [(f"{photos}/a.PNG", f"{out}/a.PNG"), (f"{photos}/b.jpg", f"{out}/b.jpg")]


def test_recursive_keeps_the_folders(photos: Path, tmp_path: Path) -> None:
    outputs = [output for _, output in jobs([photos], tmp_path / "out", recursive=True)]
    assert outputs == [f"{tmp_path}/out/{name}" for name in ("a.PNG", "b.jpg", "deep/c.webp", "deep/er/a.png")]


def test_pattern_that_the_shell_left_alone(photos: Path, tmp_path: Path) -> None:
    assert [Path(source).name for source, _ in jobs([photos / "*.jpg"], tmp_path / "out")] == ["b.jpg"]
    assert len(jobs([photos / "**" / "*"], tmp_path / "out", suffix="_x4")) == 4


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    odd = tmp_path / "a[1].png"
    odd.touch()
    assert jobs([odd], tmp_path / "out")[0][0] == str(odd)


def test_format_and_suffix_name_the_result(photos: Path, tmp_path: Path) -> None:
    ((_, output),) = jobs([photos / "b.jpg"], tmp_path, format_name="tiff", suffix="_x4")
    assert output == f"{tmp_path}/b_x4.tiff"


def test_a_format_that_cannot_be_written_becomes_png(tmp_path: Path) -> None:
    (tmp_path / "a.bmp").touch()
    assert jobs([tmp_path / "a.bmp"], tmp_path / "out") == [(f"{tmp_path}/a.bmp", f"{tmp_path}/out/a.png")]


def test_the_same_file_twice_is_one_job(photos: Path, tmp_path: Path) -> None:
    assert len(jobs([photos / "b.jpg", photos / "deep" / ".." / "b.jpg", photos], tmp_path / "out")) == 2


def test_results_beside_their_inputs_are_not_inputs_of_the_next_run(photos: Path) -> None:
    first = jobs([photos], photos, suffix="_x4")
    for _, output in first:
        Path(output).touch()
    assert jobs([photos], photos, suffix="_x4") == first


def test_a_missing_file_is_left_to_the_reader(tmp_path: Path) -> None:
    assert len(jobs([tmp_path / "gone.png"], tmp_path / "out")) == 1


@pytest.mark.parametrize("suffix", ["", "_x4"])
def test_two_pictures_with_one_result_are_refused(photos: Path, tmp_path: Path, suffix: str) -> None:
    (photos / "deep" / "b.jpg").touch()
    with pytest.raises(UsageError, match="two pictures would be written"):
        jobs([photos / "b.jpg", photos / "deep" / "b.jpg"], tmp_path / "out", suffix=suffix)


def test_formats_can_make_names_collide(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.webp"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"a\.jpg.*a\.webp"):
        jobs([tmp_path / "a.jpg", tmp_path / "a.webp"], tmp_path / "out", format_name="png")


def test_result_over_its_input_is_refused(photos: Path) -> None:
    with pytest.raises(UsageError, match="also an input"):
        jobs([photos / "b.jpg"], photos)
    with pytest.raises(UsageError, match="also an input"):
        jobs([photos / "b.jpg"], photos / "b.jpg")


def test_result_over_its_input_through_a_link_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(photos, target_is_directory=True)
    with pytest.raises(UsageError, match="also an input"):
        jobs([photos / "b.jpg"], tmp_path / "link")


def test_result_over_another_named_input_is_refused(tmp_path: Path) -> None:
    for name in ("a.png", "a_x4.png"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match="also an input"):
        jobs([tmp_path / "a.png", tmp_path / "a_x4.png"], tmp_path, suffix="_x4")


def test_folder_onto_itself_is_refused(photos: Path) -> None:
    with pytest.raises(UsageError, match="also an input"):
        jobs([photos], photos)


def test_many_to_one_file_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="several pictures to one file"):
        jobs([photos], tmp_path / "x.png")


def test_contradicting_format_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="disagree"):
        jobs([photos / "b.jpg"], tmp_path / "x.png", format_name="jpg")
    assert jobs([photos / "b.jpg"], tmp_path / "x.JPEG", format_name="jpg")


def test_unknown_format_suggests_near_ones(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean jpg"):
        jobs([photos], tmp_path / "out", format_name="jpgg")


@pytest.mark.parametrize("suffix", ["/x", "..\\x", "../up"])
def test_suffix_cannot_leave_the_folder(photos: Path, tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UsageError, match="--suffix"):
        jobs([photos], tmp_path / "out", suffix=suffix)


def test_nothing_found_says_where(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no pictures in folder"):
        jobs([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(InputError, match="no pictures match"):
        jobs([tmp_path / "*.png"], tmp_path / "out")


@given(names=st.lists(st.sampled_from(["a.png", "b.png", "a.jpg", "c/a.png", "c/b.webp"]), min_size=1, max_size=8))
def test_accepted_plans_never_write_one_file_twice_or_over_an_input(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("plan")
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    try:
        planned = jobs([folder / name for name in names], folder / "c", format_name="png")
    except UsageError:
        stems = [Path(name).stem for name in set(names)]
        assert len(set(stems)) < len(stems) or any(name.startswith("c/") for name in names)
        return
    sources, outputs = zip(*planned, strict=True)
    assert len(set(outputs)) == len(outputs)
    assert not set(sources) & set(outputs)
    assert len(sources) == len(set(names))
