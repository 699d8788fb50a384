"""Stop and bad words in the contract's form, int32 ``[B, 2, N]``.

Row 0 holds the ids of all words one after another, padded with 0; row 1 holds where each word
ends in row 0, padded with -1. N is the longest row 0 of the batch, at least 1; a request
without the tensor has N = 0.
"""

import numpy as np


def split_words(rows):
    """Return the words of each row as text; empty ones, which old clients send, are dropped."""
    if rows is None:
        return []
    return [[value.decode("utf-8") for value in row if value] for row in rows]


def encode_word_list(rows, ids_of, batch_size):
    """Return the tensor for the words of each row, given the ids of every word."""
    if not rows:
        return np.zeros((batch_size, 2, 0), np.int32)
    flat_rows = []
    for words in rows:
        encoded = [ids_of[word] for word in words if ids_of[word]]
        ids = [token for word in encoded for token in word]
        flat_rows.append((ids, list(np.cumsum([len(word) for word in encoded], dtype=int))))
    width = max(1, *(len(ids) for ids, _ in flat_rows))
    tensor = np.zeros((batch_size, 2, width), np.int32)
    tensor[:, 1, :] = -1
    for row, (ids, ends) in zip(tensor, flat_rows, strict=True):
        row[0, : len(ids)] = ids
        row[1, : len(ends)] = ends
    return tensor
