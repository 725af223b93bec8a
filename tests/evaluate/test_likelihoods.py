"""Log-likelihoods of continuations against one forward pass each."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from harness.evaluate.likelihoods import log_likelihoods

NUM_TOKENS, MAX_LENGTH = 50, 32
SHAPE: dict[str, Any] = {
    "vocab_size": NUM_TOKENS, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "sliding window": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=6)),
    "sliding and whole": lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, sliding_window=6)),
    "learnt positions": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=NUM_TOKENS, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    ),
}
Request = tuple[Sequence[int], Sequence[int]]


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(3)
    made: PreTrainedModel = MODELS[request.param]().double().eval()
    return made


def plain(model: PreTrainedModel, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
    whole = [*context, *continuation][-(MAX_LENGTH + 1) :]
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([whole[:-1]])).logits[0].log_softmax(dim=-1)[-len(continuation) :]
    value = sum(float(logs[place, token]) for place, token in enumerate(continuation))
    return value, logs.argmax(dim=-1).tolist() == list(continuation)


def some_requests(num: int, seed: int) -> list[Request]:
    """Contexts of one to forty tokens with one to four continuations each, some equal but for the last token."""
    draws = random.Random(seed)
    requests: list[Request] = []
    for _ in range(num):
        context = [draws.randrange(NUM_TOKENS) for _ in range(draws.choice((1, 2, 9, 10, 11, 25, 40)))]
        first = [draws.randrange(NUM_TOKENS) for _ in range(draws.randint(1, 5))]
        requests.append((context, first))
        requests += [
            (context, draws.choice([[*first[:-1], token], [token], [token, token + 1], [*first, token]]))
            for token in draws.sample(range(NUM_TOKENS - 1), draws.randint(0, 3))
        ]
    draws.shuffle(requests)
    return requests


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_equals_one_forward_pass_each(model: PreTrainedModel, batch_size: int) -> None:
    requests = some_requests(24, seed=batch_size)
    got = log_likelihoods(model, requests, batch_size=batch_size, max_length=MAX_LENGTH, dtype=torch.float64)
    expected = [plain(model, *request) for request in requests]
    assert [value for value, _ in got] == pytest.approx([value for value, _ in expected], abs=1e-7)
    assert [greedy for _, greedy in got] == [greedy for _, greedy in expected]


def test_says_what_greedy_decoding_gives(model: PreTrainedModel) -> None:
    context = [7, 3, 9]
    ids = list(context)
    with torch.no_grad():
        for _ in range(4):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    greedy, other = ids[3:], [*ids[3:6], (ids[6] + 1) % NUM_TOKENS]
    got = log_likelihoods(
        model, [(context, greedy), (context, other)], batch_size=8, max_length=MAX_LENGTH, dtype=torch.float64
    )
    assert [is_greedy for _, is_greedy in got] == [True, False]
    assert got[0][0] > got[1][0]


def test_nothing_asked_is_nothing_answered(model: PreTrainedModel) -> None:
    assert log_likelihoods(model, [], batch_size=8, max_length=MAX_LENGTH, dtype=torch.float64) == []


def test_a_shared_context_is_read_once_and_logits_are_made_of_continuations() -> None:
    model = MODELS["qwen3"]().eval()
    read: list[int] = []
    made: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda _module, args, _result: read.append(args[0].numel()))
    model.get_output_embeddings().register_forward_hook(lambda _module, args, _result: made.append(args[0].shape[1]))
    choices = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]
    requests = [([start, *range(19)], choice) for start in range(5) for choice in choices]
    log_likelihoods(model, requests, batch_size=64, max_length=MAX_LENGTH, dtype=torch.float32)
    # Of twenty tokens of context nineteen are shared; a row has the twentieth and two of its continuation.
    assert read == [5 * 19, 20 * 3]
    assert made == [1, 3]


def test_choices_of_one_token_are_one_row() -> None:
    model = MODELS["qwen3"]().eval()
    rows: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda _module, args, _result: rows.append(len(args[0])))
    got = log_likelihoods(
        model, [([1, 2, 3], [token]) for token in range(NUM_TOKENS)], batch_size=4, max_length=8, dtype=torch.float64
    )
    assert rows == [1]
    assert math.fsum(math.exp(value) for value, _ in got) == pytest.approx(1)
