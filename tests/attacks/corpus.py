"""All attacks, each once by its name."""

from __future__ import annotations

from attacks import archives, bombs, folders, gadgets, opcodes, tensors
from attacks.attack import Attack, Corpus

_corpus = Corpus()
for _module in (gadgets, opcodes, bombs, archives, tensors, folders):
    _module.add_to(_corpus)

ATTACKS: dict[str, Attack] = _corpus.attacks
