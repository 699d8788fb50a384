"""See ``tensorrt_llm``."""
