"""Every architecture of torchvision and many of transformers, traced, written, read, built and compared with eager.

    python bench/sweep_graph.py torchvision|transformers|zoo [--only TEXT] [--largest MILLIONS]

Each line: whether it exported, whether it equals eager bit for bit at every batch size (else the largest relative
difference), the size of the blob in the file, the time to read and build it, and the forward pass against eager's.
"""

# ruff: noqa: E501 - the table of models reads better in one line each

from __future__ import annotations

import argparse
import base64
import contextlib
import gc
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import zstandard
from torch import nn

from perdure.models.execution import build
from perdure.models.structure import flatten
from perdure.models.tracing import trace
from perdure.records import graph as records

BATCHES = (1, 2, 3, 5)
Case = tuple[str, Callable[[], nn.Module], dict[str, torch.Tensor]]


class Row(NamedTuple):
    """What was measured of one model."""

    name: str
    exported: bool
    difference: float = float("nan")
    blob_bytes: int = 0
    n_nodes: int = 0
    trace_seconds: float = 0
    build_ms: float = 0
    ratio: float = 0
    notes: str = ""


def measure(name: str, make: Callable[[], nn.Module], example: dict[str, torch.Tensor], args: tuple = ()) -> Row:
    """Take one model through all of it."""
    torch.manual_seed(0)
    model = make().eval()
    began = time.perf_counter()
    traced = trace(model, [(args, example)])
    trace_seconds = time.perf_counter() - began
    content = records.encode(traced.graph)
    blob = base64.b64encode(zstandard.ZstdCompressor(level=19).compress(content))
    tensors: dict[str, torch.Tensor] = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
        **traced.constants,
    }
    build(records.decode(content, name), tensors)
    began = time.perf_counter()
    built = build(records.decode(content, name), tensors)
    build_ms = (time.perf_counter() - began) * 1000
    difference = max(compare(model, built, args, example, n) for n in BATCHES)
    return Row(
        name,
        True,
        difference,
        len(blob),
        len(traced.graph.nodes),
        trace_seconds,
        build_ms,
        ratio(model, built, args, example),
        "; ".join(traced.notes),
    )


def resized(value: torch.Tensor, n: int) -> torch.Tensor:
    return value[torch.arange(n) % value.shape[0]] if value.dim() else value


def compare(model: nn.Module, built: nn.Module, args: tuple, example: dict[str, torch.Tensor], n: int) -> float:
    """The largest difference between graph and eager, relative to the largest number of that output."""
    args = tuple(resized(value, n) for value in args)
    example = {key: resized(value, n) for key, value in example.items()}
    with torch.no_grad():
        expected, _ = flatten(model(*args, **example), "eager")
        found, _ = flatten(built(*args, **example), "graph")
    assert len(expected) == len(found), (len(expected), len(found))
    worst = 0.0
    for one, two in zip(expected, found, strict=True):
        if isinstance(one, torch.Tensor):
            assert one.shape == two.shape and one.dtype == two.dtype, (one.shape, two.shape)
            if not torch.equal(one, two) and not torch.equal(one.nan_to_num(), two.nan_to_num()):
                worst = max(worst, float((one - two).abs().amax() / one.abs().amax()))
        else:
            assert one == two, (one, two)
    return worst


def ratio(model: nn.Module, built: nn.Module, args: tuple, example: dict[str, torch.Tensor]) -> float:
    """The time of the graph's forward pass over that of eager: the least CPU time of several, in turn."""
    with torch.no_grad():
        times: dict[Any, list[float]] = {model: [], built: []}
        until = time.perf_counter() + 3
        while len(times[built]) < 3 or (time.perf_counter() < until and len(times[built]) < 200):
            for one in (model, built):
                began = time.process_time()
                one(*args, **example)
                times[one].append(time.process_time() - began)
    return min(times[built]) / min(times[model])


def torchvision_cases() -> Iterator[Case]:
    """All of classification, segmentation and video."""
    declare_operators()
    from torchvision import models

    names = {
        *models.list_models(module=models),
        *models.list_models(module=models.segmentation),
        *models.list_models(module=models.video),
    }
    video = set(models.list_models(module=models.video))
    segmentation = set(models.list_models(module=models.segmentation))
    for name in sorted(names):
        options: dict[str, Any] = {"weights": None}
        if name in segmentation:
            options["weights_backbone"] = None
        if name in ("googlenet", "inception_v3"):
            options["init_weights"] = False
        size = 299 if name == "inception_v3" else 128 if name in segmentation else 224
        shape = (2, 3, size, size)
        if name in video:
            size = 224 if name.startswith(("mvit", "swin3d", "s3d")) else 112
            shape = (2, 3, 16, size, size)
        yield name, lambda n=name, o=options: models.get_model(n, **o), {"": torch.randn(shape)}


def declare_operators() -> None:
    """Declare the operators that torchvision's compiled part would have; its models need none of them."""
    library = torch.library.Library("torchvision", "DEF")
    globals()["_kept"] = library
    for name in ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"):
        for suffix in ("", "_backward", "_symint", "_backward_symint"):
            arguments = "Tensor dets, Tensor scores, float iou_threshold" if name == "nms" else "Tensor a"
            with contextlib.suppress(RuntimeError):
                library.define(
                    f"_{name}{suffix}({arguments}) -> Tensor" if suffix else f"{name}({arguments}) -> Tensor"
                )


def transformers_cases() -> Iterator[Case]:
    """Tiny ones of many types."""
    declare_operators()
    import transformers as t

    torch.manual_seed(0)
    ids = torch.randint(3, 90, (2, 9))
    mask = torch.ones_like(ids)
    text = {"input_ids": ids, "attention_mask": mask}
    pixels = {"pixel_values": torch.randn(2, 3, 32, 32)}
    small = {
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
        "image_size": 32,
        "patch_size": 8,
    }
    grouped = {**small, "num_key_value_heads": 2, "use_cache": False}
    seq2seq = {
        "vocab_size": 99,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 37,
        "decoder_ffn_dim": 37,
        "max_position_embeddings": 64,
        "use_cache": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    }
    t5 = {
        "vocab_size": 99,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 37,
        "num_layers": 2,
        "num_heads": 4,
        "use_cache": False,
        "decoder_start_token_id": 0,
    }
    both = {**text, "decoder_input_ids": ids[:, :5]}
    wav = {"input_values": torch.randn(2, 1600)}
    audio = {
        "vocab_size": 32,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
        "conv_dim": (16, 16, 16),
        "conv_stride": (5, 2, 2),
        "conv_kernel": (10, 3, 3),
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
        "num_feat_extract_layers": 3,
    }
    table: list[tuple[str, str, str, dict[str, Any], dict[str, torch.Tensor]]] = [
        ("bert", "BertConfig", "BertModel", small, text),
        ("bert-mlm", "BertConfig", "BertForMaskedLM", small, text),
        ("roberta", "RobertaConfig", "RobertaForSequenceClassification", small, text),
        ("distilbert", "DistilBertConfig", "DistilBertModel", {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 37}, text),
        ("albert", "AlbertConfig", "AlbertModel", {**small, "embedding_size": 16}, text),
        ("electra", "ElectraConfig", "ElectraModel", {**small, "embedding_size": 16}, text),
        ("mpnet", "MPNetConfig", "MPNetModel", small, text),
        ("deberta-v2", "DebertaV2Config", "DebertaV2Model", {**small, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, text),
        ("camembert", "CamembertConfig", "CamembertModel", small, text),
        ("xlm-roberta", "XLMRobertaConfig", "XLMRobertaForTokenClassification", small, text),
        ("modernbert", "ModernBertConfig", "ModernBertModel", {**small, "reference_compile": False}, text),
        ("funnel", "FunnelConfig", "FunnelModel", {"vocab_size": 99, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 37, "block_sizes": [1, 1], "num_decoder_layers": 1}, text),
        ("longformer", "LongformerConfig", "LongformerModel", {**small, "attention_window": 4}, text),
        ("squeezebert", "SqueezeBertConfig", "SqueezeBertModel", {**small, "embedding_size": 32, "intermediate_size": 64}, text),
        ("fnet", "FNetConfig", "FNetModel", small, {"input_ids": ids}),
        ("gpt2", "GPT2Config", "GPT2LMHeadModel", {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False, "bos_token_id": 1, "eos_token_id": 2}, text),
        ("gpt-neo", "GPTNeoConfig", "GPTNeoForCausalLM", {"vocab_size": 99, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64, "use_cache": False, "bos_token_id": 1, "eos_token_id": 2}, text),
        ("gpt-neox", "GPTNeoXConfig", "GPTNeoXForCausalLM", {**small, "use_cache": False}, text),
        ("gptj", "GPTJConfig", "GPTJForCausalLM", {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4, "use_cache": False, "bos_token_id": 1, "eos_token_id": 2}, text),
        ("opt", "OPTConfig", "OPTForCausalLM", {**small, "ffn_dim": 37, "word_embed_proj_dim": 32, "use_cache": False}, text),
        ("bloom", "BloomConfig", "BloomForCausalLM", {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4, "use_cache": False}, text),
        ("llama", "LlamaConfig", "LlamaForCausalLM", grouped, text),
        ("mistral", "MistralConfig", "MistralForCausalLM", {**grouped, "sliding_window": 4}, text),
        ("qwen2", "Qwen2Config", "Qwen2ForCausalLM", grouped, text),
        ("qwen3", "Qwen3Config", "Qwen3ForCausalLM", {**grouped, "head_dim": 8}, text),
        ("gemma", "GemmaConfig", "GemmaForCausalLM", {**grouped, "head_dim": 8}, text),
        ("gemma2", "Gemma2Config", "Gemma2ForCausalLM", {**grouped, "head_dim": 8}, text),
        ("phi", "PhiConfig", "PhiForCausalLM", grouped, text),
        ("phi3", "Phi3Config", "Phi3ForCausalLM", grouped, text),
        ("falcon", "FalconConfig", "FalconForCausalLM", {**small, "use_cache": False}, text),
        ("stablelm", "StableLmConfig", "StableLmForCausalLM", grouped, text),
        ("olmo", "OlmoConfig", "OlmoForCausalLM", grouped, text),
        ("cohere", "CohereConfig", "CohereForCausalLM", grouped, text),
        ("starcoder2", "Starcoder2Config", "Starcoder2ForCausalLM", grouped, text),
        ("mixtral", "MixtralConfig", "MixtralForCausalLM", {**grouped, "intermediate_size": 64, "num_local_experts": 4}, text),
        ("mamba", "MambaConfig", "MambaForCausalLM", {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "use_cache": False}, {"input_ids": ids}),
        ("t5", "T5Config", "T5ForConditionalGeneration", t5, both),
        ("t5-encoder", "T5Config", "T5EncoderModel", t5, text),
        ("bart", "BartConfig", "BartForConditionalGeneration", seq2seq, both),
        ("mbart", "MBartConfig", "MBartModel", seq2seq, both),
        ("marian", "MarianConfig", "MarianMTModel", seq2seq, both),
        ("pegasus", "PegasusConfig", "PegasusModel", seq2seq, both),
        ("m2m100", "M2M100Config", "M2M100Model", seq2seq, both),
        ("whisper", "WhisperConfig", "WhisperForConditionalGeneration", {**seq2seq, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 20, "suppress_tokens": None, "begin_suppress_tokens": None}, {"input_features": torch.randn(2, 8, 40), "decoder_input_ids": ids[:, :5]}),
        ("wav2vec2", "Wav2Vec2Config", "Wav2Vec2ForCTC", audio, wav),
        ("hubert", "HubertConfig", "HubertModel", audio, wav),
        ("wavlm", "WavLMConfig", "WavLMModel", audio, wav),
        ("data2vec-audio", "Data2VecAudioConfig", "Data2VecAudioModel", {**audio, "conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 2}, wav),
        ("ast", "ASTConfig", "ASTForAudioClassification", {**vision, "max_length": 32, "num_mel_bins": 16, "frequency_stride": 8, "time_stride": 8}, {"input_values": torch.randn(2, 32, 16)}),
        ("vit", "ViTConfig", "ViTForImageClassification", vision, pixels),
        ("deit", "DeiTConfig", "DeiTModel", vision, pixels),
        ("beit", "BeitConfig", "BeitModel", vision, pixels),
        ("dinov2", "Dinov2Config", "Dinov2Model", vision, pixels),
        ("swin", "SwinConfig", "SwinModel", {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4}, pixels),
        ("convnext", "ConvNextConfig", "ConvNextForImageClassification", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}, pixels),
        ("resnet", "ResNetConfig", "ResNetForImageClassification", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}, pixels),
        ("mobilevit", "MobileViTConfig", "MobileViTModel", {"image_size": 32, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 24, 32, 40, 48]}, pixels),
        ("segformer", "SegformerConfig", "SegformerForSemanticSegmentation", {"hidden_sizes": [16, 16, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 2], "decoder_hidden_size": 16}, pixels),
        ("siglip-vision", "SiglipVisionConfig", "SiglipVisionModel", vision, pixels),
        ("clip", "CLIPConfig", "CLIPModel", {"text_config": small, "vision_config": vision, "projection_dim": 16}, {**text, **pixels}),
        ("depth-anything-dpt", "DPTConfig", "DPTModel", {**vision, "backbone_out_indices": [0, 1], "neck_hidden_sizes": [8, 8]}, pixels),
        ("videomae", "VideoMAEConfig", "VideoMAEForVideoClassification", {**vision, "num_frames": 4, "tubelet_size": 2}, {"pixel_values": torch.randn(2, 4, 3, 32, 32)}),
        ("regnet", "RegNetConfig", "RegNetModel", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 4}, pixels),
        ("patchtst", "PatchTSTConfig", "PatchTSTForPrediction", {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "prediction_length": 4, "d_model": 16, "num_hidden_layers": 2, "num_attention_heads": 2}, {"past_values": torch.randn(2, 32, 3)}),
    ]  # fmt: skip
    for name, config, model, options, example in table:
        yield name, lambda c=config, m=model, o=options: getattr(t, m)(getattr(t, c)(**o)), example


def run(cases: Iterator[Case], only: str, largest: float) -> list[Row]:
    rows: list[Row] = []
    for name, make, example in cases:
        if only and not any(part in name for part in only.split(",")):
            continue
        try:
            if n_parameters(make) > largest * 1e6:
                continue
            args = (example[""],) if "" in example else ()
            row = measure(name, make, {} if "" in example else example, args)
        except Exception as error:
            if only:
                traceback.print_exc()
            row = Row(name, False, notes=f"{type(error).__name__}: {str(error)[:300]}")
        rows.append(row)
        print(line(row), flush=True)
        gc.collect()
    return rows


def n_parameters(make: Callable[[], nn.Module]) -> int:
    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in make().parameters())
    except Exception:  # it reads numbers while it is made
        return 0


def line(row: Row) -> str:
    if not row.exported:
        return f"{row.name:28} FAILED  {row.notes}"
    equal = "equal" if row.difference == 0 else f"{row.difference:.1e}"
    return (
        f"{row.name:28} {equal:8} {row.n_nodes:5} nodes {row.blob_bytes:6} B  trace {row.trace_seconds:5.1f} s  build "
        f"{row.build_ms:6.1f} ms  ×{row.ratio:.3f}  {row.notes}"
    )


def summary(rows: list[Row]) -> str:
    done = [row for row in rows if row.exported]
    if not done:
        return "nothing exported"
    equal = sum(row.difference == 0 for row in done)
    return (
        f"{len(done)} of {len(rows)} exported, {equal} equal bit for bit, the others within "
        f"{max(row.difference for row in done):.1e}; medians: blob {statistics.median(r.blob_bytes for r in done):.0f} B, "
        f"build {statistics.median(r.build_ms for r in done):.1f} ms, forward ×"
        f"{statistics.median(r.ratio for r in done):.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("which", choices=["torchvision", "transformers"])
    parser.add_argument("--only", default="")
    parser.add_argument("--largest", type=float, default=1e9)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    cases = {"torchvision": torchvision_cases, "transformers": transformers_cases}[options.which]()
    print(summary(run(cases, options.only, options.largest)))


if __name__ == "__main__":
    sys.exit(main())
