"""The configuration: the schema of ``forge.yaml`` and how each value is found."""
