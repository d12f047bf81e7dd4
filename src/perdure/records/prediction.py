"""What a model said about images: frozen, free of torch, rendering to text, JSON-ready data and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, overload

CSV_HEAD = ("name", "rank", "number", "label", "probability")


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model said about one image, the likeliest classes first.

    Attributes:
        name: the image's path, or `image 7` for the seventh.
        labels: the names of the classes; their numbers as text where they have no names.
        probabilities: of each, 0 to 1, or with `activation="none"` what the model gave.
        numbers: of each, counted from 0 as in the model's answer.
    """

    name: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    numbers: tuple[int, ...]

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.labels[0]

    @property
    def probability(self) -> float:
        """That of the likeliest class."""
        return self.probabilities[0]

    @property
    def number(self) -> int:
        """That of the likeliest class."""
        return self.numbers[0]

    def __str__(self) -> str:
        return f"{self.name}: {', '.join(f'{label} {shown(value)}' for label, value in self.ranked())}"

    def ranked(self) -> Iterator[tuple[str, float]]:
        """Give each label with its probability."""
        return zip(self.labels, self.probabilities, strict=True)

    def to_data(self) -> dict[str, Any]:
        """Return it as JSON has it; a value that is not finite is null."""
        return {
            "name": self.name,
            "predictions": [
                {"number": number, "label": label, "probability": value if math.isfinite(value) else None}
                for number, (label, value) in zip(self.numbers, self.ranked(), strict=True)
            ],
        }

    def to_rows(self) -> Iterator[tuple[Any, ...]]:
        """Give a row of a table for each class, as `CSV_HEAD` names the columns."""
        for rank, (number, (label, value)) in enumerate(zip(self.numbers, self.ranked(), strict=True), 1):
            yield self.name, rank, number, label, value


class Skipped(NamedTuple):
    """An image that was left out: its name, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Predictions(Sequence[Prediction]):
    """What a model said about several images, in their order: a sequence of `Prediction`.

    Attributes:
        predictions: one for each image.
        skipped: the images that were left out, and why.
    """

    predictions: tuple[Prediction, ...]
    skipped: tuple[Skipped, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Prediction: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Prediction, ...]: ...

    def __getitem__(self, index: int | slice) -> Prediction | tuple[Prediction, ...]:
        return self.predictions[index]

    def __len__(self) -> int:
        return len(self.predictions)

    def __str__(self) -> str:
        return "\n".join(
            [*map(str, self.predictions), *(f"skipped {image.name}: {image.reason}" for image in self.skipped)]
        )

    def to_data(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {
            "images": [prediction.to_data() for prediction in self.predictions],
            "skipped": [image._asdict() for image in self.skipped],
        }

    def to_csv(self) -> str:
        """Return a table with a row for each image and class, and a head."""
        return csv_text([CSV_HEAD, *(row for prediction in self.predictions for row in prediction.to_rows())])


def csv_text(rows: Iterable[tuple[Any, ...]]) -> str:
    """Return rows of a table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def shown(value: float) -> str:
    """Return a probability for people; what is none, such as a logit, as it is."""
    return f"{100 * value:.1f} %" if 0 <= value <= 1 else f"{value:.4g}"
