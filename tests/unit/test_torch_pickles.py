"""Tensors of every kind out of the pickles that PyTorch writes, interpreted, against what PyTorch loads."""

import contextlib
import pickle
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch

import perdure
from perdure.disk.sources import BytesSource
from perdure.errors import CorruptError
from perdure.foreign.inert import Made, Named, Ordered, Storage, Tensor, TypedStorage, Use
from perdure.foreign.pickles.verdicts import judge, worst
from torch_pickles import as_torch, assert_same, interpret_archive, interpret_bytes, saved

WRITTEN_BY_1_13 = Path("/work/shared/data/torch-1.13")
DTYPES = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str)


class Tagged(torch.Tensor):
    pass


def _tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    complex_ = torch.tensor([1 + 2j, 3 - 4j])
    square = torch.eye(4) * torch.tensor([1.0, 0, 3, 4])
    attributed = torch.ones(3)
    attributed.note = "kept by PyTorch"  # pyright: ignore
    parameter = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    parameter.note = 1  # pyright: ignore
    return {
        "empty": torch.empty(0), "scalar": torch.tensor(2.5), "zero_size": torch.empty(3, 0, 2), "leaf": torch.ones(2, requires_grad=True),
        "transposed": base.t(), "view": base[1:, 2:5], "step": base[::2, ::3], "expanded": base[:, :1].expand(4, 9), "tail": base.flatten()[20:],
        "conj": complex_.conj(), "neg": complex_.conj().imag, "chalf": torch.ones(2, dtype=torch.complex32).conj(),
        "parameter": torch.nn.Parameter(base[0]), "attributed": attributed, "attributed_parameter": parameter,
        "coo": square.to_sparse(), "uncoalesced": torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (3,)), "hybrid": torch.ones(3, 2, 2).to_sparse(1),
        "csr": square.to_sparse_csr(), "csc": square.to_sparse_csc(), "bsr": square.to_sparse_bsr((2, 2)), "bsc": square.to_sparse_bsc((2, 2)),
        "qint8": torch.quantize_per_tensor(base, 0.25, 3, torch.qint8), "quint8": torch.quantize_per_tensor(base, 0.5, 0, torch.quint8)[1:].t(),
        "qint32": torch.quantize_per_tensor(base, 0.01, 0, torch.qint32),
        "per_channel": torch.quantize_per_channel(base, torch.rand(6) + 0.1, torch.arange(6), 1, torch.qint8),
        "subclass": torch.ones(2).as_subclass(Tagged), "buffer": torch.nn.Buffer(torch.ones(2)),
    }  # fmt: skip


TENSORS = _tensors()


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_is_the_one_that_torch_loads(name):
    archive = saved({"it": TENSORS[name], "again": TENSORS[name]})
    expected = torch.load(__import__("io").BytesIO(archive), weights_only=False)
    found = interpret_archive(archive)
    assert found.value["it"] is found.value["again"]
    assert_same(found.value["it"], expected["it"])
    needed = ["safe", "needs code"][name == "subclass"]
    assert worst(judge(found.uses)) == needed


def _saved_by_type():
    """Numbers of each type that this PyTorch can save, and the archive."""
    found = {}
    for dtype in DTYPES:
        with contextlib.suppress(RuntimeError, KeyError, AttributeError, TypeError, ValueError):
            tensor = torch.arange(48, dtype=torch.uint8).view(dtype)[1:]
            found[str(dtype)[6:]] = tensor, saved(tensor)
    return found


SAVED = _saved_by_type()


def test_the_common_types_are_among_those_that_can_be_saved():
    assert SAVED.keys() >= {"float32", "bfloat16", "float8_e4m3fn", "int64", "bool", "complex64", "uint16", "complex32"}


@pytest.mark.parametrize("name", SAVED)
def test_every_type(name):
    tensor, archive = SAVED[name]
    if name in ("qint8", "quint8", "qint32"):  # without a scheme PyTorch saves them, and cannot load them again
        with pytest.raises(CorruptError, match="no scheme of quantization"):
            interpret_archive(archive)
        return
    found = interpret_archive(archive).value
    if type(found) is Made:  # sub-byte types: no reader of numbers knows them
        assert name in ("quint4x2", "quint2x4")
        return
    assert found.dtype == name
    content = found.storage.source.read(found.storage.position, found.storage.n_bytes)
    assert content == bytes(range(48)) and found.offset == 1 and found.shape == tuple(tensor.shape)


def test_views_of_one_storage_share_it():
    base = torch.arange(10)
    value = interpret_archive(saved([base, base[3:], base.view(2, 5)])).value
    assert value[0].storage is value[1].storage is value[2].storage
    assert [tensor.offset for tensor in value] == [0, 3, 0]


def test_a_state_dict_keeps_order_and_metadata():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    value = interpret_archive(saved(model.state_dict())).value
    assert type(value) is Ordered and list(value) == list(model.state_dict())
    assert value.attributes["_metadata"]["1"] == {"version": 2}


def test_a_whole_model_is_a_tree_of_records():
    found = interpret_archive(saved(torch.nn.Sequential(torch.nn.Linear(2, 3))))
    assert type(found.value) is Made and found.value.what == Named("torch.nn.modules.container", "Sequential")
    linear = found.value.state["_modules"]["0"]
    assert linear.what.name == "Linear" and not linear.called
    assert linear.state["_parameters"]["weight"].role == "parameter"
    assert Use(linear.what, "instance") in found.uses and worst(judge(found.uses)) == "needs code"


def test_tensors_without_elements_of_their_own_stay_records():
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    value = interpret_archive(saved({"nested": nested, "meta": torch.ones(2, 3, device="meta")})).value
    assert value["nested"].what.name == "_rebuild_nested_tensor"
    buffer, sizes, _, offsets = map(as_torch, value["nested"].args)
    assert buffer.tolist() == [1.0] * 5 and sizes.tolist() == [[2], [3]] and offsets.tolist() == [0, 2]
    assert value["meta"].args == (Named("torch", "float32"), (2, 3), (3, 1), False)


def test_records_of_torch_itself():
    value = interpret_archive(
        saved([torch.Size([1, 2]), torch.device("cuda:1"), torch.bfloat16, torch.sparse_csr])
    ).value
    assert value[0] == (1, 2) and value[1].args == ("cuda", 1)
    assert value[2:] == [Named("torch", "bfloat16"), Named("torch", "sparse_csr")]


def test_plain_pickles_of_tensors_hand_the_file_within_to_its_reader():
    written = pickle.dumps({"w": torch.arange(3.0)})
    seen = []

    def read(octets):
        seen.append(octets)
        return TypedStorage(Storage(BytesSource(bytes(12)), 0, 12), "float32")

    found = interpret_bytes(written, nested=read)
    assert found.value["w"].shape == (3,) and len(seen) == 1 and worst(judge(found.uses)) == "safe"
    unread = interpret_bytes(written)
    assert type(unread.value["w"]) is Made and worst(judge(unread.uses)) == "dangerous"


@pytest.mark.skipif(not WRITTEN_BY_1_13.exists(), reason="the files of PyTorch 1.13 are not here")
@pytest.mark.parametrize("name", ["conv", "lstm", "linear_bn", "embeddingbag", "transformer_encoder", "weight_norm"])
def test_what_1_13_wrote(name):
    archive = (WRITTEN_BY_1_13 / f"{name}.sd.pt").read_bytes()
    found = interpret_archive(archive)
    expected = torch.load(WRITTEN_BY_1_13 / f"{name}.sd.pt", weights_only=True)
    assert list(found.value) == list(expected)
    for key, tensor in expected.items():
        assert_same(found.value[key], tensor)
    assert worst(judge(found.uses)) == "safe"
    whole = interpret_archive((WRITTEN_BY_1_13 / f"{name}.whole.pt").read_bytes())
    assert type(whole.value) is Made and worst(judge(whole.uses)) == "needs code"
    script = interpret_archive((WRITTEN_BY_1_13 / f"{name}.jit.pt").read_bytes())
    assert type(script.value) is Made and worst(judge(script.uses)) == "needs code"


STORAGE = TypedStorage(Storage(BytesSource(bytes(96)), 0, 96), "float32")
IMPOSSIBLE = {
    "beyond": (0, (5, 5), (5, 1)), "offset": (24, (1,), (1,)), "offset_of_none": (25, (0,), (1,)), "stride": (0, (2, 2), (1, 24)),
    "negative_size": (0, (-1,), (1,)), "negative_stride": (1, (2,), (-1,)), "negative_offset": (-1, (2,), (1,)), "bool": (0, (True,), (1,)),
    "float": (0, (1.0,), (1,)), "lengths": (0, (1, 1), (1,)), "huge": (0, (2**62,), (0,)), "product": (0, (2**40, 2**40), (0, 0)),
    "dimensions": (0, (1,) * 65, (1,) * 65), "text": (0, "12", (1,)), "none": (None, (1,), (1,)), "integer": (0, (10**5000,), (1,)),
}  # fmt: skip


class _Tensor:
    def __init__(self, *args):
        self.args = args

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.args


def _pickled_tensor(*view) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return "storage" if obj == "the storage" else None

    buffer = __import__("io").BytesIO()
    Pickler(buffer, 2).dump(_Tensor("the storage", *view))
    return buffer.getvalue()


def test_a_view_that_fits_is_read():
    found = interpret_bytes(_pickled_tensor(4, (4, 5), (5, 1), False, None), persistent=lambda _: STORAGE).value
    assert type(found) is Tensor and found.storage is STORAGE.storage and found.offset == 4


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_views_beyond_their_storage_are_damage(case):
    with pytest.raises(CorruptError, match=r"_rebuild_tensor_v2 are wrong"):
        interpret_bytes(_pickled_tensor(*IMPOSSIBLE[case], False, None), persistent=lambda _: STORAGE)


@pytest.mark.parametrize("storage", ["text", 1, None, (), Storage(BytesSource(b""), 0, 0)])
def test_a_storage_that_is_none_is_damage(storage):
    with pytest.raises(CorruptError, match="the storage of a tensor is a value of type"):
        interpret_bytes(_pickled_tensor(0, (1,), (1,), False, None), persistent=lambda _: storage)


@pytest.mark.parametrize(
    "rest", [(1, None), (None, None), (False, None, {"conj": True, "x": 1}), (False, None, [1])], ids=str
)
def test_flags_that_are_none_are_damage(rest):
    with pytest.raises(CorruptError):
        interpret_bytes(_pickled_tensor(0, (1,), (1,), *rest), persistent=lambda _: STORAGE)


def test_numbers_of_a_quantized_type_without_a_scheme_are_refused(tmp_path):
    """PyTorch itself stops at an internal assertion for such a file."""
    torch.save({"w": torch.zeros(4, dtype=torch.int8)}, tmp_path / "w.pt")
    with ZipFile(tmp_path / "w.pt") as before, ZipFile(tmp_path / "q.pt", "w") as after:
        for name in before.namelist():
            after.writestr(name, before.read(name).replace(b"CharStorage", b"QInt8Storage"))
    with pytest.raises(CorruptError, match="no scheme of quantization"):
        perdure.open(tmp_path / "q.pt")
    assert perdure.check(tmp_path / "q.pt").verdict == "damaged"
