"""The one tree of errors, grouped by what the caller would do about them.

    PerdureError
    ├── InputError               an argument is wrong: change the call
    │   ├── UnsupportedTensorError   a tensor that no perdure file can hold
    │   ├── UnsupportedValueError    a value outside the vocabulary of plain data
    │   ├── UnsupportedModelError    a model that can be kept neither by its classes nor by its graph
    │   ├── UntrustedError           the file names classes or functions that the caller has not permitted
    │   ├── PathError                the path cannot be what this verb writes or reads
    │   ├── MissingTensorError       no tensor of that name (also a KeyError)
    │   └── MismatchError            the file and the model do not fit each other
    ├── FileError                the file is not what it should be: restore or re-create it
    │   ├── FormatError              not a file of a kind that perdure reads
    │   ├── CorruptError             damaged: truncated, altered or inconsistent
    │   │   └── DigestError          whole in form, but the bytes are not those that were saved
    │   ├── ImageError               no image, a damaged one, or one that cannot become what was asked for
    │   ├── LimitError               it asks for more than the limits allow
    │   ├── UnsafeError              it would run something if it were unpickled; perdure ran nothing
    │   └── ProtocolError            written by a later perdure than this one
    ├── StorageError             the system refused: mend the system, then try again
    │   ├── MissingFileError         there is no such file or folder
    │   └── DiskFullError            no room; the message says how many bytes are needed
    ├── DriftError               the code has changed since the save: choose the graph, a migration or the old code
    └── ConflictError            somebody else is writing there: wait, then try again

Every message says what was being done and to which file, tensor or key, what was expected and what was found, and what
to do next. All are picklable. `exit_code` is what the command line returns (the numbers of sysexits.h; `perdure check`
returns its verdict instead).
"""

from __future__ import annotations

from typing import Any


class PerdureError(Exception):
    """Anything that perdure raises on purpose."""

    exit_code = 70

    def __init__(self, message: str = "") -> None:
        """Take a message, in which what cannot be printed, such as half a surrogate pair out of a file, is escaped."""
        super().__init__(message.encode("utf-8", "backslashreplace").decode())


class InputError(PerdureError):
    """An argument is wrong; nothing was read or written."""

    exit_code = 64


class UnsupportedTensorError(InputError):
    """A tensor that no perdure file can hold; the message names it and the reason."""


class UnsupportedValueError(InputError):
    """A value outside the vocabulary of plain data; the message names its place and type."""


class UnsupportedModelError(InputError):
    """A model that can be kept neither by its classes nor by its graph; the message names what stands in the way."""


class UntrustedError(InputError):
    """The file names classes or functions that the caller has not permitted; the message prints the line to add."""

    exit_code = 77


class PathError(InputError):
    """The path cannot be what this verb writes or reads."""


class MissingTensorError(InputError, KeyError):
    """There is no tensor of that name."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class MismatchError(InputError):
    """The file and the model do not fit each other; the message lists every difference.

    Attributes:
        missing: names that the model has and the file lacks.
        unexpected: names that the file has and the model lacks.
        mismatched: names whose shapes or types differ, with the file's and the model's.
        remedy: arguments of `load_weights` with which the file loads; empty where none were found.
    """

    def __init__(
        self,
        message: str,
        *,
        missing: tuple[str, ...] = (),
        unexpected: tuple[str, ...] = (),
        mismatched: dict[str, tuple[str, str]] | None = None,
        remedy: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.missing, self.unexpected = missing, unexpected
        self.mismatched, self.remedy = mismatched or {}, remedy or {}


class FileError(PerdureError):
    """The file is not what it should be."""

    exit_code = 65


class FormatError(FileError):
    """Not a file of a kind that perdure reads."""


class CorruptError(FileError):
    """The file is damaged: truncated, altered or inconsistent."""


class DigestError(CorruptError):
    """The file is whole in form, but its bytes are not those that were saved."""


class ImageError(FileError):
    """No image of a kind that perdure reads, a damaged one, one too large, or one that cannot become what was asked for."""


class LimitError(FileError):
    """The file asks for more than the limits allow."""


class UnsafeError(FileError):
    """The file would run something if it were unpickled; nothing was run. The message names what it would call."""


class ProtocolError(FileError):
    """The file was written by a later perdure than this one."""

    exit_code = 76


class StorageError(PerdureError):
    """The operating system refused to read or write."""

    exit_code = 74


class MissingFileError(StorageError):
    """There is no such file or folder."""

    exit_code = 66


class DiskFullError(StorageError):
    """There is no room for the file; the message says how many bytes are needed."""


class DriftError(PerdureError):
    """A model's classes give other answers than when it was saved, or have changed and nothing proves that they do not."""

    exit_code = 78


class ConflictError(PerdureError):
    """Somebody else is writing there now."""

    exit_code = 75
