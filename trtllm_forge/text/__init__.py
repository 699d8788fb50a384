"""What messages are made of: sizes and durations, and the word that a typo was meant to be."""
