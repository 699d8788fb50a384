"""The names of a repository's models, folders and files, each defined once.

::

    forge.manifest.json
    ensemble/          preprocessing/     tensorrt_llm/      postprocessing/    tensorrt_llm_bls/
                         1/tokenizer/       1/engine/
"""

from __future__ import annotations

MANIFEST_NAME = "forge.manifest.json"

PREPROCESSING = "preprocessing"
CORE = "tensorrt_llm"
POSTPROCESSING = "postprocessing"
ENSEMBLE = "ensemble"
BLS = "tensorrt_llm_bls"

MODELS = (PREPROCESSING, CORE, POSTPROCESSING, ENSEMBLE, BLS)
"""The models of a repository that serves an engine."""

FRONTS = (ENSEMBLE, BLS, CORE)
"""The models that clients call, the most usual first."""

FRONT_MODEL = FRONTS[0]

TOKENIZER_DIR = f"{PREPROCESSING}/1/tokenizer"

ENGINE_DIR = f"{CORE}/1/engine"

CHECKPOINT_DIR = f"{CORE}/1/checkpoint"
"""The folder of the checkpoint in an LLM API repository."""

MEETING_FILE = "rendezvous.py"
"""The module that lets the twin's model take part in an MPI job."""
