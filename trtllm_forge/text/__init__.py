"""Text for messages: sizes and durations, and the nearest word to a typo."""
