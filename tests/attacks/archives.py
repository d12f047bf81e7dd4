"""Zip and tar archives that show one thing to a scanner and another to a loader, or that unpack to more than they should."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable

import numpy as np

from attacks.archiving import Part, archive, torch_parts, torch_zip
from attacks.assembling import call, pickled, plain, tensor
from attacks.attack import DAMAGED, DANGEROUS, NEEDS_CODE, Attack, Corpus, Place
from perdure.errors import CorruptError, FileError, FormatError, LimitError, PerdureError, UnsafeError

GOOD = pickled(plain({"weight": tensor()}), 2)
STORAGE = np.arange(4, dtype="<f4").tobytes()
_Made = Callable[[Place], bytes]


def evil(place: Place) -> bytes:
    """Return the pickle of a state dict that runs something as well."""
    return pickled(plain({"weight": tensor(), "x": call("os:system", place.command)}))


def payload(place: Place) -> bytes:
    """Return a pickle that does nothing else."""
    return pickled(call("os:system", place.command))


def _parts(pickle_bytes: bytes) -> list[Part]:
    return torch_parts(pickle_bytes, {"0": STORAGE})


def _first(pickle_bytes: bytes, **changes: object) -> list[Part]:
    """Return a torch archive whose pickle's entry is described wrongly in some way."""
    parts = _parts(pickle_bytes)
    for field, value in changes.items():
        setattr(parts[0], field, value)
    return parts


def _end64(count: int, size: int, start: int, at: int) -> bytes:
    return struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start) + struct.pack(
        "<4sIQI", b"PK\6\7", 0, at, 1
    )


def _bomb(n_bytes: int, claimed: int | None = None) -> Part:
    return Part("archive/data/0", bytes(n_bytes), 8, n_bytes=claimed)


def _in_zip(content: bytes, name: str = "archive.zip") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr(name, content)
    return file.getvalue()


# Payloads in archives: name, modelled on, live, content, verdicts, errors
PAYLOADS: list[tuple[str, str, str, bool, _Made]] = [
    ("zip: payload", "in a torch archive", "picklescan", True, lambda p: torch_zip(evil(p), {"0": STORAGE})),
    ("zip: payload", "deflated", "scanners that read stored entries", True,
     lambda p: archive(_first(evil(p), method=8))),
    ("zip: payload", "in a TorchScript archive's constants", "TorchScript: constants.pkl", False,
     lambda p: archive([*_parts(GOOD), Part("archive/constants.pkl", payload(p)), Part("archive/code/__torch__.py", b"")])),
    ("zip: second pickle", "a second data.pkl in another folder", "picklescan: which pickle is loaded", False,
     lambda p: archive([*_parts(GOOD), Part("other/data.pkl", payload(p))])),
    ("zip: second pickle", "another pickle beside", "members that nobody reads", False,
     lambda p: archive([*_parts(GOOD), Part("archive/extra.pkl", payload(p))])),
    ("zip: second pickle", "a pickle called data/1", "members that nobody reads", False,
     lambda p: archive([*_parts(GOOD), Part("archive/data/1", payload(p))])),
    ("zip: duplicates", "two data.pkl, benign first", "picklescan: duplicate names", False,
     lambda p: archive([*_parts(GOOD), Part("archive/data.pkl", evil(p))])),
    ("zip: duplicates", "two data.pkl, hostile first", "picklescan: duplicate names", True,
     lambda p: archive([*_parts(evil(p)), Part("archive/data.pkl", GOOD)])),
    ("zip: duplicates", "names that differ in case", "file systems that do not tell them apart", False,
     lambda p: archive([*_parts(GOOD), Part("archive/DATA.PKL", evil(p))])),
    ("zip: duplicates", "names that differ in a dot", "path rules", False,
     lambda p: archive([*_parts(GOOD), Part("archive/./data.pkl", evil(p))])),
    ("zip: names", "local header with another name", "CVE-2025-1944 (picklescan)", True,
     lambda p: archive(_first(evil(p), local_name="archive/data.txt"))),
    ("zip: names", "name with a NUL", "names that end early", False,
     lambda p: archive([*_parts(GOOD), Part("archive/data.pkl\0.txt", evil(p))])),
    ("zip: flags", "encrypted flag", "CVE-2025-1945 (picklescan)", False,
     lambda p: archive(_first(evil(p), flags=1, local_flags=0))),
    ("zip: flags", "encrypted flag in both headers", "CVE-2025-1945 (picklescan)", False,
     lambda p: archive(_first(evil(p), flags=1))),
    ("zip: flags", "flags that mean nothing", "CVE-2025-1945 (picklescan)", True,
     lambda p: archive(_first(evil(p), flags=0x8000))),
    ("zip: flags", "method that differs in the local header", "tampered headers", True,
     lambda p: archive(_first(evil(p), local_method=99))),
    ("zip: flags", "size that differs in the local header", "tampered headers", True,
     lambda p: archive(_first(evil(p), local_n_bytes=1))),
    ("zip: CRC", "wrong CRC of the pickle", "CVE-2025-10156 (picklescan)", True,
     lambda p: archive(_first(evil(p), crc=0x12345678))),
    ("zip: CRC", "wrong CRC of a storage", "CVE-2025-10156 (picklescan)", True,
     lambda p: archive([*_parts(evil(p))[:-2], Part("archive/data/0", STORAGE, crc=7), Part("archive/version", b"3\n")])),
    ("zip: polyglot", "a pickle before the archive", "files of two kinds", True,
     lambda p: archive(_parts(GOOD), prefix=payload(p))),
    ("zip: polyglot", "a pickle before, offsets not moved", "files of two kinds", True,
     lambda p: archive(_parts(GOOD), prefix=payload(p), shifted=False)),
    ("zip: polyglot", "a pickle behind the archive", "files of two kinds", False,
     lambda p: archive(_parts(GOOD), trailing=payload(p))),
    ("zip: polyglot", "a hostile archive behind a benign one", "files of two archives", False,
     lambda p: archive(_parts(GOOD)) + archive(_parts(evil(p)))),
    ("zip: polyglot", "a hostile archive in the comment", "files of two archives", False,
     lambda p: archive(_parts(GOOD), comment=archive(_parts(evil(p))))),
    ("zip: polyglot", "a safetensors file and a pickle", "files of two kinds", False,
     lambda p: (len(body := b"{}").to_bytes(8, "little") + body + payload(p))),
    ("zip: polyglot", "a magic number of 7z, then an archive", "picklescan: routing by 7z", False,
     lambda p: archive(_parts(evil(p)), prefix=b"7z\xbc\xaf\x27\x1c\0\4")),
    ("zip: hidden entry", "an entry that the directory does not list", "readers of local headers", False,
     lambda p: archive([Part("archive/data.pkl", evil(p), listed=False), *_parts(GOOD)])),
    ("zip: hidden entry", "a payload between entries and directory", "gaps", False,
     lambda p: archive(_parts(GOOD), between=evil(p))),
    ("zip: hidden entry", "a payload behind an entry", "gaps", False,
     lambda p: archive([*_parts(GOOD)[:-1], Part("archive/version", b"3\n", padding=evil(p))])),
    ("zip: overlap", "two entries of the same bytes", "overlapping entries", False,
     lambda p: archive([*_parts(GOOD), Part("archive/x.pkl", GOOD, offset=0)])),
    ("zip: within", "an archive in an archive", "scanners that go one level deep", False,
     lambda p: _in_zip(torch_zip(evil(p)))),
    ("zip: within", "a pickle in an archive of others", "scanners that look at names", False,
     lambda p: _in_zip(payload(p), "model.dat")),
    ("zip: Keras", ".keras with a Lambda layer", "CVE-2024-3660, CVE-2025-1550 (Keras)", False,
     lambda p: _keras(p)),
    ("zip: joblib", "joblib's archive", "joblib", False, lambda p: _in_zip(payload(p), "estimator.joblib")),
    ("torch.package", "code in a package", "torch.package", False,
     lambda p: archive([Part("pkg/.data/version", b"6\n"), Part("pkg/.data/extern_modules", b"os\n"),
                        Part("pkg/model/model.pkl", evil(p)), Part("pkg/payload.py", p.source.encode())])),
    (".pt2", "strings that are evaluated", "torch.export evaluates expressions of the file", False,
     lambda p: _pt2(p.source, pickle.dumps({}))),
    (".pt2", "pickled constants", "torch.export falls back to unpickling", False,
     lambda p: _pt2("s0", torch_zip(evil(p)))),
    ("npz", "a pickle in an object array", "CVE-2019-6446 (NumPy)", True, lambda p: _npz(p)),
    ("npz", "a pickle called .npy", "CVE-2019-6446 (NumPy)", True,
     lambda p: archive([Part("weight.npy", payload(p))])),
    ("npy", "a pickle in an object array", "CVE-2019-6446 (NumPy)", True, lambda p: object_array(p)),
]  # fmt: skip


def _keras(place: Place) -> bytes:
    config = (
        b'{"class_name": "Lambda", "config": {"function": {"class_name": "__lambda__", "config": {"code": "4wEA"}}}}'
    )
    return archive(
        [Part("metadata.json", b"{}"), Part("config.json", config), Part("model.weights.h5", b"\x89HDF\r\n\x1a\n")]
    )


def _pt2(expression: str, constants: bytes) -> bytes:
    import json

    program = {
        "graph_module": {"graph": {"nodes": [], "sym_int_values": {"s0": {"as_expr": {"expr_str": expression}}}}}
    }
    return archive(
        [
            Part("model/archive_format", b"pt2"),
            Part("model/archive_version", b"0"),
            Part("model/byteorder", b"little"),
            Part("model/models/model.json", json.dumps(program).encode()),
            Part("model/data/constants/model_constants_config.json", b'{"config": {}}'),
            Part("model/data/sample_inputs/model.pt", constants),
            Part("model/data/weights/weight_0", STORAGE),
        ]
    )


def object_array(place: Place) -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (64 - (len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + payload(place)


def _npz(place: Place) -> bytes:
    return archive([Part("weight.npy", object_array(place))])


Errors = tuple[type[PerdureError], ...]
REFUSED: Errors = (UnsafeError, CorruptError, FormatError)

# Archives without a payload: class, name, content, errors
FORMS: list[tuple[str, str, Callable[[], bytes], Errors]] = [
    ("zip: bomb", "deflated 64 MiB in a storage of 16 bytes", lambda: archive([*_parts(GOOD)[:2], _bomb(2**26)]),
     (CorruptError, LimitError)),
    ("zip: bomb", "deflated to more than it says", lambda: archive([*_parts(GOOD)[:2], _bomb(2**26, 16)]),
     (CorruptError, LimitError)),
    ("zip: bomb", "a claim of 2**40 bytes", lambda: archive([*_parts(GOOD)[:2], _bomb(2**20, 2**32 - 2)]),
     (CorruptError, LimitError)),
    ("zip: bomb", "a deflated pickle of nothing but marks",
     lambda: archive([Part("archive/data.pkl", b"\x80\2" + b"(" * 2**25, 8)]), (CorruptError, LimitError)),
    ("zip: bomb", "twenty thousand entries", lambda: archive([*_parts(GOOD), *[Part(f"archive/x/{n}", b"") for n in
     range(20_000)]]), ()),
    ("zip: bomb", "a claim of sixty-five thousand entries", lambda: archive(_parts(GOOD), n_entries=65_534), (CorruptError,)),
    ("zip: zip64", "a zip64 record that contradicts", lambda: archive(_parts(GOOD), zip64=_end64(1, 1, 1, 1)),
     (CorruptError, FormatError)),
    ("zip: zip64", "a zip64 record of 2**62 entries", lambda: archive(_parts(GOOD), zip64=_end64(2**62, 2**62, 0, 9)),
     (CorruptError, LimitError)),
    ("zip: zip64", "two zip64 fields", lambda: archive(_first(GOOD, extra=struct.pack("<HHQ", 1, 8, 4) * 2)), (CorruptError,)),
    ("zip: paths", "a name with ..", lambda: archive([*_parts(GOOD), Part("archive/../../x", b"x")]), (CorruptError,)),
    ("zip: paths", "an absolute name", lambda: archive([*_parts(GOOD), Part("/etc/cron.d/x", b"x")]), (CorruptError,)),
    ("zip: paths", "a backslash", lambda: archive([*_parts(GOOD), Part("archive\\..\\x", b"x")]), (CorruptError,)),
    ("zip: paths", "a drive", lambda: archive([*_parts(GOOD), Part("C:/x", b"x")]), (CorruptError,)),
    ("zip: paths", "a symbolic link",
     lambda: archive([*_parts(GOOD), Part("archive/data/1", b"/etc/passwd", attributes=0o120777 << 16)]), (CorruptError,)),
    ("zip: ends", "two end records", lambda: archive(_parts(GOOD)) + archive([])[-22:], (CorruptError,)),
    ("zip: ends", "no end record", lambda: archive(_parts(GOOD))[:-22], (CorruptError,)),
    ("zip: ends", "a directory elsewhere", lambda: archive(_parts(GOOD), directory_at=0), (CorruptError,)),
    ("zip: ends", "an end record alone", lambda: archive([]), (FormatError, CorruptError)),
    ("zip: missing", "no storage", lambda: archive(_parts(GOOD)[:2]), (CorruptError,)),
    ("zip: missing", "no pickle", lambda: archive(_parts(GOOD)[1:]), (FormatError, CorruptError)),
    ("zip: method", "an unknown method", lambda: archive(_first(GOOD, method=14)), (FormatError, CorruptError)),
    ("zip: byte order", "an unknown byte order",
     lambda: archive([_parts(GOOD)[0], Part("archive/byteorder", b"middle"), *_parts(GOOD)[2:]]), (CorruptError,)),
]  # fmt: skip


def _tar(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", link: str = "") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for member in ("storages", "tensors"):
            info = tarfile.TarInfo(member)
            body = pickle.dumps(0, 2) + (pickle.dumps([], 2) if member == "storages" else b"")
            info.size = len(body)
            made.addfile(info, io.BytesIO(body))
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, len(content)
        made.addfile(info, io.BytesIO(content))
    return file.getvalue()


TARS: list[tuple[str, str, bool, _Made, tuple[str, ...], Errors]] = [
    ("payload in the pickle of a torch tar", "CVE-2025-32434 (torch: tar files under weights_only)", False,
     lambda p: _tar("pickle", content=payload(p)), (DANGEROUS,), (UnsafeError,)),
    ("tar with a symbolic link", "CVE-2007-4559, CVE-2025-12060", False,
     lambda p: _tar("pickle", tarfile.SYMTYPE, link="/etc/passwd"), (DAMAGED,), (CorruptError, FormatError)),
    ("tar with a hard link", "CVE-2007-4559", False,
     lambda p: _tar("pickle", tarfile.LNKTYPE, link="storages"), (DAMAGED,), (CorruptError, FormatError)),
    ("tar with ..", "CVE-2007-4559", False, lambda p: _tar("../../pickle", content=pickle.dumps({}, 2)), (DAMAGED,),
     (CorruptError, FormatError)),
    ("tar with an absolute name", "CVE-2007-4559", False, lambda p: _tar("/pickle", content=pickle.dumps({}, 2)),
     (DAMAGED,), (CorruptError, FormatError)),
    ("tar with two pickles", "duplicate names", False, lambda p: _tar("storages", content=payload(p)),
     (DAMAGED, DANGEROUS), (CorruptError, FormatError, UnsafeError)),
    ("tar with a device", "special files", False, lambda p: _tar("pickle", tarfile.CHRTYPE), (DAMAGED,),
     (CorruptError, FormatError)),
    ("tar that was cut", "truncation", False, lambda p: _tar("pickle", content=pickle.dumps({}, 2))[:1600], (DAMAGED,),
     (CorruptError, FormatError)),
]  # fmt: skip


_NO_PICKLE = ("a pickle called data/1", "strings that are evaluated")
"""Bytes that nobody unpickles, and texts that nobody evaluates here."""


def add_to(corpus: Corpus) -> None:
    for group, name, after, live, made in PAYLOADS:

        def write(place: Place, made: _Made = made, name: str = name) -> object:
            return place.write("model.npz" if "npz" in name else "model.pt", made(place))

        runs = ("numpy" if group in ("npz", "npy") else "torch") if live else ""
        if name.startswith("a pickle before"):
            runs = "pickle"
        verdicts = (DANGEROUS,) if group == "zip: payload" and live else (DANGEROUS, DAMAGED, NEEDS_CODE)
        errors: Errors = (UnsafeError,) if verdicts == (DANGEROUS,) else (FileError,)
        if name in _NO_PICKLE:
            verdicts, errors = (*verdicts, "safe"), ()
        corpus.add(Attack(f"{group}: {name}", group, after, write, verdicts, errors, runs))  # type: ignore[arg-type]
    for group, name, form, errors in FORMS:

        def shape(place: Place, form: Callable[[], bytes] = form) -> object:
            return place.write("model.pth", form())

        verdicts = (DAMAGED,) if errors else (DAMAGED, "safe")
        corpus.add(Attack(f"{group}: {name}", group, "handling of zip", shape, verdicts, errors))  # type: ignore[arg-type]
    for name, after, _live, made, verdicts, errors in TARS:

        def pack(place: Place, made: _Made = made) -> object:
            return place.write("model.tar", made(place))

        corpus.add(Attack(name, "tar", after, pack, verdicts, errors))  # type: ignore[arg-type]
