"""`perdure predict`: what images show, by a saved classifier."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

import perdure
from perdure.cli.output import print_json
from perdure.cli.progress import Progress, shown_progress
from perdure.images.sources import sources
from perdure.records.names import printable
from perdure.records.prediction import CSV_HEAD, Prediction, Predictions, Skipped, csv_text, shown


class _BatchSize(click.ParamType):
    """A number of images, or `auto`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        return value if value == "auto" else click.IntRange(min=1).convert(value, param, ctx)


@click.command("predict", short_help="What images show, by a saved classifier.")
@click.argument("file", type=click.Path())
@click.argument("images", nargs=-1, required=True, type=click.Path())
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Tell so many classes of each.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a table with a row for each image and class.")
@click.option("--skip-bad", is_flag=True, help="Leave out images that cannot be read, and say so.")
@click.option("--batch-size", type=_BatchSize(), default="auto", show_default=True, help="Images at once.")
@click.option("--device", default=None, help="Where to run the model, e.g. cuda; the CPU unless given.")
@click.option("--trusted", multiple=True, help="A package or class whose code may be run; else the graph is.")
def predict_command(
    file: str,
    images: tuple[str, ...],
    top: int,
    as_json: bool,
    as_csv: bool,
    skip_bad: bool,
    batch_size: int | str,
    device: str | None,
    trusted: tuple[str, ...],
) -> None:
    """Tell what IMAGES show, files or folders with all images in them, by the classifier in FILE.

    Images are prepared as FILE says, and the model is run from its graph, without any of its code, unless --trusted permits
    that. Its classes have the names that FILE keeps, else their numbers. Exits with 0, or with 1 when images were left out.

    \b
    Examples:
      perdure predict digits.safetensors seven.png
      perdure predict --top 1 --csv model.safetensors photos/ > found.csv
      perdure predict --json model.safetensors cat.jpg | jq '.images[0].predictions[0].label'
    """  # noqa: D301
    if as_json and as_csv:
        raise click.UsageError("only one of --json and --csv can be printed.")
    if trusted:
        sys.path.append(os.getcwd())  # which a script's path does not have
    predictor = perdure.Predictor(file, trusted=trusted, device=device, batch_size=batch_size)  # type: ignore[arg-type]
    with shown_progress("images") as progress:
        batches = predictor.stream(list(images), top=top, skip_bad=skip_bad)
        skipped = _print(batches if progress is None else _watched(batches, images, progress), as_json, as_csv)
    for image in skipped:
        click.echo(printable(f"skipped {image.name}: {image.reason}", 1000), err=True)
    click.get_current_context().exit(1 if skipped else 0)


def _watched(batches: Iterable[Predictions], images: Iterable[str], progress: Progress) -> Iterator[Predictions]:
    """Pass batches on, and tell how many images they had, of how many."""
    n_images = sum(1 for _ in sources(list(images)))
    for batch in batches:
        progress(len(batch) + len(batch.skipped), n_images)
        yield batch


def _print(batches: Iterator[Predictions], as_json: bool, as_csv: bool) -> list[Skipped]:
    """Print what a model said, where the form allows it batch by batch; returns what was left out."""
    if as_json:
        everything = _joined(batches)
        print_json(everything.to_data())
        return list(everything.skipped)
    if not as_csv and sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        everything = _joined(batches)
        _print_table(everything.predictions)
        return list(everything.skipped)
    skipped: list[Skipped] = []
    if as_csv:
        click.echo(csv_text([CSV_HEAD]), nl=False)
    for batch in batches:
        for prediction in batch:
            click.echo(csv_text(prediction.to_rows()) if as_csv else printable(str(prediction), 1000), nl=not as_csv)
        skipped += batch.skipped
    return skipped


def _joined(batches: Iterable[Predictions]) -> Predictions:
    known = list(batches)
    return Predictions(
        tuple(prediction for batch in known for prediction in batch),
        tuple(image for batch in known for image in batch.skipped),
    )


def _print_table(predictions: Iterable[Prediction]) -> None:
    """Print a table in the width of the terminal, with the likeliest class of each image in bold."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "class", "", box=None, header_style="dim", padding=(0, 2, 0, 0))
    for prediction in predictions:
        for rank, (label, value) in enumerate(prediction.ranked()):
            style = "" if rank else "bold"
            name = Text("" if rank else printable(prediction.name, 200), "cyan", overflow="fold")
            table.add_row(name, Text(printable(label, 200), style), Text(shown(value), style, justify="right"))
    Console(width=shutil.get_terminal_size().columns).print(table)
