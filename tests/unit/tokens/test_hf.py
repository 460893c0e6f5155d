"""A tokenizer spells out what users write and knows the bytes of every id."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from perdure.tokens.hf import from_json
from tests.doubles.conversations import HOSTILE, texts
from tests.doubles.tokenizers import MARKUP, SPECIAL, small_tokenizer, small_tokenizer_json


@given(texts)
def test_text_never_becomes_a_control_token_and_decodes_to_itself(text: str) -> None:
    tokenizer = small_tokenizer()
    ids = tokenizer.encode(text)
    assert set(ids).isdisjoint(tokenizer.info.special.values())
    assert tokenizer.decode(ids) == text.replace("\udc80", "\ufffd")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_spelt_out(text: str) -> None:
    tokenizer = small_tokenizer()
    assert tokenizer.decode(tokenizer.encode(f"a{text}b")) == f"a{text}b"
    assert len(tokenizer.encode(text)) > 1


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",)).filter(lambda char: char not in "<>|"), max_size=40))
@settings(deadline=None)
def test_ordinary_text_has_the_models_own_ids(text: str) -> None:
    own = Tokenizer.from_str(small_tokenizer_json().decode())
    assert small_tokenizer().encode(text) == own.encode(text, add_special_tokens=False).ids


def test_a_template_is_split_at_its_control_tokens() -> None:
    tokenizer = small_tokenizer()
    start, end = tokenizer.special_id("<|im_start|>"), tokenizer.special_id("<|im_end|>")
    assert tokenizer.split("<|im_start|>user\nhi<|im_end|>\n") == [start, "user\nhi", end, "\n"]
    assert tokenizer.split("") == []
    assert set(tokenizer.info.special) == {*SPECIAL, *MARKUP}
    assert tokenizer.special_id("user") is None


def test_added_words_that_are_no_markup_stay_text() -> None:
    engine = Tokenizer.from_str(small_tokenizer_json().decode())
    engine.add_tokens([AddedToken(text, special=False) for text in ("Perdure", "    ", "</td>")])
    tokenizer = from_json(engine.to_str().encode(), name="words")
    ids = tokenizer.encode("Perdure    </td>x")
    assert ids == engine.encode("Perdure    </td>x").ids
    assert [tokenizer.token_bytes(one) for one in ids[:3]] == [b"Perdure", b"    ", b"</td>"]
    assert "Perdure" not in tokenizer.info.special


def test_every_byte_has_its_token_and_halves_of_characters_stay_apart() -> None:
    tokenizer = small_tokenizer()
    ids = tokenizer.encode("🙂")
    assert b"".join(map(tokenizer.token_bytes, ids)) == "🙂".encode()
    assert tokenizer.decode(ids[:1]) == "\ufffd"


def test_rows_without_a_token_decode_to_nothing() -> None:
    tokenizer = from_json(small_tokenizer_json(), name="padded", vocab_size=10_000)
    assert tokenizer.info.vocab_size == 10_000
    assert tokenizer.token_bytes(9_999) == b""
    assert tokenizer.token_bytes(10_000) == b""


def _sentencepiece(scheme: str) -> Tokenizer:
    engine = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    engine.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens], show_progress=False
    )
    engine.train_from_iterator(["the quick brown fox said hello to the user"] * 9, trainer)
    definition = msgspec.json.decode(engine.to_str())
    definition["added_tokens"] = [one for one in definition["added_tokens"] if not one["content"].startswith("<0x")]
    return Tokenizer.from_str(msgspec.json.encode(definition).decode())


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_sentencepiece_text_after_a_control_token_is_encoded_as_in_a_whole_prompt(scheme: str) -> None:
    own = _sentencepiece(scheme)
    tokenizer = from_json(own.to_str().encode(), name="pieces")
    whole = own.encode("<s>user hello</s>the fox é", add_special_tokens=False).ids
    ids: list[int] = []
    for piece in tokenizer.split("<s>user hello</s>the fox é"):
        ids += [piece] if isinstance(piece, int) else tokenizer.encode_offsets(piece, opens=not ids)[0]
    assert ids == whole
    assert tokenizer.decode(tokenizer.encode("fox é")).strip() == "fox é"
    engine = Tokenizer.from_str(own.to_str())
    engine.add_tokens([AddedToken("▁▁", special=False)])
    blanks = engine.token_to_id("▁▁")
    assert from_json(engine.to_str().encode(), name="blanks").token_bytes(blanks) == b"  "
    assert tokenizer.encode("a fox") == own.encode("a fox", add_special_tokens=False).ids


def test_a_control_word_that_is_in_the_vocabulary_is_cut_apart() -> None:
    pieces = [("<unk>", 0.0), ("<s>", -0.1), ("<", -5.0), ("s", -5.0), (">", -5.0), ("a", -5.0)]
    engine = Tokenizer(models.Unigram(pieces, unk_id=0))
    engine.normalizer = normalizers.NFKC()
    engine.add_special_tokens([AddedToken("<s>", special=True)])
    tokenizer = from_json(engine.to_str().encode(), name="unigram")
    assert [tokenizer.token_bytes(one) for one in tokenizer.encode("a<s>a")] == [b"a", b"<", b"s", b">", b"a"]


def test_what_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="no tokenizer definition"):
        from_json(b"{}", name="none")
