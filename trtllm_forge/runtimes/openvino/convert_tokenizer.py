"""Child process that writes ``tokenizer.json`` for a checkpoint with only SentencePiece."""

from __future__ import annotations

import argparse
from pathlib import Path

_CLASSES = {"auto": "AutoTokenizer", "llama": "LlamaTokenizerFast", "t5": "T5TokenizerFast"}


def main() -> None:
    """Convert the tokenizer in one folder and save it in another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer-type", choices=sorted(_CLASSES), default="auto")
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("checkpoint_dir", type=Path)
    parser.add_argument("output_dir", type=Path)
    arguments = parser.parse_args()

    import transformers

    tokenizer_class = getattr(transformers, _CLASSES[arguments.tokenizer_type])
    tokenizer = tokenizer_class.from_pretrained(
        arguments.checkpoint_dir, trust_remote_code=arguments.trust_remote_code
    )
    tokenizer.save_pretrained(arguments.output_dir)


if __name__ == "__main__":
    main()
