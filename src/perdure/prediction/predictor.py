"""`Predictor`: images in, labels with probabilities out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from perdure.errors import InputError, ProtocolError
from perdure.images.batching import Batch
from perdure.images.geometry import fixed_size
from perdure.images.preprocess import Preprocess
from perdure.models.loading import Form, load
from perdure.models.picturing import pipeline_of
from perdure.models.saving import checked_labels
from perdure.models.trust import Trusted
from perdure.prediction.batch_sizes import BatchSize
from perdure.prediction.calling import Call, call_of
from perdure.prediction.logits import ACTIVATIONS, Activation, probabilities
from perdure.prediction.running import Runner, placed
from perdure.records.origins import origin_of
from perdure.records.prediction import Prediction, Predictions, Skipped
from perdure.records.reports import Info
from perdure.weights.loading import Verify, usable_device
from perdure.weights.opening import Origin

_TOP = 5


class Predictor:
    """A saved classifier that takes images of any kind, with the preprocessing and the labels that its file keeps.

    One `Predictor` may be used by several threads at once: images are prepared side by side, and the model is run by one
    thread at a time.

    Attributes:
        info: what the model's file is, in which form it was loaded, and what has drifted since it was saved.
        preprocess: how images become what the model takes; None where it takes tensors alone.
        labels: the names of the classes, by their numbers; None where they have none.
    """

    info: Info | None
    preprocess: Preprocess | None
    labels: dict[int, str] | None

    def __init__(
        self,
        path: Origin | nn.Module,
        *,
        trusted: Trusted = (),
        device: torch.device | str | int | None = None,
        batch_size: int | Literal["auto"] = "auto",
        preprocess: Any = None,
        labels: Sequence[str] | Mapping[int, str] | None = None,
        activation: Activation = "softmax",
        autocast: torch.dtype | None = None,
        compile: bool = False,
        form: Form = "auto",
        verify: Verify = "checksum",
    ) -> None:
        """Load a model.

        Args:
            path: a file or folder of `perdure.save`; or a module, which is put into eval mode and onto the device.
            trusted: as in `load`; without it the model is loaded from its graph, without any of your code.
            device: where the model shall be; None is the CPU.
            batch_size: how many images the model is given at once. `"auto"` is 16 on a CPU; on a GPU it begins with 32 and
                doubles up to 128 while memory allows; images that keep different sizes go one by one. What does not fit
                into memory is halved and tried again, in any case.
            preprocess: in place of the file's: a `Preprocess`, or what `Preprocess.of` takes. False for none: the model is
                given tensors as they are.
            labels: in place of the file's: names in the order of the classes, or a mapping from their numbers.
            activation: what the model's answers mean: `"softmax"`, the logits of classes of which one is right;
                `"sigmoid"`, logits of classes each for itself; `"none"`, values to be taken as they are, such as
                probabilities. A single answer for each image is how likely the second of two classes is, by the logistic
                function unless `"none"`; with one label alone, how likely that is.
            autocast: a type such as `torch.bfloat16` to compute in, by `torch.autocast`; None for none.
            compile: run the model through `torch.compile`.
            form: as in `load`.
            verify: as in `load`.

        Raises:
            InputError: an argument is wrong, or the model takes something other than one tensor.
            ProtocolError: the file's preprocessing is of a later version than this perdure knows.
            UntrustedError, DriftError, FormatError, CorruptError, StorageError: as `load`.

        Example:
            >>> predictor = perdure.Predictor("model.safetensors")
            >>> print(predictor.predict(["cat.jpg", "dog.jpg"], top=3))
        """
        _check_arguments(activation, autocast, compile)
        where_to = torch.device("cpu") if device is None else usable_device(device)
        options: dict[str, Any] = {"trusted": trusted, "form": form, "verify": verify, "device": where_to}
        model = path if isinstance(path, nn.Module) else load(path, **options)
        origin = origin_of(model)
        self.info = origin.info if origin else None
        self._where = self.info.path if self.info else type(model).__name__
        self.preprocess = _pipeline(self.info, preprocess)
        self.labels = _numbered(labels if labels is not None or self.info is None else self.info.labels)
        self._activation: Activation = activation
        call = call_of(model)
        self._size = BatchSize(batch_size, where_to, _image_bytes(self.preprocess))
        self._n_read = _n_read(self._size, call)
        self._runner = Runner(placed(model, where_to, compile), call, where_to, self._size, autocast, self._where)

    def __repr__(self) -> str:
        return f"<Predictor of {self._where}>"

    def predict(
        self,
        images: Any,
        *,
        top: int = _TOP,
        skip_bad: bool = False,
        input_layout: str | None = None,
        threads: int | None = None,
    ) -> Predictions:
        """Tell what images show.

        Args:
            images: a path, a folder, bytes, a file object, a PIL image, an array or a tensor; or a list of any of these, of
                any sizes. Without preprocessing: a batch of tensors as the model takes it, or a list of single ones.
            top: how many classes to tell of each, the likeliest first.
            skip_bad: leave out images that cannot be read and report them, instead of an error.
            input_layout: `"CHW"` or `"HWC"`, of arrays and tensors.
            threads: how many images are prepared at once; None for as many as there are processors.

        Returns:
            A sequence of a `Prediction` for each image, in order; `.skipped` has those that were left out.

        Raises:
            ImageError: an image cannot be read; the message names it.
            InputError: the file has no preprocessing, and images were given; or the model does not take what comes out.
        """
        batches = list(self.stream(images, top=top, skip_bad=skip_bad, input_layout=input_layout, threads=threads))
        return Predictions(
            tuple(prediction for batch in batches for prediction in batch.predictions),
            tuple(image for batch in batches for image in batch.skipped),
        )

    def stream(
        self,
        images: Any,
        *,
        top: int = _TOP,
        skip_bad: bool = False,
        input_layout: str | None = None,
        threads: int | None = None,
    ) -> Iterator[Predictions]:
        """Tell what images show, batch by batch while they are read, with bounded memory: for large folders and iterators.

        Args:
            images: as in `predict`; or an iterator of them.
            top: as in `predict`.
            skip_bad: as in `predict`.
            input_layout: as in `predict`.
            threads: as in `predict`.

        Yields:
            What `predict` returns, for a batch: its images, and those that were left out since the batch before.

        Raises:
            ImageError, InputError: as `predict`.
        """
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise InputError(f"predicting: top must be a positive number of classes, not {top!r}.")
        options = {"batch_size": self._n_read, "input_layout": input_layout, "threads": threads, "skip_bad": skip_bad}
        batches = self._ready(images) if self.preprocess is None else self.preprocess.batches(images, **options)
        return (self._predicted(batch, top) for batch in batches)

    def _predicted(self, batch: Batch, top: int) -> Predictions:
        skipped = tuple(Skipped(*image) for image in batch.skipped)
        if not len(batch.pixels):
            return Predictions((), skipped)
        likely = probabilities(self._runner.logits(batch.pixels), self._activation, len(self.labels or ()))
        self._check_labels(likely.shape[1])
        values, numbers = likely.sort(dim=1, descending=True, stable=True)
        rows = zip(batch.names, numbers[:, :top].tolist(), values[:, :top].tolist(), strict=True)
        return Predictions(
            tuple(Prediction(name, self._named(of), tuple(p), tuple(of)) for name, of, p in rows), skipped
        )

    def _named(self, numbers: Sequence[int]) -> tuple[str, ...]:
        labels = self.labels or {}
        return tuple(labels.get(number, str(number)) for number in numbers)

    def _check_labels(self, n_classes: int) -> None:
        """See that every label has a class."""
        beyond = [number for number in self.labels or () if not 0 <= number < n_classes]
        if beyond:
            raise InputError(
                f"predicting with {self._where}: it has a label for class {beyond[0]}, and the model tells {n_classes} "
                f"classes apart. Give labels= that fit, or add them with perdure.annotate(path, labels=…)."
            )

    def _ready(self, images: Any) -> Iterator[Batch]:
        """Give tensors that need no preprocessing, batch by batch."""
        found = torch.stack(list(images)) if _are_tensors(images) else images
        if not isinstance(found, torch.Tensor) or found.ndim < 1:
            raise InputError(
                f"predicting with {self._where}: it has no preprocessing, so it takes a batch of tensors alone, not "
                f"{type(images).__name__}. Add one with perdure.annotate(path, preprocess=perdure.Preprocess(…)), or give "
                f"preprocess= here."
            )
        names = [f"image {number}" for number in range(1, len(found) + 1)]
        for start in range(0, len(found), self._n_read):
            stop = start + self._n_read
            yield Batch(found[start:stop], tuple(names[start:stop]))


def _are_tensors(images: Any) -> bool:
    """Tell whether images are single tensors of one shape and type in a list."""
    if not isinstance(images, list | tuple) or not images or not all(isinstance(one, torch.Tensor) for one in images):
        return False
    return len({(one.shape, one.dtype, one.device) for one in images}) == 1


def _check_arguments(activation: object, autocast: object, compiled: object) -> None:
    if activation not in ACTIVATIONS:
        raise InputError(f"predicting: activation must be 'softmax', 'sigmoid' or 'none', not {activation!r}.")
    if autocast is not None and not isinstance(autocast, torch.dtype):
        raise InputError(f"predicting: autocast must be a type such as torch.bfloat16, not {autocast!r}.")
    if not isinstance(compiled, bool):
        raise InputError(f"predicting: compile must be True or False, not {compiled!r}.")


def _pipeline(info: Info | None, given: Any) -> Preprocess | None:
    """Return the preprocessing that was given, or the file's."""
    if given is False:
        return None
    if given is not None or info is None:
        return pipeline_of(given)
    kept = info.manifest.preprocess if info.manifest else None
    if kept is not None and info.preprocess is None:
        raise ProtocolError(
            f"reading {info.path}: a later perdure wrote its preprocessing. Upgrade perdure, or give preprocess= yourself."
        )
    return pipeline_of(info.preprocess)


def _numbered(labels: Any) -> dict[int, str] | None:
    found = checked_labels(labels)
    return dict(enumerate(found)) if isinstance(found, list) else found


def _image_bytes(preprocess: Preprocess | None) -> int | None:
    """Return what a prepared image takes; 1 where images come as they are; None where that depends on the image."""
    if preprocess is None:
        return 1
    spec = preprocess.spec
    size = fixed_size(spec)
    return None if size is None else size[0] * size[1] * spec.n_channels * getattr(torch, spec.dtype).itemsize


def _n_read(size: BatchSize, call: Call) -> int:
    """Return how many images are read at once: as many as the model may be given, in full batches."""
    if call.most is not None and call.most == call.least:
        return max(1, size.most // call.most) * call.most
    return max(size.most, call.least) if call.most is None else min(max(size.most, call.least), call.most)
