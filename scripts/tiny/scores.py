"""Scores of a model on the embedded tasks, computed without an evaluation library while the workload is built."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from harness.data.items import items
from harness.evaluate.verifiers import check

BATCH = 50


@torch.no_grad()
def continuation_scores(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, context: str, endings: Sequence[str]
) -> list[tuple[float, bool]]:
    """Return, for each ending, its summed log-likelihood in nats and whether greedy decoding would give it."""
    prefix = tokenizer.encode(context, add_special_tokens=False)
    scores = []
    for ending in endings:
        tail = torch.tensor(tokenizer.encode(ending, add_special_tokens=False))
        ids = torch.cat([torch.tensor(prefix), tail])[None]
        logs = model(input_ids=ids).logits[0, len(prefix) - 1 : -1].log_softmax(dim=-1)
        picked = logs.gather(1, tail[:, None]).sum()
        scores.append((float(picked), bool((logs.argmax(dim=-1) == tail).all())))
    return scores


@torch.no_grad()
def greedy(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], *, max_new_tokens: int
) -> list[str]:
    """Return what the model writes after each prompt, up to the end of text."""
    tokenizer.padding_side = "left"
    texts: list[str] = []
    for start in range(0, len(prompts), BATCH):
        inputs = tokenizer(list(prompts[start : start + BATCH]), return_tensors="pt", padding=True)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        generator: Any = model
        made = generator.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1
        )
        texts += tokenizer.batch_decode(made[:, ids.shape[1] :], skip_special_tokens=True)
    return texts


def score_tasks(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, split: str, num: int) -> dict[str, float]:
    """Return the accuracy in [0, 1] of a model on the first `num` items of every task, higher is better.

    `tiny_lastword_nats` is the mean negative log-likelihood of the last word, lower is better.
    """
    model.train(False)
    right = nats = 0.0
    for item in items("tiny_completion", split, num):
        scored = continuation_scores(model, tokenizer, str(item["context"]), item["choices"])  # type: ignore[arg-type]
        right += max(range(len(scored)), key=lambda index: scored[index][0]) == item["gold"]
    scores = {"tiny_completion": right / num}
    right = 0.0
    for item in items("tiny_lastword", split, num):
        log_likelihood, is_greedy = continuation_scores(model, tokenizer, str(item["context"]), [str(item["target"])])[
            0
        ]
        right, nats = right + is_greedy, nats - log_likelihood
    scores |= {"tiny_lastword": right / num, "tiny_lastword_nats": nats / num}
    problems = items("tiny_arithmetic", split, num)
    texts = greedy(model, tokenizer, [str(item["question"]) for item in problems], max_new_tokens=24)
    pairs = zip(texts, problems, strict=True)
    scores["tiny_arithmetic"] = sum(text.partition("####")[2].strip() == item["answer"] for text, item in pairs) / num
    requests = items("tiny_instructions", split, num)
    texts = greedy(model, tokenizer, [str(item["prompt"]) for item in requests], max_new_tokens=20)
    passed = [
        check(str(item["verifier"]), text, item["arguments"])  # type: ignore[arg-type]
        for text, item in zip(texts, requests, strict=True)
    ]
    scores["tiny_instructions"] = sum(passed) / num
    return {name: round(score, 4) for name, score in scores.items()}
