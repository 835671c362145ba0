"""The error tree keeps its promises: cause, value seen, value needed, remedy, an exit code of its own, one line."""

from __future__ import annotations

import inspect
import pickle
import re

import click
import pytest

from zoomrt import errors
from zoomrt.cli._common import run
from zoomrt.errors import UsageError, ZoomrtError, unknown_name


def tree() -> list[type[ZoomrtError]]:
    found: list[type[ZoomrtError]] = [ZoomrtError]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == "zoomrt.errors"]


def example(kind: type[ZoomrtError]) -> ZoomrtError:
    return kind("cannot do it", seen="3\napples", needed=4, remedy="Bring\n another.")


def test_the_tree_holds_every_public_error() -> None:
    public = {name for name in errors.__all__ if inspect.isclass(getattr(errors, name))}
    assert {kind.__name__ for kind in tree()} == public
    assert len(public) == 16


@pytest.mark.parametrize("kind", tree())
def test_message_has_cause_seen_needed_and_remedy_on_one_line(kind: type[ZoomrtError]) -> None:
    text = str(example(kind))
    assert "\n" not in text
    assert re.fullmatch(r"cannot do it: got 3 apples, need 4\. Bring another\.", text)


@pytest.mark.parametrize("kind", tree())
def test_error_survives_the_pipe_from_a_child_process(kind: type[ZoomrtError]) -> None:
    back = pickle.loads(pickle.dumps(example(kind)))
    assert type(back) is kind
    assert (back.what, back.seen, back.needed, back.remedy) == ("cannot do it", "3\napples", "4", "Bring\n another.")


def test_each_class_owns_its_exit_code() -> None:
    codes = {kind: kind.exit_code for kind in tree()}
    assert len(set(codes.values())) == len(codes)
    assert all("exit_code" in vars(kind) for kind in codes)
    assert not set(codes.values()) & {0, 130, 143}


@pytest.mark.parametrize("kind", tree())
def test_the_docstring_draws_the_class_below_its_parent_with_its_code(kind: type[ZoomrtError]) -> None:
    depth = len(kind.__mro__) - len(ZoomrtError.__mro__)
    assert errors.__doc__ is not None
    line = rf"^ {{{4 + 2 * depth}}}{kind.__name__} +{'exit' if kind is ZoomrtError else kind.exit_code}\b"
    assert re.search(line, errors.__doc__, re.MULTILINE)


@pytest.mark.parametrize("kind", tree())
def test_the_command_line_prints_one_line_and_exits_with_the_code(
    kind: type[ZoomrtError], capfd: pytest.CaptureFixture[str]
) -> None:
    @click.command("failing")
    def failing() -> None:
        raise example(kind)

    assert run(failing, []) == kind.exit_code
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "error: cannot do it: got 3 apples, need 4. Bring another.\n"


def test_unknown_name_suggests_near_ones_and_lists_all() -> None:
    problem = unknown_name("target", "SM98", ["sm89", "sm86", "cpu"])
    assert isinstance(problem, UsageError)
    assert "Did you mean" in problem.remedy
    assert "sm89" in problem.remedy
    assert "cpu" not in problem.remedy
    assert problem.needed == "one of cpu, sm86, sm89"


def test_unknown_name_far_from_all_suggests_none() -> None:
    assert "Did you mean" not in unknown_name("target", "toaster", ["sm89", "cpu"]).remedy
