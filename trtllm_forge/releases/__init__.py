"""Facts about TensorRT-LLM's releases: images, tool flags and LLM API arguments."""
