"""`perdure sources`: the kept text of a model's classes, written out for a person to read."""

from __future__ import annotations

import re
from pathlib import Path

import click

from perdure.disk.blobs import unpack
from perdure.disk.faults import translated
from perdure.disk.stored import Stored
from perdure.errors import InputError
from perdure.records.names import printable
from perdure.records.sources import Sources, decode

_ODD = re.compile(r"[^A-Za-z0-9_.-]")


@click.command("sources", short_help="Write out the code that a model was saved with. Nothing of it is run.")
@click.argument("file", type=click.Path())
@click.argument("outdir", type=click.Path(path_type=Path))
def sources_command(file: str, outdir: Path) -> None:
    """Write the sources that FILE keeps into the folder OUTDIR, for a person to read. Nothing of them is run.

    A file has them when it was saved with perdure.save(..., sources=True).

    \b
    Examples:
      perdure sources model.safetensors sources/
    """  # noqa: D301
    found = _sources(file)
    texts = {
        name: source.text for table in (found.code, found.modules) for name, source in table.items() if source.text
    }
    if not texts:
        raise InputError(f"reading {file}: it keeps no sources. They are kept by perdure.save(..., sources=True).")
    with translated("saving", str(outdir)):
        outdir.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            target = outdir / f"{_ODD.sub('_', name).strip('.')[:150]}.py.txt"
            with target.open("x", encoding="utf-8", errors="surrogatepass") as stream:
                stream.write(text)
            click.echo(printable(f"{target}  {source_origin(found, name)}"))


def source_origin(found: Sources, name: str) -> str:
    """Return where the code of that name came from."""
    source = found.code.get(name) or found.modules.get(name)
    return source.origin if source else ""


def _sources(file: str) -> Sources:
    stored = Stored(file)
    try:
        content = unpack(stored.metadata, "sources", stored.where) if stored.manifest else None
        return Sources() if content is None else decode(content, stored.where)
    finally:
        stored.close()
