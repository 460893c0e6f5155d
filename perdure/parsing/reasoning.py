"""The newlines a chat template puts around thinking and tool calls, told apart from the model's own.

Invariant: what is removed is on record with its place, so that the text can be put together again:

    <think>⏎ thoughts ⏎</think>⏎⏎ text ⏎<tool_call> … </tool_call>⏎
    one after <think>, one before </think>, at most two after </think>, one before <tool_call> (Qwen3.5: two), one after
    </tool_call>; one before a <think> that begins the answer
"""

NEWLINES_AFTER = {"reasoning_open": 1, "reasoning_close": 2, "tool_close": 1}


class Framing:
    """Takes the text of one stretch after another; `trimmed` lists (character of the answer, what was removed there).

    `before_call`: how many newlines before a call are the template's; 0: none anywhere.
    """

    def __init__(self, *, before_call: int = 1) -> None:
        self._holds = before_call
        self.trimmed: list[tuple[int, str]] = []
        self._to_drop = 0
        self._held = 0
        self._held_at = -1

    def begin(self, newlines: int) -> None:
        """A stretch starts, at whose beginning so many newlines are the template's."""
        self._to_drop = newlines

    def take(self, text: str, at: int) -> tuple[str, int]:
        """The model's own part of `text`, which starts at character `at`, and where that part starts.

        Newlines at its end are held back.
        """
        while self._to_drop and text:
            if text[0] != "\n":
                self._to_drop = 0
                break
            self.cut("\n", at)
            self._to_drop -= 1
            text, at = text[1:], at + 1
        if not text:
            return "", at
        before, held_at = self.release()
        if before:
            text, at = before + text, held_at
        if self._holds and text[-1] == "\n":
            kept = max(len(text) - self._holds, len(text.rstrip("\n")))
            self._held, self._held_at = len(text) - kept, at + kept
            text = text[:kept]
        return text, at

    def release(self, *, but: int = 0) -> tuple[str, int]:
        """The newlines held back were the model's own, `but` for the last ones: they, and where they stand."""
        size = max(0, self._held - but)
        at, self._held_at = self._held_at, self._held_at + size
        self._held -= size
        return ("\n" * size, at) if size else ("", 0)

    def drop(self) -> None:
        """The newlines held back were the template's."""
        if self._held:
            self.cut("\n" * self._held, self._held_at)
            self._held = 0

    def cut(self, text: str, at: int) -> None:
        """Put on record what is the template's at this place."""
        if self.trimmed and self.trimmed[-1][0] + len(self.trimmed[-1][1]) == at:
            start, before = self.trimmed[-1]
            self.trimmed[-1] = (start, before + text)
        elif text:
            self.trimmed.append((at, text))
