"""Verdicts on what pickles would do, from hand-written opcodes and from real models."""

import contextlib
import functools
import pickle
from collections import defaultdict

import pytest
import torch

from perdure.errors import CorruptError, PerdureError
from perdure.foreign.inert import Named, Use
from perdure.foreign.pickles.verdicts import SEVERITIES, judge, worst
from torch_pickles import interpret_archive, interpret_bytes, saved


def verdict_of(pickled: bytes) -> str:
    uses: list[Use] = []
    with contextlib.suppress(PerdureError):
        interpret_bytes(pickled, uses=uses)
    return worst(judge(uses))


def call(module: str, name: str, args: bytes = b")", after: bytes = b"R.") -> bytes:
    """A pickle of protocol 4, whose names may have dots."""
    texts = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    return b"\x80\x04" + texts + b"\x93" + args + after


NEW = b"\x81."
REFER = b"."

DANGEROUS = {
    "system": call("os", "system", b"\x8c\x01x\x85"), "posix": call("posix", "system"), "nt": call("nt", "system"), "python_2": call("__builtin__", "eval"),
    "commands": call("commands", "getoutput"), "popen": call("subprocess", "Popen", after=NEW), "inst": b"(S'x'\nios\nsystem\n.", "obj": b"(cos\nsystem\nS'x'\no.",
    "new_ex": call("subprocess", "Popen", b")}", b"\x92."), "codecs": call("_codecs", "encode", b"\x8c\x01x\x8c\x05rot13\x86"), "getattr_builtin": call("builtins", "getattr"),
    "function": call("somewhere.deep", "run"), "package": call("pip", "main"), "torch_load": call("torch", "load"), "torch_hub": call("torch.hub", "load"), "numpy_run": call("numpy.testing._private.utils", "runstring"),
    "numpy_reconstruct": call("numpy._core", "_ufunc_reconstruct"), "torch_class": call("torch._C._distributed_c10d", "TCPStore"), "fx": call("torch.fx.graph_module", "reduce_graph_module"),
    "shared_memory": call("torch.multiprocessing.reductions", "rebuild_storage_filename"), "dotted": call("torch.serialization", "os.system"), "dotted_only_named": call("torch.serialization", "os.system", b"", REFER),
    "dotted_class": call("torch.serialization", "subprocess.Popen", after=NEW), "through_dunder": call("some.Where", "Net.__init__.__globals__", b"", REFER), "path_to_library": call("some.subprocess", "Popen"),
    "result_called": call("some.where", "Net", after=b"R)R."), "bound_result": call("functools", "partial", b"cos\nsystem\n\x85", b"R)R."), "partial_holds": call("functools", "partial", b"cos\nsystem\n\x85"),
    "factory_holds": call("collections", "defaultdict", b"cos\nsystem\n\x85"), "class_changed": call("some.where", "Net", b"}", b"b."), "function_changed": call("os", "system", b"}", b"b."),
    "items_of_a_class": call("some.where", "Net", b"NN", b"s."), "extension": b"\x82\x01.", "extension_called": b"\x83\x01\x02)R.", "type_of_three": call("builtins", "type", b"\x8c\x01x)}\x87"),
    "getattr_of_module": call("builtins", "getattr", b"ctorch.serialization\nos\n\x8c\x06system\x86"), "from_type": call("torch._tensor", "_rebuild_from_type_v2", b"(cos\nsystem\nca\nB\n\x8c\x01x\x85Nt"),
    "newobj": call("copyreg", "__newobj__", b"csubprocess\nPopen\n\x85"), "reconstructor": call("copy_reg", "_reconstructor", b"csubprocess\nPopen\ncbuiltins\nobject\nN\x87"),
    "nested_torch": call("torch.storage", "_load_from_bytes", b"C\x01x\x85"), "broken_tail": call("os", "system", b"\x8c\x01x\x85", b"R\xff"), "cut": call("os", "system", b"\x8c\x01x\x85", b"R"), "lambda": call("some.where", "<locals>.f"),
    "short_frame": b"\x80\x04\x95\x03" + bytes(7) + call("os", "system", b"\x8c\x01x\x85")[2:], "long_frame": b"\x80\x04\x95\xff" + bytes(7) + call("os", "system", b"\x8c\x01x\x85")[2:],
    "popped": call("os", "system", b"\x8c\x01x\x85", b"R0N."), "memo_swapped": b"cos\nsystem\nq\x000cbuiltins\nset\n0h\x00S'x'\n\x85R.", "iter_of_object": call("builtins", "iter", b"ca\nB\n)R\x85"), "exec_in_held": call("builtins", "map", b"ca\nb\n]\x86"),
}  # fmt: skip

NEEDS_CODE = {
    "class": call("some.where", "Net", after=NEW), "class_called": call("some.where", "Net"), "main": call("__main__", "Net", after=NEW), "inner_class": call("some.where", "Outer.Inner", after=NEW),
    "function_named": call("some.where", "run", b"", REFER), "activation": call("torch.nn.functional", "relu", b"", REFER), "module": call("torch.nn.modules.linear", "Linear", after=NEW),
    "lower_case_class": call("scipy.sparse._csr", "csr_matrix", after=NEW), "reconstructor": call("sklearn.x", "__pyx_unpickle_Loss"), "pandas": call("pandas.core.indexes.base", "_new_Index"), "cython": call("sklearn.neighbors._kd_tree", "newObj"),
    "method": call("builtins", "getattr", b"csome.where\nNet\n\x8c\x07forward\x86"), "partial": call("functools", "partial", b"csome.where\nLayer\n\x85"), "library_named": call("os", "system", b"", REFER),
    "types_module": call("some.types", "Kind"), "script": call("__torch__.torch.nn.modules.conv.___torch_mangle_1", "Conv2d", after=NEW),
}  # fmt: skip

SAFE = {
    "ordered": call("collections", "OrderedDict"), "python_2_set": call("__builtin__", "set", b"](K\x01e\x85"), "bytes": call("_codecs", "encode", b"\x8c\x01x\x8c\x06latin1\x86"), "type_of_none": call("builtins", "type", b"N\x85"),
    "exception": call("builtins", "ValueError", b"\x8c\x01x\x85"), "size": call("torch", "Size", b")\x85"), "dtype": call("torch", "bfloat16", b"", REFER), "storage": call("torch", "FloatStorage", b"", REFER),
    "old_variable": call("torch.autograd.variable", "Variable"), "namespace": call("argparse", "Namespace", b")", b"\x81}b."), "nothing": b"N.", "defaultdict": pickle.dumps(defaultdict(list)), "partial": pickle.dumps(functools.partial(int, base=2)),
    "compressed": call("torch", "sparse_csr", b"", REFER), "result": call("torch.return_types", "max", b"(NNt}\x86"),
}  # fmt: skip

CASES = [
    (severity, name, pickled)
    for severity, cases in (("dangerous", DANGEROUS), ("needs code", NEEDS_CODE), ("safe", SAFE))
    for name, pickled in cases.items()
]


@pytest.mark.parametrize(
    ("severity", "name", "pickled"), CASES, ids=[f"{severity}-{name}" for severity, name, _ in CASES]
)
def test_verdict(severity, name, pickled):
    assert verdict_of(pickled) == severity


def test_a_judgement_names_what_and_says_why():
    uses = (
        Use(Named("os", "system"), "called"),
        Use(Named("m", "Net"), "instance"),
        Use(Named("torch", "int8"), "named"),
    )
    found = judge(uses)
    assert [judgement.severity for judgement in found] == list(reversed(SEVERITIES))
    assert [str(judgement.what) for judgement in found] == ["os.system", "m.Net", "torch.int8"]
    assert found[0].sentence.startswith("os.system is called; it is of Python's own library")
    assert found[1].sentence == "m.Net is made an instance of; it is code that the file does not hold."
    assert worst([]) == "safe"


def test_names_are_shown_in_ascii_and_short():
    (found,) = judge([Use(Named("e\u202evil" + "x" * 10**6, "f\n"), "called")])
    assert found.sentence.isascii() and len(found.sentence) < 1000 and "\n" not in found.sentence


def test_uses_stand_once_each_and_in_order():
    found = interpret_bytes(pickle.dumps([torch.float32, torch.float32, torch.int8, pickle.PickleError], 2))
    assert [str(use.what) for use in found.uses] == ["torch.float32", "torch.int8", "pickle.PickleError"]
    assert {use.how for use in found.uses} == {"named"}


def test_what_was_found_before_a_fault_is_kept():
    uses: list[Use] = []
    with pytest.raises(CorruptError):
        interpret_bytes(b"cos\nsystem\n(S'x'\ntRX", uses=uses)
    assert uses == [Use(Named("os", "system"), "called")]


@pytest.mark.parametrize("build", [
    lambda: torch.nn.Transformer(8, 2, 1, 1, 8), lambda: torch.nn.LSTM(2, 3), lambda: torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]),
    lambda: torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.ones(1)], 0.1), 2),
])  # fmt: skip
def test_whole_objects_of_torch_need_code_and_no_more(build):
    found = interpret_archive(saved(build()))
    assert worst(judge(found.uses)) == "needs code"


def test_a_state_for_a_logger_changes_one_that_exists():
    import logging

    plain = pickle.dumps(logging.getLogger("x"))
    assert verdict_of(plain) == "safe"
    assert verdict_of(plain[:-1] + b"}\x8c\x08disabled\x88sb.") == "dangerous"
