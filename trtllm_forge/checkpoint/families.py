"""Properties of decoder families that their ``config.json`` does not state.

Which layers have a bias, how many norms a layer has, whether the output layer is the embedding:
read off the modelling files of Hugging Face transformers 5.5
(``src/transformers/models/<model_type>``) and compared by a test with published parameter counts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FamilyRules:
    """What a family's config does not state; a matching key in the config overrides a rule.

    ``bias`` is for query-key-value, output and MLP; ``bias_key`` names a key that sets all three.
    """

    gated: bool = True
    tied: bool = False
    bias: tuple[bool, bool, bool] = (False, False, False)
    bias_key: str = ""
    lm_head_bias: bool = False
    norm_bias: bool = False
    norms: int = 2
    qk_norm: bool = False
    embedding_norm: bool = False
    learned_positions: bool = False
    extra_positions: int = 0
    rotary: bool = True
    head_dim: int = 0


_GPT2 = FamilyRules(
    gated=False,
    tied=True,
    bias=(True, True, True),
    norm_bias=True,
    learned_positions=True,
    rotary=False,
)
LLAMA = FamilyRules()
FAMILIES = {
    "gpt_bigcode": _GPT2,
    "gpt2": _GPT2,
    "opt": FamilyRules(
        gated=False,
        tied=True,
        bias=(True, True, True),
        bias_key="enable_bias",
        norm_bias=True,
        learned_positions=True,
        extra_positions=2,
        rotary=False,
    ),
    "gptj": FamilyRules(
        gated=False, bias=(False, False, True), lm_head_bias=True, norm_bias=True, norms=1
    ),
    "gpt_neox": FamilyRules(gated=False, bias=(True, True, True), norm_bias=True),
    "bloom": FamilyRules(
        gated=False,
        tied=True,
        bias=(True, True, True),
        norm_bias=True,
        embedding_norm=True,
        rotary=False,
    ),
    "falcon": FamilyRules(gated=False, tied=True, bias_key="bias", norm_bias=True),
    "mpt": FamilyRules(gated=False, tied=True, rotary=False),
    "phi": FamilyRules(
        gated=False, bias=(True, True, True), lm_head_bias=True, norm_bias=True, norms=1
    ),
    "starcoder2": FamilyRules(
        gated=False, tied=True, bias=(True, True, True), bias_key="use_bias", norm_bias=True
    ),
    "stablelm": FamilyRules(norm_bias=True),
    "nemotron": FamilyRules(gated=False, norm_bias=True),
    "llama": LLAMA,
    "mistral": LLAMA,
    "ministral": LLAMA,
    "mixtral": LLAMA,
    "granite": LLAMA,
    "internlm2": LLAMA,
    "phi3": LLAMA,
    "chatglm": FamilyRules(bias=(True, False, False)),
    "qwen": FamilyRules(bias=(True, False, False)),
    "dbrx": LLAMA,
    "deepseek_v2": LLAMA,
    "deepseek_v3": LLAMA,
    "qwen2": FamilyRules(bias=(True, False, False)),
    "qwen2_moe": FamilyRules(bias=(True, False, False)),
    "qwen3": FamilyRules(qk_norm=True, head_dim=128),
    "qwen3_moe": FamilyRules(qk_norm=True),
    "cohere": FamilyRules(tied=True, norms=1),
    "gemma": FamilyRules(tied=True, head_dim=256),
    "gemma2": FamilyRules(tied=True, norms=4, head_dim=256),
    "gemma3_text": FamilyRules(tied=True, norms=4, qk_norm=True, head_dim=256),
}
# Families whose text part is another family's decoder.
TEXT_PARTS = {"gemma3": "gemma3_text", "refinedweb": "falcon", "refinedwebmodel": "falcon"}
