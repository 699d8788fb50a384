"""What is known of TensorRT-LLM's releases: images, flags, and who can build what."""
