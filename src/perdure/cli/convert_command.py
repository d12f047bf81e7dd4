"""`perdure convert`: a file of one kind becomes one of another."""

from __future__ import annotations

import click

from perdure.cli.output import print_json
from perdure.cli.progress import shown_progress
from perdure.conversion.converting import convert
from perdure.records.names import printable


@click.command("convert", short_help="Write a file anew as one of another kind or type, verified.")
@click.argument("source", metavar="SRC", type=click.Path())
@click.argument("target", metavar="DST", type=click.Path())
@click.option("--dtype", default=None, help="Cast floating-point tensors to this type, e.g. bfloat16.")
@click.option("--prefix", default=None, help="Take only the tensors under this name, and leave it out.")
@click.option("--plain", is_flag=True, help="Write a safetensors file without anything of perdure's.")
@click.option("--shard-bytes", type=click.IntRange(min=1), default=None, help="Largest size of a shard, for a folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def convert_command(
    source: str,
    target: str,
    dtype: str | None,
    prefix: str | None,
    plain: bool,
    shard_bytes: int | None,
    as_json: bool,
) -> None:
    """Write the weights of SRC, any file that perdure opens, as DST, whose ending says the kind.

    .safetensors is a file of perdure's, a name without an ending a folder of shards, .pth, .pt, .bin or .ckpt what
    torch.load(weights_only=True) opens, .npz arrays of NumPy. Nothing of SRC is run; DST is in place only once it was
    read back.

    \b
    Examples:
      perdure convert model.pth model.safetensors
      perdure convert model.safetensors small.safetensors --dtype bfloat16
      perdure convert model.safetensors arrays.npz
    """  # noqa: D301
    with shown_progress() as progress:
        report = convert(
            source, target, dtype=dtype, prefix=prefix, plain=plain, shard_bytes=shard_bytes, progress=progress
        )
    if as_json:
        print_json(report)
    else:
        for line in str(report).splitlines():
            click.echo(printable(line, 1000))
