"""Child process: writes the slow engine's checkpoint, random weights of StarCoder's shape.

python -m scripts.measure.checkpoint DIR
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def write_checkpoint(folder: Path) -> int:
    """Write a GPTBigCode checkpoint of about 86 M parameters and return their number.

    Its tokenizer is the sample's, and the inner width is what fills up the parameters.
    """
    import torch
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

    from trtllm_forge.files.resources import sample_checkpoint_dir

    sample_dir = sample_checkpoint_dir()
    torch.manual_seed(0)
    config = GPTBigCodeConfig(
        vocab_size=4096,
        n_positions=1024,
        n_embd=768,
        n_layer=12,
        n_head=12,
        n_inner=3584,
        multi_query=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPTBigCodeForCausalLM(config).half()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(sample_dir / name, folder / name)
    return int(sum(parameter.numel() for parameter in model.parameters()))


def main() -> None:
    """Write the checkpoint and print its size."""
    print(write_checkpoint(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
