"""The name of the file, apart from the schema, which takes a while to load."""

DEFAULT_CONFIG_NAME = "forge.yaml"
"""What is read in the working folder without being named."""
