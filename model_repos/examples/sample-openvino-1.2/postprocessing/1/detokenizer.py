"""Token ids to text, piece by piece, equal to decoding them all at once.

The text of a token depends on its neighbours: a character may be spread over tokens, and a
leading space may belong to a word's piece or not. So the ids before are decoded again together
with the new ones, and text that may still change is held back. The ids before the first are
those of the prompt: an answer to "Hello" is " world", with the space.

One case cannot be equal without holding back a whole run of byte tokens: a decoder with byte
fallback makes every byte of a run invalid when one of them is. Characters of such a run that
were complete before the first invalid byte are out by then, and stay as they are.
"""

_REPLACEMENT = "\ufffd"
# A replacement character that a text really holds, as tokens of each kind spell it.
_WRITTEN_REPLACEMENTS = ("ï¿½", "<0xEF><0xBF><0xBD>", _REPLACEMENT)
# UTF-8 spreads a character over at most 4 bytes, so over at most 4 byte-level tokens; a
# longer run of replacement characters is really invalid and will not change any more.
_LONGEST_CHARACTER = 4
# More context than this is cut where that leaves the text as it is.
_LONG_CONTEXT = 16
# Bounds the work on endless invalid bytes; a byte-fallback run longer than this is read anew.
_LONGEST_UNCLEAR_CONTEXT = 64


class TokenText:
    """What one tokenizer makes of ids; shared by all sequences.

    Attributes:
        prompt_start: The ids that the tokenizer puts before every prompt, such as ``<s>``.
        any_prompt: Ids that stand for a prompt that is not known, so that what follows them
            reads as a continuation; empty where the tokenizer has none.
    """

    def __init__(self, tokenizer, *, skip_special_tokens):
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        added = tokenizer.get_added_tokens_decoder() if skip_special_tokens else {}
        self._special_ids = frozenset(id_ for id_, token in added.items() if token.special)
        self.prompt_start = _prompt_start(tokenizer)
        letter = tokenizer.encode("a", add_special_tokens=False).ids
        self.any_prompt = letter if self.decode(letter) == "a" else []

    def decode(self, ids):
        """Return the text of these ids alone."""
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip_special_tokens)

    def audible(self, ids):
        """Return the ids that have a text: an engine's padding and skipped tokens have none."""
        return [id_ for id_ in ids if not self._is_silent(id_)]

    def begins_text(self, ids):
        """Return whether ids begin as a prompt does; false where prompts have no mark."""
        start = self.prompt_start
        return bool(start) and ids[: len(start)] == start

    def ends_unclear(self, ids, text):
        """Return whether ``text``, which ends with these ids, may end inside a character."""
        if not text.endswith(_REPLACEMENT):
            return False
        tokens = map(self._tokenizer.id_to_token, ids[-len("\ufffd".encode()) :])
        return not "".join(tokens).endswith(_WRITTEN_REPLACEMENTS)

    def _is_silent(self, id_):
        if id_ < 0 or id_ in self._special_ids:
            return True
        return self._tokenizer.id_to_token(id_) is None


def _prompt_start(tokenizer):
    whole = tokenizer.encode("a", add_special_tokens=True).ids
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    starts = range(len(whole) - len(plain) + 1)
    return next((whole[:at] for at in starts if whole[at : at + len(plain)] == plain), [])


class IncrementalDetokenizer:
    """Turns the ids of one sequence into text as they come, in time linear in their number."""

    def __init__(self, token_text, prompt_ids=()):
        self._token_text = token_text
        self._context = []  # ids whose text is out already, kept for what follows them
        self._context_text = ""
        self._pending = []  # ids whose text may still change
        self._has_begun = False
        prompt_ids = token_text.audible(prompt_ids)
        if prompt_ids:
            self._pending = prompt_ids
            self._settle(len(prompt_ids), token_text.decode(prompt_ids))

    def push(self, ids):
        """Return the text that ``ids`` add and that no later id can change."""
        if not self._has_begun and self._token_text.begins_text(ids):
            # Not a continuation of the prompt, but a text of its own.
            self._context, self._context_text = [], ""
        self._has_begun = True
        # An id without text must not stand between the bytes of a character.
        self._pending.extend(self._token_text.audible(ids))
        if not self._pending:
            return ""
        text = self._new_text(self._pending)
        if self._token_text.ends_unclear(self._pending, text):
            return self._push_all_but_tail(text)
        return self._settle(len(self._pending), text)

    def finish(self):
        """Return the text still held back; call it once, when the sequence has ended."""
        return self._settle(len(self._pending), self._new_text(self._pending))

    def _push_all_but_tail(self, whole):
        """Settle the longest head of the pending ids that no later id can change."""
        for tail in range(1, min(2 * _LONGEST_CHARACTER, len(self._pending))):
            ids = self._pending[:-tail]
            head = self._new_text(ids)
            # A head that ends on a whole character is safe. So is one that the ids after it
            # left as it was, once they are too many for a character that began in it.
            is_invalid_for_good = tail >= _LONGEST_CHARACTER and whole.startswith(head)
            if is_invalid_for_good or not self._token_text.ends_unclear(ids, head):
                return self._settle(len(ids), head)
        return ""

    def _new_text(self, ids):
        whole = self._token_text.decode(self._context + ids)
        if whole.startswith(self._context_text):
            return whole[len(self._context_text) :]
        # The ids made the bytes before them invalid, whose text is out and stays.
        return self._token_text.decode(ids)

    def _settle(self, count, text):
        """Make ``count`` pending ids, whose text is out with this, the new context."""
        settled, self._pending = self._pending[:count], self._pending[count:]
        context, context_text = self._cut(settled, text)
        if not context_text or text.endswith(_REPLACEMENT):
            # Only the ids before tell what these mean: half a character, or spaces.
            context = (self._context + settled)[-_LONGEST_UNCLEAR_CONTEXT:]
            context_text = self._token_text.decode(context)
        self._context, self._context_text = context, context_text
        return text

    def _cut(self, settled, text):
        """Return the ids that the next ones need before them, and their text."""
        size = _LONG_CONTEXT
        while size < len(settled):
            end = self._token_text.decode(settled[-size:])
            # Cut within a character or a word, the end would read differently.
            if _REPLACEMENT not in end and text.endswith(end):
                return settled[-size:], end
            size *= 2
        return settled, self._token_text.decode(settled)


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
        places = ((text.find(stop), len(stop)) for stop in self._stop_strings)
        found = [(at + length, at) for at, length in places if at >= 0]
        if found:
            self.stopped = True
            self._held = ""
            # The one that was complete first, however the text came in pieces.
            return text[: min(found)[1]]
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
