"""`perdure summary`: what is in a model, as a tree, a table or a page; and how two models differ."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

import perdure
from perdure.cli.output import print_json
from perdure.cli.progress import shown_progress
from perdure.disk.faults import translated
from perdure.records.names import printable
from perdure.records.summary.data import to_data
from perdure.records.summary.rows import down_to
from perdure.records.summary.summary import Summary
from perdure.summaries.comparing import compare
from perdure.summaries.files import summarize_file


class _Sizes(click.ParamType):
    """Sizes of a tensor, with commas between them."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            sizes = tuple(int(size) for size in value.split(","))
        except ValueError:
            sizes = (-1,)
        if min(sizes) < 0:
            self.fail(f"{value!r} are no sizes with commas between them, such as 1,3,224,224", param, ctx)
        return sizes


@click.command("summary", short_help="What is in a model: its modules, parameters and bytes; or how two differ.")
@click.argument("file", type=click.Path())
@click.argument("other", type=click.Path(), required=False)
@click.option("--depth", type=click.IntRange(min=0), default=None, help="Show so many levels below the model.")
@click.option("--prefix", default=None, help="Only what is under these keys or this name, as 'ema' in a checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, named as in what summarize returns.")
@click.option("--markdown", is_flag=True, help="Print a table in Markdown.")
@click.option("--csv", "csv_path", metavar="PATH", default=None, help="Write a line for each module; - prints them.")
@click.option("--html", "html_path", metavar="PATH", default=None, help="Write a page with a treemap; - prints it.")
@click.option("--stats", is_flag=True, help="Read all tensors for statistics of their values.")
@click.option(
    "--input-size", "sizes", type=_Sizes(), multiple=True, help="Shape of an input, e.g. 1,3,224,224; repeatable."
)
@click.option("--convention", default="aten", show_default=True, help="How to count: aten, torchinfo or fvcore.")
@click.option("--optimizer", default=None, help="Simulate a step of training with it: sgd, adam, adamw …")
@click.option("--no-graph", is_flag=True, help="Leave the file's graph alone: no operations, no output shapes.")
@click.pass_context
def summary_command(
    context: click.Context,
    file: str,
    other: str | None,
    depth: int | None,
    prefix: str | None,
    as_json: bool,
    markdown: bool,
    csv_path: str | None,
    html_path: str | None,
    stats: bool,
    sizes: tuple[tuple[int, ...], ...],
    convention: str,
    optimizer: str | None,
    no_graph: bool,
) -> None:
    """Tell what is in FILE, any file or folder that perdure opens, or how OTHER differs from it.

    Headers are read, no tensor is, unless --stats asks for their values, and nothing in a file is run. Where a file of
    perdure's holds a graph, it is followed on tensors without content for output shapes, operations and memory: for the
    saved example, or for --input-size. That needs PyTorch, and so some seconds; --no-graph does without. Of two files, it
    exits with 0 when both are alike, 1 when they differ.

    \b
    Examples:
      perdure summary model.safetensors
      perdure summary --no-graph --depth 2 llama/
      perdure summary --prefix ema checkpoint.pth
      perdure summary --input-size 8,3,224,224 --optimizer adamw model.safetensors
      perdure summary --stats model.gguf
      perdure summary --html page.html --csv table.csv model.pth
      perdure summary --json model.safetensors | jq '.rows[] | {name, n_parameters}'
      perdure summary before.safetensors after.safetensors
    """  # noqa: D301
    if no_graph and (stats or sizes or optimizer):
        raise click.UsageError("--no-graph goes with neither --stats nor --input-size nor --optimizer.")
    if other and (markdown or csv_path or html_path or stats):
        raise click.UsageError(
            "--markdown, --csv, --html and --stats are for one file; of two there is text and --json."
        )
    if sum((as_json, markdown, csv_path == "-", html_path == "-")) > 1:
        raise click.UsageError("only one of --json, --markdown, --csv - and --html - can be printed.")
    followed: dict[str, Any] = {
        "input_size": None if not sizes else sizes[0] if len(sizes) == 1 else sizes,
        "convention": convention,
        "optimizer": optimizer,
        "statistics": stats,
    }
    with shown_progress() as progress:
        read = summarize_file if no_graph else functools.partial(perdure.summarize, **followed, progress=progress)
        found = read(file, prefix=prefix)
    if other:
        _print_comparison(down_to(found, depth), down_to(read(other, prefix=prefix), depth), as_json)
    else:
        _print(down_to(found, depth), as_json, markdown, csv_path, html_path)


def _print_comparison(first: Summary, second: Summary, as_json: bool) -> None:
    """Print how two differ, and exit with what `diff` exits with."""
    found = compare(first, second)
    if as_json:
        print_json({"same": found.same, **msgspec.to_builtins(found)})
    else:
        click.echo(str(found))
    click.get_current_context().exit(0 if found.same else 1)


def _print(summary: Summary, as_json: bool, markdown: bool, csv_path: str | None, html_path: str | None) -> None:
    """Write what goes to files, and print one of the forms; the text where nothing else was asked for."""
    for path, render in ((csv_path, _csv), (html_path, _html)):
        if path is not None:
            _write(path, render(summary))
    if as_json:
        print_json(to_data(summary))
    elif markdown:
        click.echo(_markdown(summary))
    elif csv_path is None and html_path is None:
        _print_text(summary)


def _csv(summary: Summary) -> str:
    from perdure.records.summary.table import to_csv

    return to_csv(summary)


def _markdown(summary: Summary) -> str:
    from perdure.records.summary.table import to_markdown

    return to_markdown(summary)


def _html(summary: Summary) -> str:
    from perdure.records.summary.page import to_html

    return to_html(summary)


def _write(path: str, content: str) -> None:
    """Write a text to a file, or print it."""
    if path == "-":
        click.echo(content, nl=not content.endswith("\n"))
        return
    with translated("writing", path):
        Path(path).write_text(content, encoding="utf-8")
    click.echo(f"wrote {printable(path, 1000)}", err=True)


def _print_text(summary: Summary) -> None:
    """Print the tree in the width of the terminal and in colour, or for a file or a pipe plainly."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if width is None or os.environ.get("NO_COLOR"):
        from perdure.records.summary.text import to_text

        click.echo(to_text(summary, width=width))
        return
    from rich.console import Console

    from perdure.cli.summary_styles import styled

    Console().print(styled(summary, width=width), soft_wrap=True)
