"""What can be known of a run of pictures before the first is upscaled: each header is read, no pixel decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from zoomrt.cli._common import report
from zoomrt.cli._pictures import Job
from zoomrt.errors import ZoomrtError
from zoomrt.files import shown

if TYPE_CHECKING:
    from zoomrt.runtime.pictures.source import PictureFacts


def check_jobs(
    jobs: Sequence[Job],
    result_of: Callable[[PictureFacts, str], tuple[tuple[int, int], int]],
    failures: list[ZoomrtError],
) -> list[Job]:
    """The jobs that nothing is known to stand against, in their order.

    result_of : for a picture and its name, (height, width) of its result and the bytes that upscaling takes beside
        both. Raises any error.
    failures : gets the errors of all others, which are reported: a picture that cannot be read, a result that cannot be
    made, that its format cannot hold or that memory has no room for.
    """
    from zoomrt.runtime.pictures.images import check_fits, inspect_picture
    from zoomrt.runtime.pictures.room import check_room

    ready: list[Job] = []
    for job in jobs:
        try:
            facts = inspect_picture(job.source)
            size, working = result_of(facts, f"picture {shown(job.source)}")
            check_fits(replace(facts, height=size[0], width=size[1]), job.output)
            check_room(facts, size, job.output, f"cannot upscale {shown(job.source)}", working)
        except ZoomrtError as problem:
            failures.append(problem)
            report(problem)
        else:
            ready.append(job)
    return ready
