"""Types of transformers in tiny configurations with random weights: text, vision, audio, and several of these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn

from sweeps.cases import Case

UNTRACEABLE = {"led", "switch-transformers", "nystromformer", "vilt", "encodec"}
"""Types whose graph cannot be had. They are a library of their own for the sweep, which `all` leaves out."""


def cases(*, untraceable: bool = False) -> dict[str, Case]:
    """Return all of them by name: those that can be traced, or those that cannot."""
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
    batched = {"experts_implementation": "batched_mm"}
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
        ("mixtral-batched", "MixtralConfig", "MixtralForCausalLM", {**grouped, "intermediate_size": 64, "num_local_experts": 4, **batched}, text),
        ("qwen2-moe", "Qwen2MoeConfig", "Qwen2MoeForCausalLM", {**grouped, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, **batched}, text),
        ("olmoe", "OlmoeConfig", "OlmoeForCausalLM", {**grouped, "num_experts": 4, "num_experts_per_tok": 2, **batched}, text),
        ("mamba2", "Mamba2Config", "Mamba2ForCausalLM", {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 4, "use_cache": False}, {"input_ids": ids}),
        ("falcon-mamba", "FalconMambaConfig", "FalconMambaForCausalLM", {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "use_cache": False}, {"input_ids": ids}),
        ("recurrent-gemma", "RecurrentGemmaConfig", "RecurrentGemmaForCausalLM", {**small, "num_key_value_heads": 1, "lru_width": 32, "attention_window_size": 8, "num_hidden_layers": 3, "use_cache": False}, text),
        ("rwkv", "RwkvConfig", "RwkvForCausalLM", {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "intermediate_size": 37, "context_length": 32, "use_cache": False}, {"input_ids": ids}),
        ("xlnet", "XLNetConfig", "XLNetModel", {"vocab_size": 99, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 37, "use_mems_eval": False}, text),
        ("xlm", "XLMConfig", "XLMModel", {"vocab_size": 99, "emb_dim": 32, "n_layers": 2, "n_heads": 4}, text),
        ("roformer", "RoFormerConfig", "RoFormerModel", {**small, "embedding_size": 32}, text),
        ("megatron-bert", "MegatronBertConfig", "MegatronBertModel", small, text),
        ("big-bird", "BigBirdConfig", "BigBirdModel", {**small, "attention_type": "original_full"}, text),
        ("convbert", "ConvBertConfig", "ConvBertModel", {**small, "embedding_size": 16}, text),
        ("rembert", "RemBertConfig", "RemBertModel", {**small, "input_embedding_size": 16, "output_embedding_size": 16}, text),
        ("nystromformer", "NystromformerConfig", "NystromformerModel", {**small, "num_landmarks": 4, "segment_means_seq_len": 8}, {"input_ids": ids[:, :8]}),
        ("ibert", "IBertConfig", "IBertModel", small, text),
        ("ernie", "ErnieConfig", "ErnieModel", small, text),
        ("splinter", "SplinterConfig", "SplinterModel", small, text),
        ("layoutlm", "LayoutLMConfig", "LayoutLMModel", small, {**text, "bbox": torch.randint(0, 50, (2, 9, 4)).sort(-1).values}),
        ("codegen", "CodeGenConfig", "CodeGenForCausalLM", {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_ctx": 64, "rotary_dim": 4, "use_cache": False, "bos_token_id": 1, "eos_token_id": 2}, text),
        ("openai-gpt", "OpenAIGPTConfig", "OpenAIGPTLMHeadModel", {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, text),
        ("xglm", "XGLMConfig", "XGLMForCausalLM", {"vocab_size": 99, "d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 37, "use_cache": False, "max_position_embeddings": 64}, text),
        ("biogpt", "BioGptConfig", "BioGptForCausalLM", {**small, "use_cache": False}, text),
        ("persimmon", "PersimmonConfig", "PersimmonForCausalLM", {**small, "use_cache": False}, text),
        ("granite", "GraniteConfig", "GraniteForCausalLM", grouped, text),
        ("glm", "GlmConfig", "GlmForCausalLM", {**grouped, "head_dim": 8}, text),
        ("nemotron", "NemotronConfig", "NemotronForCausalLM", grouped, text),
        ("olmo2", "Olmo2Config", "Olmo2ForCausalLM", grouped, text),
        ("gemma3-text", "Gemma3TextConfig", "Gemma3ForCausalLM", {**grouped, "head_dim": 8}, text),
        ("blenderbot", "BlenderbotConfig", "BlenderbotModel", seq2seq, both),
        ("plbart", "PLBartConfig", "PLBartModel", seq2seq, both),
        ("mt5", "MT5Config", "MT5Model", t5, both),
        ("umt5", "UMT5Config", "UMT5Model", t5, both),
        ("prophetnet", "ProphetNetConfig", "ProphetNetModel", {"vocab_size": 99, "hidden_size": 32, "encoder_ffn_dim": 37, "decoder_ffn_dim": 37, "num_encoder_layers": 2, "num_decoder_layers": 2, "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "use_cache": False, "max_position_embeddings": 64}, both),
        ("speech-to-text", "Speech2TextConfig", "Speech2TextModel", {**seq2seq, "input_feat_per_channel": 8, "conv_channels": 16, "max_source_positions": 64, "max_target_positions": 64}, {"input_features": torch.randn(2, 40, 8), "decoder_input_ids": ids[:, :5]}),
        ("unispeech", "UniSpeechConfig", "UniSpeechModel", audio, wav),
        ("unispeech-sat", "UniSpeechSatConfig", "UniSpeechSatModel", audio, wav),
        ("sew", "SEWConfig", "SEWModel", {**audio, "squeeze_factor": 2}, wav),
        ("wav2vec2-conformer", "Wav2Vec2ConformerConfig", "Wav2Vec2ConformerModel", audio, wav),
        ("deit-distilled", "DeiTConfig", "DeiTForImageClassificationWithTeacher", vision, pixels),
        ("vit-msn", "ViTMSNConfig", "ViTMSNModel", vision, pixels),
        ("yolos", "YolosConfig", "YolosForObjectDetection", {**vision, "image_size": [32, 32], "num_detection_tokens": 5}, pixels),
        ("convnextv2", "ConvNextV2Config", "ConvNextV2Model", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}, pixels),
        ("swinv2", "Swinv2Config", "Swinv2Model", {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4}, pixels),
        ("poolformer", "PoolFormerConfig", "PoolFormerModel", {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}, pixels),
        ("pvt", "PvtConfig", "PvtModel", {"image_size": 32, "hidden_sizes": [16, 16, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 2]}, pixels),
        ("levit", "LevitConfig", "LevitModel", {"image_size": 64, "hidden_sizes": [16, 32, 48], "num_attention_heads": [1, 2, 3], "depths": [1, 1, 1], "key_dim": [8, 8, 8]}, {"pixel_values": torch.randn(2, 3, 64, 64)}),
        ("mobilenet-v1", "MobileNetV1Config", "MobileNetV1Model", {"depth_multiplier": 0.25, "min_depth": 8}, pixels),
        ("mobilenet-v2", "MobileNetV2Config", "MobileNetV2Model", {"depth_multiplier": 0.25, "min_depth": 8}, pixels),
        ("efficientnet", "EfficientNetConfig", "EfficientNetModel", {"image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320}, pixels),
        ("focalnet", "FocalNetConfig", "FocalNetModel", {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 2]}, pixels),
        ("hiera", "HieraConfig", "HieraModel", {"image_size": [32, 32], "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 2]}, {"pixel_values": torch.randn(2, 3, 32, 32), "noise": torch.rand(2, 1)}),
        ("glpn", "GLPNConfig", "GLPNModel", {"hidden_sizes": [16, 16, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 2]}, pixels),
        ("vivit", "VivitConfig", "VivitModel", {**vision, "num_frames": 4, "tubelet_size": [2, 8, 8]}, {"pixel_values": torch.randn(2, 4, 3, 32, 32)}),
        ("timesformer", "TimesformerConfig", "TimesformerModel", {**vision, "num_frames": 4}, {"pixel_values": torch.randn(2, 4, 3, 32, 32)}),
        ("blip-vision", "BlipVisionConfig", "BlipVisionModel", vision, pixels),
        ("siglip", "SiglipConfig", "SiglipModel", {"text_config": small, "vision_config": vision}, {"input_ids": ids, **pixels}),
        ("vilt", "ViltConfig", "ViltModel", {**small, "image_size": 32, "patch_size": 8, "max_image_length": -1}, {**text, **pixels}),
        ("clipseg", "CLIPSegConfig", "CLIPSegModel", {"text_config": small, "vision_config": vision, "projection_dim": 16}, {**text, **pixels}),
        ("perceiver", "PerceiverConfig", "PerceiverModel", {"num_latents": 8, "d_latents": 16, "d_model": 16, "num_self_attends_per_block": 1, "num_self_attention_heads": 2, "num_cross_attention_heads": 2}, {"inputs": torch.randn(2, 9, 16)}),
        ("patchtsmixer", "PatchTSMixerConfig", "PatchTSMixerForPrediction", {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "prediction_length": 4, "d_model": 16, "num_layers": 2}, {"past_values": torch.randn(2, 32, 3)}),
        ("timesfm", "TimesFmConfig", "TimesFmModel", {"patch_length": 8, "context_length": 32, "horizon_length": 8, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}, {"past_values": torch.randn(2, 32), "past_values_padding": torch.zeros(2, 32, dtype=torch.int64), "freq": torch.zeros(2, 1, dtype=torch.int64)}),
        ("decision-transformer", "DecisionTransformerConfig", "DecisionTransformerModel", {"state_dim": 5, "act_dim": 3, "hidden_size": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "max_ep_len": 50}, {"states": torch.randn(2, 4, 5), "actions": torch.randn(2, 4, 3), "rewards": torch.randn(2, 4, 1), "returns_to_go": torch.randn(2, 4, 1), "timesteps": torch.arange(4).expand(2, 4).clone(), "attention_mask": torch.ones(2, 4, dtype=torch.int64)}),
        ("switch-transformers", "SwitchTransformersConfig", "SwitchTransformersEncoderModel", {**t5, "num_experts": 2, "expert_capacity": 8, "num_sparse_encoder_layers": 1}, text),
        ("led", "LEDConfig", "LEDModel", {**{k: v for k, v in seq2seq.items() if k != "max_position_embeddings"}, "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64, "attention_window": 4}, both),
        ("encodec", "EncodecConfig", "EncodecModel", {"num_filters": 4, "hidden_size": 16, "codebook_dim": 16, "codebook_size": 16, "upsampling_ratios": [4, 2], "sampling_rate": 800, "target_bandwidths": [1.0]}, {"input_values": torch.randn(2, 1, 320)}),
    ]  # fmt: skip
    return {
        name: Case(_builder(model, config, options), example)
        for name, config, model, options, example in table
        if (name in UNTRACEABLE) == untraceable
    }


def _builder(model: str, config: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    return lambda: getattr(transformers, model)(getattr(transformers, config)(**options))
