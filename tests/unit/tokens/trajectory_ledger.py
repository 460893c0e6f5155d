"""A small token ledger to test records with: a byte tokenizer, two runs, a tool call, a truncated answer, a compaction."""

import hashlib
from array import array
from collections.abc import Sequence

import msgspec

from perdure.core.experts import ExpertRows, keep
from perdure.core.messages import Message, TextPart, ToolCall, ToolReturn
from perdure.core.tokens import (
    ROLES,
    Cause,
    Finish,
    RendererInfo,
    Segment,
    Span,
    Synthesized,
    TokenCall,
    TokenizerInfo,
    VersionSpan,
    bytes_to_ids,
    floats_to_bytes,
    ids_to_bytes,
)

START, END = 256, 257
SPECIAL = {"<|im_start|>": START, "<|im_end|>": END}


class ByteTokenizer:
    """One id a byte, two control tokens."""

    info = TokenizerInfo("bytes", "ab" * 32, 300, special=SPECIAL)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        names = {token_id: name for name, token_id in SPECIAL.items()}
        return b"".join(names[i].encode() if i in names else bytes([i]) for i in ids).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id])

    def special_id(self, token: str) -> int | None:
        return SPECIAL.get(token)


TOKENIZER = ByteTokenizer()
RENDERER = RendererInfo("chatml", "1", "cd" * 32)


class Ledger:
    """Grows like the server's: `turn` frames messages as ChatML, `call` appends a prompt and what was sampled."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.calls: list[TokenCall] = []
        self.messages: list[Message] = []
        self.streams: dict[str, list[int]] = {}
        self._clock = 1_000

    def now(self) -> int:
        self._clock += 10
        return self._clock

    def begin(self, cause: Cause, *, prompt: list[int] | None = None, conversation: str = "conv-1") -> Segment:
        """A new segment; `prompt` is its first one, which says how much it shares with the segment before."""
        parent = self.segments[-1] if self.segments and cause != "root" else None
        held = self.streams[parent.id] if parent else []
        shared = 0
        while shared < min(len(held), len(prompt or [])) and held[shared] == (prompt or [])[shared]:
            shared += 1
        segment = Segment(
            id=f"segment-{len(self.segments)}",
            conversation_id=conversation,
            agent_id="agent-1",
            index=sum(s.conversation_id == conversation for s in self.segments),
            cause=cause,
            created_us=self.now(),
            parent_segment_id=parent.id if parent else None,
            parent_offset=shared,
            model_handle="sglang/tiny",
            model_name="tiny",
            tokenizer=TOKENIZER.info,
            renderer=RENDERER,
            system_sha256="11" * 32,
            tools_sha256="22" * 32,
        )
        self.segments.append(segment)
        self.streams[segment.id] = []
        return segment

    def said(self, role: str, text: str = "", *, returns: str | None = None) -> Message:
        message = Message(
            id=f"message-{len(self.messages)}",
            role=role,  # type: ignore[arg-type]
            created_us=self.now(),
            content=(TextPart(text),) if text else (),
            tool_returns=(ToolReturn("call-1", "f", "success", returns),) if returns is not None else (),
        )
        self.messages.append(message)
        return message

    def call(
        self,
        segment: Segment,
        pieces: Sequence[tuple[Message | None, str, bool]],
        answer: str,
        *,
        run: str,
        stopped: bool = True,
        synthesized: bool = False,
        tool: tuple[int, int] | None = None,
        versions: tuple[VersionSpan, ...] = (),
        bridge: str = "bridge",
        semantics: str = "raw",
    ) -> TokenCall:
        """`pieces`: (message, text, is content) of the prompt's new ids; text may hold control tokens as scaffold."""
        delta, spans = list[int](), list[Span]()
        for message, text, content in pieces:
            ids = TOKENIZER.encode(text) if content else scaffold(text)
            role = ROLES.index(message.role) if message else 0
            spans.append(Span(len(ids), message.id if message else "", role, content))
            delta += ids
        completion = TOKENIZER.encode(answer) + ([END] if stopped else [])
        stream = self.streams[segment.id]
        said = self.said("assistant", answer)
        if tool is not None:
            name, arguments = "f", '{"x": 1}'
            calls = (ToolCall("call-1", name, arguments),)
            self.messages[-1] = said = Message(
                id=said.id, role="assistant", created_us=said.created_us, tool_calls=calls
            )
        at = len(self.calls)
        call = TokenCall(
            id=f"tokencall-{at}",
            segment_id=segment.id,
            conversation_id=segment.conversation_id,
            agent_id="agent-1",
            run_id=run,
            step_id=f"step-{at}",
            created_us=self.now(),
            delta_ids=ids_to_bytes(delta),
            completion_ids=ids_to_bytes(completion),
            logprobs=floats_to_bytes(logprobs([*stream, *delta], completion)),
            prompt_len=len(stream) + len(delta),
            length=len(completion),
            finish=Finish("stop", END) if stopped else Finish("length"),
            engine="sglang",
            engine_base_url="http://someone:secret@127.0.0.1:30000/path",
            logprob_semantics=semantics,  # type: ignore[arg-type]
            sampling={"temperature": 1.0, "max_new_tokens": len(completion), "stop_token_ids": [END]},
            bridge=bridge,  # type: ignore[arg-type]
            spans=tuple(spans),
            synthesized=(Synthesized(0, 1, "the answer ended without its end-of-turn token"),) if synthesized else (),
            versions=versions,
            assistant_message_id=said.id,
            parse={"tool_calls": [{"span": list(tool), "name": "f", "status": "ok", "id": "call-1"}] if tool else []},
            text_sha256=hashlib.sha256(TOKENIZER.decode(completion).encode()).hexdigest(),
            ended_us=self.now(),
        )
        stream += [*delta, *completion]
        self.calls.append(call)
        return call


def scaffold(text: str) -> list[int]:
    """Template text, control tokens meant."""
    ids: list[int] = []
    while text:
        name = next((name for name in SPECIAL if text.startswith(name)), None)
        ids += [SPECIAL[name]] if name else TOKENIZER.encode(text[0])
        text = text[len(name) if name else 1 :]
    return ids


def logprobs(context: Sequence[int], ids: Sequence[int]) -> list[float]:
    """A model that anyone can run again: each logprob a function of all ids up to its own, as float32."""
    values, before = array("f"), hashlib.sha256(ids_to_bytes(list(context)))
    for token_id in ids:
        before.update(token_id.to_bytes(4, "little"))
        values.append(-int.from_bytes(before.digest()[:4], "little") / 2**30 - 0.01)
    return list(values)


def score(handle: str, ids: list[int], start: int) -> list[float]:
    return logprobs(ids[:start], ids[start:])


def conversation() -> Ledger:
    """Run 1: a question, a tool call, an answer cut short. Run 2: another question; then a compaction, and an answer."""
    ledger = Ledger()
    root = ledger.begin("root")
    system, user = ledger.said("system", "Be brief."), ledger.said("user", "What is f of 1?")
    ledger.call(
        root,
        [*turn(system, "system", "Be brief."), *turn(user, "user", "What is f of 1?"), *ASK],
        '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>',
        run="run-1",
        tool=(0, 61),
        bridge="render",
        versions=(VersionSpan("7", 0, 20), VersionSpan("8", 20, 62)),
    )
    answer = ledger.said("tool", returns="one")
    ledger.call(
        root,
        [(None, "\n", False), *turn(answer, "user", "one"), *ASK],
        "It is on",
        run="run-1",
        stopped=False,
        versions=(VersionSpan("8", 0, 8),),
    )
    again = ledger.said("user", "Once more?")
    ledger.call(
        root,
        [(None, "<|im_end|>", False), (None, "\n", False), *turn(again, "user", "Once more?"), *ASK],
        "One.",
        run="run-2",
        synthesized=True,
        versions=(VersionSpan("8", 0, 5),),
    )
    summary, last = ledger.said("summary", "They asked about f."), ledger.said("user", "Thanks?")
    pieces = [
        *turn(system, "system", "Be brief."),
        *turn(user, "user", "What is f of 1?"),
        *ASK,
        (ledger.messages[2], '<tool_call>\n{"name"', True),
        (None, "<|im_end|>", False),
        (None, "\n", False),
        *turn(summary, "user", "They asked about f."),
        *turn(last, "user", "Thanks?"),
        *ASK,
    ]
    prompt = [i for _, text, content in pieces for i in (TOKENIZER.encode(text) if content else scaffold(text))]
    compacted = ledger.begin("compaction", prompt=prompt)
    ledger.call(compacted, pieces, "Welcome.", run="run-2", bridge="render", versions=(VersionSpan("8", 0, 9),))
    return ledger


ASK: list[tuple[Message | None, str, bool]] = [(None, "<|im_start|>assistant\n", False)]


def turn(message: Message, speaker: str, text: str) -> list[tuple[Message | None, str, bool]]:
    return [(message, f"<|im_start|>{speaker}\n", False), (message, text, True), (message, "<|im_end|>\n", False)]


LAYERS, TOP_K, EXPERTS = 3, 2, 16


def routed(ledger: Ledger, *, upto: int = 2**31) -> Ledger:
    """The same ledger with the routed experts of its first `upto` calls, each row a function of the ids up to its own."""
    seen: dict[str, list[int]] = {}
    held: dict[str, int] = {}
    for at, call in enumerate(ledger.calls[:upto]):
        ids = seen.setdefault(call.segment_id, [])
        ids += [*bytes_to_ids(call.delta_ids), *bytes_to_ids(call.completion_ids)]
        start = held.get(call.segment_id, 0)
        rows = ExpertRows(
            start=start,
            layers=LAYERS,
            top_k=TOP_K,
            dtype="uint8",
            data=b"".join(expert_row(ids, p) for p in range(start, len(ids) - 1)),
            num_experts=EXPERTS,
        )
        held[call.segment_id] = start + rows.count
        ledger.calls[at] = msgspec.structs.replace(call, experts=keep(rows))
    return ledger


def expert_row(ids: Sequence[int], at: int) -> bytes:
    drawn = hashlib.sha256(ids_to_bytes(list(ids[: at + 1]))).digest()
    return bytes(value % EXPERTS for value in drawn[: LAYERS * TOP_K])
