"""The stages of a build, one module and one class each."""
