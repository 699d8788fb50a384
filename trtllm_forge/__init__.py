"""TRT-LLM Forge: from a Hugging Face checkpoint to a deployable Triton model repository."""

__version__ = "0.1.0"

__all__ = ["__version__"]
