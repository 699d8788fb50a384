"""Token ids to text, piece by piece, equal to decoding them all at once.

The text of a token depends on its neighbours: a character may be spread over tokens, and a
leading space may belong to a word's piece or not. So the last few ids are decoded again
together with the new ones, and text that may still change is held back.
"""

_REPLACEMENT = "\ufffd"
# UTF-8 spreads a character over at most 4 bytes, so over at most 4 byte-level tokens; a
# longer run of replacement characters is really invalid and will not change any more.
_LONGEST_CHARACTER = 4


class IncrementalDetokenizer:
    """Turns the ids of one sequence into text as they come, in time linear in their number."""

    def __init__(self, tokenizer, *, skip_special_tokens):
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._context = []  # ids whose text is out already, kept for what follows them
        self._pending = []  # ids whose text may still change

    def push(self, ids):
        """Return the text that ``ids`` add and that no later id can change."""
        self._pending.extend(ids)
        if not self._pending:
            return ""
        text = self._new_text()
        if text.endswith(_REPLACEMENT):
            return self._push_all_but_tail(text)
        self._settle(len(self._pending))
        return text

    def finish(self):
        """Return the text still held back; call it once, when the sequence has ended."""
        if not self._pending:
            return ""
        text = self._new_text()
        self._settle(len(self._pending))
        return text

    def _push_all_but_tail(self, whole):
        """Settle the longest head of the pending ids that no later id can change."""
        everything = self._pending
        for tail in range(1, min(2 * _LONGEST_CHARACTER, len(everything))):
            self._pending = everything[:-tail]
            head = self._new_text()
            # A head that ends on a whole character is safe. So is one that the ids after it
            # left as it was, once they are too many for a character that began in it.
            is_invalid_for_good = tail >= _LONGEST_CHARACTER and whole.startswith(head)
            if not head.endswith(_REPLACEMENT) or is_invalid_for_good:
                self._settle(len(self._pending))
                self._pending = everything[-tail:]
                return head
        self._pending = everything
        return ""

    def _new_text(self):
        whole = self._decode(self._context + self._pending)
        return whole[len(self._decode(self._context)) :]

    def _settle(self, count):
        settled = self._pending[:count]
        self._pending = self._pending[count:]
        if self._decode(settled) or not self._context:
            self._context = settled[-_LONGEST_CHARACTER:]
        else:
            # Special tokens alone have no text: keep what gave the last text.
            self._context = (self._context + settled)[-2 * _LONGEST_CHARACTER :]

    def _decode(self, ids):
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip_special_tokens)


class StopCutter:
    """Cuts text before the first stop string, holding back what may be the start of one."""

    def __init__(self, stop_strings):
        self._stop_strings = [stop for stop in stop_strings if stop]
        self._held = ""
        self.stopped = False

    def push(self, text):
        """Return the text that is certain not to belong to a stop string."""
        if self.stopped:
            return ""
        if not self._stop_strings:
            return text
        text = self._held + text
        found = [at for at in map(text.find, self._stop_strings) if at >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)]
        held = max(_overlap(text, stop) for stop in self._stop_strings)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self):
        """Return the text still held back; the sequence ended without a stop string."""
        text, self._held = self._held, ""
        return "" if self.stopped else text


def _overlap(text, stop):
    """Return the length of the longest end of ``text`` that is a true start of ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
