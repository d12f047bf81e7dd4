"""The models that lie in a folder and in those within it: each file once, those that belong together by their index."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from perdure.disk.faults import translate
from perdure.disk.folder import ANY_SHARD, files_named_in
from perdure.disk.sources import open_source
from perdure.errors import FileError, FormatError, InputError, MissingFileError, StorageError
from perdure.foreign.inert import Use
from perdure.foreign.opening import is_foreign, read_content
from perdure.foreign.pytorch.distributed import METADATA_NAME

_INDEX = ".safetensors.index.json"
_PICKLED_INDEX = ".bin.index.json"
_ENDINGS = """
    .safetensors .pt .pth .bin .ckpt .pkl .pickle .p .npz .npy .gguf .pt2 .ptl .tar .joblib .dill .h5 .hdf5 .keras .onnx .zip
    .7z .distcp .model .th .mar .torch .msgpack .nemo .ot .dat .pdparams .tflite .pb
"""
MODEL_ENDINGS = frozenset(_ENDINGS.split())
"""Files of these endings are models, or pass for some; others are passed over unless their content says so."""


def models_in(folder: Path) -> Iterator[Path]:
    """Give the indexes of models in several files, folders of `torch.distributed.checkpoint`, and each other model file.

    Shards of safetensors are left to their index, whether it names them or a save has left them over, unless what they hold
    is another kind of file; those of pickles stand for themselves too.
    """
    for top, folders, names in os.walk(folder, onerror=_refuse):
        folders.sort()
        taken: set[str] = set()
        shards: set[str] = set()
        if METADATA_NAME in names:
            yield Path(top)
            taken = {name for name in names if name == METADATA_NAME or name.endswith(".distcp")}
        for name in sorted(names):
            if name.endswith((_INDEX, _PICKLED_INDEX)):
                yield Path(top, name)
                taken.add(name)
            if name.endswith(_INDEX):
                shards |= files_named_in(Path(top, name)) | set(filter(ANY_SHARD.fullmatch, names))
        for name in sorted(set(names) - taken):
            if _is_model(Path(top, name), by_name=name not in shards):
                yield Path(top, name)


def _refuse(error: OSError) -> None:
    raise translate(error, "reading", str(error.filename)) from None


def _is_model(path: Path, *, by_name: bool) -> bool:
    """Tell a model, or what passes for one, from the other files that lie beside models.

    Args:
        path: the file.
        by_name: its ending is enough; not so for a shard, which its index speaks for.
    """
    if by_name and path.suffix.lower() in MODEL_ENDINGS:
        return True
    try:
        source = open_source(path)
    except InputError:
        return False
    except MissingFileError:
        return os.path.lexists(path)  # a link that leads nowhere; else a saver has just removed it
    except StorageError:
        return True  # what cannot be opened is said by whoever tries
    uses: list[Use] = []
    try:
        return is_foreign(source) and bool(read_content(source, uses))
    except FormatError:
        return False
    except FileError:
        return True
    finally:
        source.close()
