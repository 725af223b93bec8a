"""Streamed data sets: the same documents as ever, and packing that goes on where a kill left it."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import caches_in
from safetensors import safe_open

from harness.config import Data, ModelSource
from harness.config.errors import UserError
from harness.config.expand import presets
from harness.config.workloads import load_workload
from harness.data import packing, text
from harness.data.packing import pack
from harness.data.stream import Stream
from harness.data.text import texts
from harness.data.tokens import prepare
from harness.models import fingerprint, load_head, load_model, load_tokenizer
from harness.records.layout import Results
from harness.trial.trial import Trial

NUM = 700


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of numbered documents, one of them empty, with one split."""
    for part in range(2):
        lines = [json.dumps({"text": "" if n == 5 else f"cat {part} {n} sees the dog"}) for n in range(NUM // 2)]
        (tmp_path / f"part-{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def data_of(folder: Path, **changes: object) -> Data:
    fields = {
        "dataset": "json",
        "data_files": {"train": [str(folder / f"part-{part}.jsonl") for part in range(2)]},
        "streaming": True,
        "heldout_documents": 10,
        "sequence_length": 32,
        "train_tokens": 320,
        "heldout_tokens": 64,
        "cross_document_targets": False,
    }
    return Data.model_validate(fields | changes)


def test_a_data_set_of_one_split_gives_three(folder: Path) -> None:
    data = data_of(folder)
    found = {split: list(texts(data, folder, split)) for split in ("train", "validation", "test")}
    assert [len(each) for each in found.values()] == [NUM - 20, 10, 10]
    assert found["validation"][0] == "cat 0 0 sees the dog"
    assert found["test"][0] == "cat 0 10 sees the dog"
    assert found["train"][0] == "cat 0 20 sees the dog"
    for split, documents in found.items():
        assert list(Stream(data, folder, split)) == documents  # type: ignore[arg-type]


@pytest.mark.parametrize("read", [0, 3, 329, 330, 500])
def test_a_stream_goes_on_at_the_next_document(read: int, folder: Path) -> None:
    data = data_of(folder)
    first = Stream(data, folder, "train")
    documents = [next(first) for _ in range(read)]
    state = json.loads(json.dumps(first.state_dict()))
    rest = Stream(data, folder, "train", state)
    assert [*documents, *rest] == list(texts(data, folder, "train"))


@pytest.mark.slow
def test_packing_that_was_killed_goes_on_and_gives_the_same(folder: Path, checkpoints: Path) -> None:
    source = ModelSource(path=str(checkpoints / "student"))
    data, cache = data_of(folder, train_tokens=6400), folder / "cache"
    script = f"""
import os, signal
from pathlib import Path
from harness.config import Data, ModelSource
from harness.data import packing
from harness.data.tokens import prepare
from harness.models import load_tokenizer
from harness.records.layout import Results
packing.TOKENS_PER_SAVE, packing._DOCUMENTS_PER_CALL = 500, 16
save, saves = packing._Progress.save, []
def kill_in_between(self, stream):
    save(self, stream)
    saves.append(stream)
    if len(saves) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
packing._Progress.save = kill_in_between
tokenizer = load_tokenizer(ModelSource(path={str(checkpoints / "student")!r}), Path("."))
data = Data.model_validate_json({data.model_dump_json()!r})
prepare(data, Path({str(folder)!r}), "train", tokenizer, source_key="k", results=Results(Path({str(folder)!r})))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (scratch,) = (cache / "packing").iterdir()
    note = json.loads((scratch / "progress.json").read_text(encoding="utf-8"))
    assert 1000 < note["num_ids"] < 6400
    read: list[str] = []
    original = Stream.__next__

    def spy(self: Stream) -> str:
        read.append(original(self))
        return read[-1]

    tokenizer = load_tokenizer(source, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stream, "__next__", spy)
        resumed = prepare(data, folder, "train", tokenizer, source_key="k", results=Results(folder))
    everything = list(texts(data, folder, "train"))
    # It begins at the very document that follows, and not one is read twice.
    assert read[0] == everything[note["stream"]["documents"] - 20]
    whole = prepare(data_of(folder, train_tokens=6400, streaming=False), folder, "train", tokenizer,
                    source_key="k", results=caches_in(folder / "other"))  # fmt: skip
    assert np.array_equal(resumed.ids, whole.ids)
    assert resumed.tokens_per_byte == whole.tokens_per_byte
    assert resumed.key == whole.key
    assert not scratch.exists()


def test_what_was_kept_on_the_way_is_checked(folder: Path, tokenizer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "TOKENS_PER_SAVE", 500)
    scratch = folder / "scratch"
    with pytest.raises(UserError, match="the train split has"):
        pack(data_of(folder), folder, "train", tokenizer, num_ids=10**6, scratch=scratch)  # type: ignore[arg-type]
    content = bytearray((scratch / "ids.bin").read_bytes())
    content[8] ^= 1
    (scratch / "ids.bin").write_bytes(content)
    with pytest.raises(UserError, match="its checksum is wrong"):
        pack(data_of(folder), folder, "train", tokenizer, num_ids=99, scratch=scratch)  # type: ignore[arg-type]


def test_streaming_is_no_part_of_what_a_trial_is(folder: Path, write_workload: Callable[..., Path]) -> None:
    assert text.fingerprint(data_of(folder), folder) == text.fingerprint(data_of(folder, streaming=False), folder)
    strategy = presets()["full_kd"]
    ids = set()
    for streaming in (False, True):
        loaded = load_workload(str(write_workload(data__streaming=streaming)))
        trial = Trial(strategy=strategy, workload=loaded, seed=1, split="test", sources={}, fingerprints={})
        ids.add(trial.id)
    assert len(ids) == 1


def test_a_generator_is_not_streamed() -> None:
    with pytest.raises(ValueError, match="streaming is for a dataset"):
        Data(generator="tiny", streaming=True, sequence_length=8, train_tokens=8, heldout_tokens=8,
             cross_document_targets=False)  # fmt: skip


def test_a_folder_of_the_hubs_layout_loads_as_one_file_does(checkpoints: Path, tmp_path: Path) -> None:
    """Sharded weights with an index, as the hub has them for models of this size."""
    whole = ModelSource(path=str(checkpoints / "teacher"))
    model = load_model(whole, tmp_path, dtype=torch.float32)
    sharded = tmp_path / "Qwen3-8B"
    model.save_pretrained(sharded, max_shard_size="4KB")
    load_tokenizer(whole, tmp_path).save_pretrained(sharded)
    index = json.loads((sharded / "model.safetensors.index.json").read_text(encoding="utf-8"))
    shards = sorted(sharded.glob("model-*-of-*.safetensors"))
    assert len(shards) > 2
    assert {path.name for path in shards} == set(index["weight_map"].values())
    source = ModelSource(path="Qwen3-8B")
    again = load_model(source, tmp_path, dtype=torch.float32)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    head = load_head(source, tmp_path, 97, dtype=torch.float32)
    assert torch.equal(head.weight, load_head(whole, tmp_path, 97, dtype=torch.float32).weight)
    before = fingerprint(source, tmp_path)
    with safe_open(shards[1], framework="pt") as tensors:
        assert tensors.keys()
    content = bytearray(shards[1].read_bytes())
    content[-1] ^= 1
    shards[1].write_bytes(content)
    assert fingerprint(source, tmp_path) != before
