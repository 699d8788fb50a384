"""The rules, by the noun they are about; a module registers its own when it is imported."""
