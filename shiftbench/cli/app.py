"""The program: its options, its exit codes, and how a mistake is told."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Benchmark medical image segmentation under domain shift.",
)
console = Console(width=None if sys.stdout.isatty() else 120)
warnings = Console(stderr=True)

FAILED_CASES = 1  # exit code of a run that ended with failures among its rows
BAD_INPUT = 2
INTERRUPTED = 130


class Device(StrEnum):
    """Where to compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Data = Annotated[
    list[str] | None, typer.Option("--data", help="Folder of scans: NAME=PATH, or a root searched by name.")
]
Folder = Annotated[Path, typer.Argument(help="A result folder.")]
