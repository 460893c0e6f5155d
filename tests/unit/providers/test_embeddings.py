"""Embedding models: what is listed, what is asked, what an answer means, and what goes wrong."""

import math
from array import array
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from perdure.core.errors import Invalid, NotFound, ProviderError
from perdure.providers import wordllama
from perdure.providers.configs import ProviderConfig, ProviderOptions
from perdure.providers.embeddings import Embeddings, handle_of, unit
from perdure.providers.http import Http
from perdure.providers.openai_embeddings import batches
from perdure.providers.registry import Registry
from tests.doubles.embeddings import DIM, EmbeddingDouble, vector_of

HANDLE = "openai/text-embedding-test"


@pytest.fixture
def double() -> Iterator[EmbeddingDouble]:
    made = EmbeddingDouble()
    yield made
    made.close()


async def _no_wait(_: float) -> None:
    return None


Make = Callable[..., Embeddings]


@pytest.fixture
async def make(double: EmbeddingDouble, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Embeddings over the double; without the embedded model unless asked for."""
    opened: list[Registry] = []

    def build(
        kind: str = "openai", *, embedded: bool = False, default: str | None = None, **options: Any
    ) -> Embeddings:
        if not embedded:
            monkeypatch.setattr("perdure.providers.embeddings.wordllama_info", lambda: None)
        url = double.base_url if kind != "ollama" else double.base_url.removesuffix("/v1")
        config = ProviderConfig(name=kind, kind=kind, base_url=url, api_key="k", options=ProviderOptions(**options))
        opened.append(Registry([config], http=Http(sleep=_no_wait)))
        return Embeddings(opened[-1], default=default)

    yield build
    for registry in opened:
        await registry.close()


def direction(text: str) -> list[float]:
    return pytest.approx(list(unit(vector_of(text))), abs=1e-6)  # type: ignore[return-value]


async def test_texts_are_embedded_in_order_as_unit_vectors(make: Make, double: EmbeddingDouble) -> None:
    double.shuffled = True
    embeddings = make()
    texts = [f"text number {at}" for at in range(130)]
    vectors = await embeddings.embed(HANDLE, texts)
    assert [len(batch) for batch in double.embedded] == [64, 64, 2]
    assert [list(vector) for vector in vectors] == [direction(text) for text in texts]
    assert all(math.isclose(sum(v * v for v in vector), 1, abs_tol=1e-5) for vector in vectors)
    assert embeddings.dim(HANDLE) == DIM
    assert await embeddings.embed(HANDLE, []) == []


async def test_a_provider_that_is_busy_is_asked_again(make: Make, double: EmbeddingDouble) -> None:
    double.failures.extend([(429, {"error": "slow down"}), (503, {"error": "loading"})])
    (vector,) = await make().embed(HANDLE, ["x"])
    assert len(vector) == DIM and len(double.embedded) == 3
    double.failures.append((401, {"error": {"message": "bad key"}}))
    with pytest.raises(ProviderError, match="bad key") as refused:
        await make().embed(HANDLE, ["x"])
    assert refused.value.kind == "llm_authentication"


async def test_a_text_too_long_for_the_model_is_cut_and_spares_the_others(make: Make, double: EmbeddingDouble) -> None:
    double.most_chars = 1_000
    long = "word " * 500
    vectors = await make().embed(HANDLE, ["short", long, "other"])
    assert list(vectors[0]) == direction("short") and list(vectors[2]) == direction("other")
    assert list(vectors[1]) == direction(long[:625])
    double.most_chars = 10
    with pytest.raises(ProviderError, match="maximum context length"):
        await make().embed(HANDLE, ["a" * 150])


async def test_ollama_is_asked_by_its_own_api(make: Make, double: EmbeddingDouble) -> None:
    double.models = ("nomic-embed-text:latest", "llama3:latest")
    embeddings = make("ollama")
    assert [(info.handle, info.embedding_dim) for info in await embeddings.models()] == [
        ("ollama/nomic-embed-text:latest", DIM)
    ]
    (vector,) = await embeddings.embed("ollama/nomic-embed-text", ["a dog"])
    assert list(vector) == direction("a dog")
    double.failures.append((500, {"error": "out of memory"}))
    double.down = (404, {"error": "model not found"})
    with pytest.raises(ProviderError, match="model not found"):
        await embeddings.embed("ollama/nomic-embed-text", ["x"])


async def test_the_list_is_what_providers_serve_with_what_is_known_of_it(make: Make, double: EmbeddingDouble) -> None:
    double.models = ("gpt-test", "text-embedding-3-small", "text-embedding-test")
    embeddings = make()
    assert {info.handle: info.embedding_dim for info in await embeddings.models()} == {
        "openai/text-embedding-3-small": 1536,
        HANDLE: None,
    }
    await embeddings.embed(HANDLE, ["x"])
    assert {info.embedding_dim for info in await embeddings.models()} == {1536, DIM}


@pytest.mark.parametrize(
    ("handle", "why"),
    [
        ("openai/nothing", "It has: openai/text-embedding-test"),
        ("nobody/x", "No provider named 'nobody'"),
        ("bare", "no model handle"),
        ("wordllama/l2-supercat-256", "pip install 'perdure\\[local\\]'"),
    ],
)
async def test_a_handle_nobody_serves_is_named_with_what_there_is(make: Make, handle: str, why: str) -> None:
    with pytest.raises(NotFound, match=why):
        await make().check(handle)


async def test_known_models_are_trusted_where_a_provider_does_not_list_them(make: Make) -> None:
    await make().check("openai/text-embedding-3-small")
    await make(any_model=True).check("openai/anything")


async def test_vectors_of_another_length_are_refused(make: Make, double: EmbeddingDouble) -> None:
    embeddings = make()
    await embeddings.embed(HANDLE, ["x"])
    double.dim = 32
    with pytest.raises(ProviderError, match=r"\[32\] numbers; before they had 64"):
        await embeddings.embed(HANDLE, ["x"])


@pytest.mark.parametrize("answer", [{"data": []}, {"data": "no"}, {"data": [{"embedding": [1e400]}]}])
async def test_a_broken_answer_is_an_error(make: Make, double: EmbeddingDouble, answer: Any) -> None:
    double.failures.append((200, answer))
    with pytest.raises(ProviderError):
        await make().embed(HANDLE, ["x"])


async def test_a_query_is_embedded_once(make: Make, double: EmbeddingDouble) -> None:
    embeddings = make()
    first = await embeddings.embed_query(HANDLE, "dog", timeout_s=5)
    assert await embeddings.embed_query(HANDLE, "dog", timeout_s=5) is first
    assert len(double.embedded) == 1
    with pytest.raises(ProviderError, match="did not answer within"):
        await embeddings.embed_query(HANDLE, "cat", timeout_s=0)


async def test_the_default_is_the_embedded_model_where_there_is_one(make: Make) -> None:
    assert make().default is None
    assert make(default=HANDLE).default == HANDLE
    assert make(default="none").default is None


def test_batches_are_cut_by_number_and_by_size() -> None:
    assert batches(["a", "b", "c"], 2, 100) == [["a", "b"], ["c"]]
    assert batches(["aaaa", "bb", "cc", "dddddd"], 9, 4) == [["aaaa"], ["bb", "cc"], ["dddddd"]]
    assert batches([], 2, 2) == []


def test_a_vector_is_made_one_long() -> None:
    assert list(unit([3.0, 4.0])) == pytest.approx([0.6, 0.8])
    assert unit([0.0, 0.0]) == array("f", [0, 0])
    with pytest.raises(ProviderError, match="not finite"):
        unit([float("nan")])


def test_an_older_clients_configuration_names_a_handle() -> None:
    assert handle_of("openai", "m") == "openai/m"
    with pytest.raises(Invalid, match="embedding_config"):
        handle_of("openai", None)


@pytest.mark.skipif(wordllama.wordllama_info() is None, reason="wordllama is not installed")
async def test_the_embedded_model_knows_what_words_mean(make: Make) -> None:
    embeddings = make(embedded=True)
    handle = embeddings.default
    assert handle == wordllama.HANDLE and embeddings.dim(handle) == 256
    assert (await embeddings.models())[0].handle == handle
    texts = ["my dog is ill", "the puppy is sick", "quarterly revenue grew", "", "x " * 40_000]
    dog, puppy, revenue, nothing, _ = await embeddings.embed(handle, texts)

    def cosine(a: Any, b: Any) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert cosine(dog, puppy) > 0.5 > embeddings.least_similarity(handle) > cosine(dog, revenue)
    assert not any(nothing)
    with pytest.raises(NotFound, match="the embedded one is"):
        await embeddings.check("wordllama/other")
    embeddings.close()
