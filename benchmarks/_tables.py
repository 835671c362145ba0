"""What the writers of RESULTS.md share: records in, lines of Markdown out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return document


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]] + [""]


def source(document: dict[str, Any]) -> str:
    machine, versions = document["machine"], document["versions"]
    tools = ", ".join(f"{name} {value}" for name, value in versions.items())
    return f"`{document['command']}`, {document['date'][:10]}, {machine['cpu']}, {machine['cores']} cores; {tools}."
