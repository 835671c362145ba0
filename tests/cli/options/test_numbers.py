"""Numbers on the command line: every option of every command is given what no option can use, one line each.

The options come from the commands themselves, so one that is added is tested without another line here.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import click
import pytest
from commands import COMMANDS, HARMLESS
from hypothesis import example, given
from hypothesis import strategies as st

from zoomrt.cli._common import run
from zoomrt.cli.options.numbers import Number, Parsed, Whole, fraction, number, whole
from zoomrt.models.families import FAMILIES

RUBBISH = (
    *("9" * 400, "-" + "9" * 5000, "1e30000000", "-1e30000000", "1e-30000000", "0." + "1" * 400),
    *("inf", "-inf", "infinity", "nan", "-1", "0x10", "1_0", "1e", "--", "", " ", "one", "1;2", "1\n2"),
    *("٣", "\uff11\uff12", "²", "½", "1e٣", "\u202e5", "\udcff"),
)
"""Nothing that a number may look like: too long, not finite, negative, of another base or script."""
EVERY = {name: command.get_params(click.Context(command)) for name, command in COMMANDS.items()}
"""Parameters by command, those of all model families among them."""
NUMERIC = [
    (name, option)
    for name, params in EVERY.items()
    for option in params
    if isinstance(option.type, (Whole, Number, Parsed))
]
OTHERS = [
    (name, option)
    for name, params in EVERY.items()
    for option in params
    if not name.startswith("demo")  # which would run, in a folder of that name
    if isinstance(option, click.Option) and not option.is_flag and (name, option) not in NUMERIC
]


def test_every_command_is_found_and_has_harmless_words() -> None:
    assert set(HARMLESS) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_has_a_type_that_takes_any_number(name: str) -> None:
    loose = (click.types.IntParamType, click.types.FloatParamType)
    assert [p.opts for p in EVERY[name] if isinstance(p.type, loose)] == [
        p.opts for p in EVERY[name] if isinstance(p.type, (Whole, Number))
    ]


@pytest.mark.parametrize(("name", "option"), NUMERIC, ids=lambda value: str(getattr(value, "name", value)))
def test_what_is_no_number_of_the_range_is_one_line(
    name: str, option: click.Option, capfd: pytest.CaptureFixture[str]
) -> None:
    option_name = max(option.opts, key=len)
    for word in RUBBISH:
        assert run(COMMANDS[name], [*HARMLESS[name], option_name, word]) == 2, word
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith(f"error: cannot use {option_name}: got ")
        assert err.count("\n") == 1
        assert err.isprintable() or err.rstrip("\n").isprintable()
        assert len(err) < 400


@pytest.mark.parametrize(("name", "option"), NUMERIC, ids=lambda value: str(getattr(value, "name", value)))
def test_help_tells_the_range(name: str, option: click.Option, capfd: pytest.CaptureFixture[str]) -> None:
    having = [
        one.name for one in FAMILIES.records() for own in one.options if option.hidden and own.flag in option.opts
    ]
    words = ["--model", having[0], "--help"] if having else ["--help"]
    assert run(COMMANDS["trt-build" if having else name], words) == 0
    told = " ".join(capfd.readouterr().out.split())
    if isinstance(option.type, Parsed):
        assert " ".join((option.help or "").split()) in told
        assert re.search(r"[0-9]", option.help or "")
    else:
        assert option.type._describe_range() in told


@pytest.mark.parametrize(("name", "option"), OTHERS, ids=lambda value: str(getattr(value, "name", value)))
def test_rubbish_for_other_options_is_one_line_too(
    name: str, option: click.Option, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word for word in RUBBISH if len(word) < 256] if isinstance(option.type, click.Path) else RUBBISH
    for word in words:
        code = run(COMMANDS[name], ["-q", *HARMLESS[name], max(option.opts, key=len), *[word] * option.nargs])
        out, err = capfd.readouterr()
        assert 2 <= code <= 14, (word, code, err)
        if not option.expose_value:  # an old name
            warning, _, err = err.partition("\n")
            assert warning.startswith("warning: ")
        assert err.count("\n") == 1
        assert err.rstrip("\n").isprintable(), err
        assert err.startswith("error: ")
        assert "unexpected" not in err
        assert out == ""
    assert list(tmp_path.iterdir()) == []


@given(st.integers())
def test_whole_numbers_are_those_of_the_range(value: int) -> None:
    if -5 <= value <= 10**9:
        assert whole(str(value), -5, 10**9) == value
    else:
        with pytest.raises(ValueError, match=str(value)):
            whole(str(value), -5, 10**9)


@example(0.00010000000000000002)
@given(st.floats(allow_nan=True, allow_infinity=True))
def test_numbers_are_those_of_the_range(value: float) -> None:
    if 0 <= value <= 1e6:
        assert number(repr(value), 0, 1e6) == value
    else:
        with pytest.raises(ValueError, match=re.escape(repr(value))):
            number(repr(value), 0, 1e6)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30000/1001", Fraction(30000, 1001)),
        ("29.97", Fraction(2997, 100)),
        ("3e1", Fraction(30)),
        (".5", Fraction(1, 2)),
    ],
)
def test_fractions_are_exact(text: str, value: Fraction) -> None:
    assert fraction(text, 0.001, 10_000) == value


@pytest.mark.parametrize("text", ["1/0", "1/-2", "-1/2", "1/2/3", "0", "0/5", "1000000000/1", "1e30000000", "1/", "/2"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        fraction(text, 0.001, 10_000)
