"""The sample with another tokenizer: the same texts by other token ids.

The ids of ordinary tokens change places, and the rows of the embedding with them. So the model
writes what it wrote, as long as both ends and the weights are of one version; the ids of one
version, given to the weights or the tokenizer of the other, are gibberish.
"""

from __future__ import annotations

import json
import random
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_EMBEDDINGS = ("transformer.wte.weight", "lm_head.weight")


def renumber_tokens(checkpoint_dir: Path, output_dir: Path, seed: int) -> Path:
    """Copy a checkpoint to ``output_dir`` with the ids of its ordinary tokens shuffled."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    shutil.copytree(checkpoint_dir, output_dir)
    path = output_dir / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    special = {token["id"] for token in tokenizer["added_tokens"]}
    vocabulary = tokenizer["model"]["vocab"]
    ordinary = sorted(id_ for id_ in vocabulary.values() if id_ not in special)
    shuffled = ordinary[:]
    random.Random(seed).shuffle(shuffled)
    new_ids = dict(zip(ordinary, shuffled, strict=True))
    tokenizer["model"]["vocab"] = {
        token: new_ids.get(id_, id_) for token, id_ in vocabulary.items()
    }
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    for weights_path in output_dir.glob("*.safetensors"):
        tensors = load_file(weights_path)
        for name in set(_EMBEDDINGS) & set(tensors):
            rows = tensors[name].copy()
            rows[list(new_ids.values())] = tensors[name][list(new_ids)]
            tensors[name] = np.ascontiguousarray(rows)
        save_file(tensors, weights_path, metadata={"format": "pt"})
    return output_dir
