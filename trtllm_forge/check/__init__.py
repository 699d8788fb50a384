"""The linter: reads a model repository once, applies rules, and says what would go wrong.

A rule is a small function from the view of the repository to the places where it is broken;
``rules/`` holds them by noun, ``registry`` lists them, and the docstring of each explains it.
Nothing here prints, and nothing starts a server.
"""

RULES_VERSION = 1
"""Part of the key of the ``check`` stage; raised whenever a rule finds something else."""
