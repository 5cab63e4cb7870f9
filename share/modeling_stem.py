"""STEM language models in PyTorch, for `transformers` (AutoModelForCausalLM with trust_remote_code=True).

A Llama decoder (RMSNorm, rotary positions on half-split heads, grouped queries; Qwen2's biases and Qwen3's norms of queries
and keys where the configuration says so) in which the feed-forward layers listed in `stem_layers` read a row of a table,
chosen by the token that stands at the position:

    stem            y = W_d(silu(W_g x) * T[t])
    stem_gate       y = W_d(silu(T[t]) * W_u x)
    stem_additive   y = W_d(silu(W_g x) * (W_u x + T[t]))
    dense           y = W_d(silu(W_g x) * W_u x)            (every other layer)

Written for clarity: tables lie in memory like any weight. Rows are chosen by ids, so `inputs_embeds` is refused.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

VARIANTS = ("dense", "stem", "stem_gate", "stem_additive")
ROPE_TYPES = ("default", "linear", "llama3")


class StemConfig(PretrainedConfig):
    model_type = "stem"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(self, vocab_size=32000, hidden_size=128, intermediate_size=512, num_hidden_layers=6, num_attention_heads=4,
                 num_key_value_heads=None, head_dim=None, max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=10000.0,
                 rope_scaling=None, rope_parameters=None, qkv_bias=False, qk_norm=False, ffn_variant="stem", stem_layers=(),
                 hidden_act="silu", initializer_range=0.02, use_cache=True, tie_word_embeddings=True, **kwargs):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.rms_norm_eps = rms_norm_eps
        # One dictionary under the name that newer releases use; rope_theta and rope_scaling are the older spelling of it.
        self.rope_parameters = dict(rope_parameters or {"rope_theta": rope_theta, **(rope_scaling or {})})
        self.rope_parameters.setdefault("rope_type", "default")
        self.qkv_bias = qkv_bias
        self.qk_norm = qk_norm
        self.ffn_variant = ffn_variant
        self.stem_layers = list(stem_layers)
        self.hidden_act = hidden_act
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        if ffn_variant not in VARIANTS:
            raise ValueError(f"ffn_variant: expected one of {', '.join(VARIANTS)}, found {ffn_variant!r}")
        if self.rope_parameters["rope_type"] not in ROPE_TYPES:
            raise ValueError(f"rope_type: expected one of {', '.join(ROPE_TYPES)}, found {self.rope_parameters['rope_type']!r}")
        if hidden_act != "silu":
            raise ValueError(f"hidden_act: expected silu, found {hidden_act!r}")
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)


class StemRMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rotary_tables(config, position_ids, dtype):
    """Cosines and sines [batch, 1, n, A/2] of position · frequency; frequencies stretched as rope_type says."""
    rope, width = config.rope_parameters, config.head_dim
    kind = torch.float32 if position_ids.device.type == "mps" else torch.float64  # MPS has no float64
    frequency = rope["rope_theta"] ** (-torch.arange(0, width, 2, dtype=kind, device=position_ids.device) / width)
    if rope["rope_type"] == "linear":
        frequency = frequency / rope["factor"]
    elif rope["rope_type"] == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)  # within the original context
        kept = ((turns - low) / (high - low)).clamp(0, 1)  # 1: a high frequency stays, 0: a low one is divided
        frequency = kept * frequency + (1 - kept) * frequency / rope["factor"]
    angle = position_ids[:, None, :, None].to(kind) * frequency
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x, cos, sin):
    """x [batch, heads, n, A]: component i turns with component i + A/2."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def visible(attention_mask, past, queries, keys, device):
    """Which keys each query sees, [batch or 1, 1, queries, keys]: none after itself, and none that is padding."""
    if attention_mask is not None and attention_mask.dim() == 4:
        return attention_mask
    at = past + torch.arange(queries, device=device)[:, None]
    key = torch.arange(keys, device=device)[None]
    mask = (key <= at)[None, None]
    if attention_mask is not None:
        real = F.pad(attention_mask, (0, keys - attention_mask.shape[1])).bool()
        # A padded position sees itself, so that no row of the softmax is empty.
        mask = mask & real[:, None, None, :] | (key == at)[None, None]
    return mask


class StemAttention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.groups = config.num_attention_heads // config.num_key_value_heads
        width, bias = config.hidden_size, config.qkv_bias
        queries, keys = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(width, queries, bias=bias)
        self.k_proj = nn.Linear(width, keys, bias=bias)
        self.v_proj = nn.Linear(width, keys, bias=bias)
        self.o_proj = nn.Linear(queries, width, bias=False)
        if config.qk_norm:
            self.q_norm = StemRMSNorm(self.head_dim, config.rms_norm_eps)
            self.k_norm = StemRMSNorm(self.head_dim, config.rms_norm_eps)
        self.qk_norm = config.qk_norm

    def forward(self, x, cos, sin, attention_mask, cache, past):
        batch, n, _ = x.shape
        q, k, v = (proj(x).view(batch, n, -1, self.head_dim) for proj in (self.q_proj, self.k_proj, self.v_proj))
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = rotate(q.transpose(1, 2), cos, sin), rotate(k.transpose(1, 2), cos, sin), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        k, v = (t.repeat_interleave(self.groups, 1) for t in (k, v))
        mask = visible(attention_mask, past, n, k.shape[2], x.device)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(y.transpose(1, 2).reshape(batch, n, -1))


class StemMLP(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.variant = config.ffn_variant if layer in config.stem_layers else "dense"
        width, inner = config.hidden_size, config.intermediate_size
        if self.variant != "stem_gate":
            self.gate_proj = nn.Linear(width, inner, bias=False)
        if self.variant != "stem":
            self.up_proj = nn.Linear(width, inner, bias=False)
        if self.variant != "dense":
            self.table = nn.Embedding(config.vocab_size, inner)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x, input_ids):
        if self.variant == "stem":
            gate, up = self.gate_proj(x), self.table(input_ids)
        elif self.variant == "stem_gate":
            gate, up = self.table(input_ids), self.up_proj(x)
        elif self.variant == "stem_additive":
            gate, up = self.gate_proj(x), self.up_proj(x) + self.table(input_ids)
        else:
            gate, up = self.gate_proj(x), self.up_proj(x)
        return self.down_proj(F.silu(gate) * up)


class StemDecoderLayer(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.input_layernorm = StemRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = StemAttention(config, layer)
        self.post_attention_layernorm = StemRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = StemMLP(config, layer)

    def forward(self, x, input_ids, cos, sin, attention_mask, cache, past):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, attention_mask, cache, past)
        return x + self.mlp(self.post_attention_layernorm(x), input_ids)


class StemPreTrainedModel(PreTrainedModel):
    config_class = StemConfig
    base_model_prefix = "model"
    _no_split_modules = ["StemDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True

    def resize_token_embeddings(self, *args, **kwargs):
        raise NotImplementedError("a STEM model's tables have one row a token: its vocabulary cannot be resized")


class StemModel(StemPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([StemDecoderLayer(config, layer) for layer in range(config.num_hidden_layers)])
        self.norm = StemRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None,
                output_hidden_states=None, inputs_embeds=None, **kwargs):
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("expected input_ids (rows are chosen by token), found inputs_embeds")
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            position_ids = (past + torch.arange(input_ids.shape[1], device=input_ids.device))[None]
        x = self.embed_tokens(input_ids)
        cos, sin = rotary_tables(self.config, position_ids, x.dtype)
        states = [x]
        for layer in self.layers:
            x = layer(x, input_ids, cos, sin, attention_mask, past_key_values, past)
            states.append(x)
        x = states[-1] = self.norm(x)
        return BaseModelOutputWithPast(last_hidden_state=x, past_key_values=past_key_values if use_cache else None,
                                       hidden_states=tuple(states) if output_hidden_states else None)


class StemForCausalLM(StemPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.model = StemModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, labels=None,
                use_cache=None, logits_to_keep=0, return_dict=None, **kwargs):
        outputs = self.model(input_ids, attention_mask, position_ids, past_key_values, use_cache, **kwargs)
        x = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(x[:, kept])  # 0 keeps all
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size,
                                      num_items_in_batch=kwargs.get("num_items_in_batch"))
        result = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=outputs.past_key_values,
                                        hidden_states=outputs.hidden_states)
        return result.to_tuple() if return_dict is False else result
