"""Bad input: told in one line that names the thing, the value and what is allowed, before any work starts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import workload_fields
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.config.errors import UnknownNameError, UserError, one_line
from harness.config.expand import load_grid, presets
from harness.config.workloads import load_workload
from harness.models import load_model, load_tokenizer
from harness.models.vocabulary import Vocabulary, check_same_vocabulary
from harness.records.layout import Results
from harness.run.plan import make_plan
from harness.trial.identity import fingerprints
from harness.trial.trial import make_trials

WriteGrid = Callable[..., Path]
WriteWorkload = Callable[..., Path]
ERRORS = (UserError, UnknownNameError)


def refused(path: Path) -> str:
    with pytest.raises(ERRORS) as caught:
        load_grid(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def strategy(**changes: Any) -> dict[str, Any]:
    fields = {
        "label": "mine",
        "position": {"signal": "student_entropy", "policy": "top_k", "budget": 0.2},
        "criterion": "forward_kl",
    }
    return {**fields, **changes}


def position(**changes: Any) -> dict[str, Any]:
    fields = {"signal": "student_entropy", "policy": "top_k", "budget": 0.2, **changes}
    return strategy(position={key: value for key, value in fields.items() if value is not None})


AT_KD = {"name": "at_kd", "hard_fraction": 0.5, "easy_weight": 0.2}


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        (position(signal="studnet_entropy"), ["signal 'studnet_entropy'", "Did you mean 'student_entropy'"]),
        (position(policy="topk"), ["policy 'topk'", "Did you mean 'top_k'", "weighted"]),
        (strategy(criterion="forward_lk"), ["criterion 'forward_lk'", "Did you mean 'forward_kl'"]),
        ("sekd", ["preset 'sekd'", "Did you mean 'se_kd'"]),
        ({"preset": "sekd"}, ["preset 'sekd'", "Did you mean 'se_kd'"]),
        (strategy(criterion={**AT_KD, "hard_fration": 1}), ["'hard_fration'", "Did you mean 'hard_fraction'"]),
        (
            position(signal={"name": "ce_ratio", "epsilon": 1}),
            ["option of signal 'ce_ratio' 'epsilon'", "Known: eps"],
        ),
        (position(policy={"name": "top_k", "window": 1}), ["option of policy 'top_k' 'window'", "Known: none"]),
        (strategy(temprature=2), ["'temprature'", "Did you mean 'temperature'", "lambda"]),
        (position(bugdet=0.1), ["'position.bugdet'", "Did you mean 'budget'", "Known: budget, frozen, policy, signal"]),
    ],
)
def test_an_unknown_name_suggests_the_nearest(entry: Any, named: list[str], write_grid: WriteGrid) -> None:
    message = refused(write_grid([entry]))
    for each in named:
        assert each in message


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        (position(budget=0), ["position.budget", "greater than 0", "it is 0"]),
        (position(budget=1.5), ["position.budget", "less than or equal to 1", "it is 1.5"]),
        (position(budget="abc"), ["position.budget", "number", "'abc'"]),
        (position(budget=float("nan")), ["position.budget", "nan"]),
        (position(budget=-0.2), ["position.budget", "greater than 0", "-0.2"]),
        (strategy(temperature=0), ["temperature", "greater than 0", "it is 0"]),
        (strategy(temperature=float("inf")), ["temperature", "finite", "inf"]),
        (strategy(**{"lambda": 1.1}), ["lambda", "less than or equal to 1", "1.1"]),
        (strategy(normaliser="mean"), ["normaliser", "'sequence_mean'", "'mean'"]),
        (strategy(flow="sparse"), ["flow", "'chunked' or 'dense'", "'sparse'"]),
        (strategy(teacher="none"), ["teacher", "'cached', 'online', 'sampled' or 'topk'", "'none'"]),
        (strategy(position="top_k"), ["position", "'top_k'"]),
        (position(signal=None), ["policy 'top_k'", "position.signal must name a signal"]),
        (position(policy="random"), ["policy 'random' reads no scores", "'student_entropy'"]),
        (position(policy="all", signal=None), ["policy 'all' has no budget", "0.2"]),
        (position(budget=None), ["policy 'top_k' needs position.budget", "(0, 1]"]),
        (strategy(criterion={"name": "at_kd", "easy_weight": 0.2}), ["'at_kd' needs the option 'hard_fraction'"]),
        (strategy(criterion={**AT_KD, "hard_fraction": "abc"}), ["hard_fraction", "abc"]),
        (strategy(criterion={**AT_KD, "hard_fraction": True}), ["hard_fraction", "True"]),
        (position(signal={"name": "ce_ratio", "eps": "small"}), ["eps", "small"]),
        (strategy(criterion=None), ["both position and criterion"]),
        (strategy(train=False), ["train is false", "leave them out"]),
        (strategy(classes={"name": "rs", "draws": 0}), ["class policy 'rs'", "draws must be at least 1", "0"]),
        (strategy(classes={"name": "rs", "draws": 8}, temperature=2.0), ["'rs'", "unbiased", "temperature is 2"]),
        (strategy(classes={"name": "rs", "draws": 8}, criterion="reverse_kl"), ["'rs'", "forward_kl", "'reverse_kl'"]),
        (strategy(classes="top_q"), ["unknown class policy 'top_q'", "Did you mean 'top_p'"]),
        (strategy(model="teacher"), ["only the student can be trained"]),
        (strategy(model="techer"), ["model", "'student' or 'teacher'", "'techer'"]),
        (strategy(sweep={"position.budget": 0.1}), ["sweep", "list of values"]),
        (strategy(sweep={"criterion.beta": [1]}), ["criterion.beta", "'criterion'", "not a mapping"]),
        (strategy(sweep={1: [1]}), ["sweep", "path"]),
        (strategy(label="{budgets}"), ["{budgets}", "{budget}"]),
        (strategy(label="{signal.real.part}"), ["{signal.real.part}", "{budget}"]),
        (strategy(label="{signal[x]}"), ["{signal[x]}", "{budget}"]),
        ({"preset": ["se_kd"]}, ["preset", "se_kd"]),
        ({"preset": {"name": "se_kd"}}, ["preset", "se_kd"]),
        (3, ["strategies[1]", "3"]),
        (None, ["strategies[1]", "None"]),
    ],
)
def test_a_wrong_strategy_is_named(entry: Any, named: list[str], write_grid: WriteGrid) -> None:
    message = refused(write_grid([entry]))
    for each in named:
        assert each in message


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"strategies": []}, ["strategies is empty"]),
        ({"strategies": "full_kd"}, ["strategies is empty"]),
        ({"strategies": ["full_kd", "full_kd"]}, ["label 'Full KD'", "label of its own"]),
        ({"strategies": ["full_kd"], "baseline": "SFT"}, ["baseline 'SFT'", "Full KD"]),
        ({"strategies": ["full_kd"], "splitt": "test"}, ["'splitt'", "Did you mean 'split'"]),
        ({"strategies": ["full_kd"], "split": "train"}, ["split", "'validation' or 'test'", "'train'"]),
        ({"strategies": ["full_kd"], "seeds": ["one"]}, ["seeds.0", "integer", "'one'"]),
        ({"strategies": ["full_kd"], "seeds": 1}, ["seeds", "it is 1"]),
        ({"strategies": ["full_kd"], "seeds": []}, ["seeds"]),
        ({"strategies": ["full_kd"], "workload": None}, ["workload", "None"]),
        ({"strategies": ["full_kd"], "name": "../up"}, ["name", "'../up'"]),
    ],
)
def test_a_wrong_grid_is_named(fields: dict[str, Any], named: list[str], write_grid: WriteGrid) -> None:
    message = refused(write_grid(**fields))
    assert "question.yaml" in message
    for each in named:
        assert each in message


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"workload: tiny\nstrategies: [full_kd\nsplit: test\n", ["line 3, column 6"]),
        (b"workload: tiny\n\tsplit: test\n", ["line 2, column 1"]),
        (b"workload: tiny\nworkload: tiny\n", ["line 2, column 1", "'workload' is written twice"]),
        (b"strategies:\n  - preset: se_kd\n    preset: full_kd\n", ["line 3, column 5", "'preset' is written twice"]),
        (b"- full_kd\n", ["mapping", "list"]),
        (b"", ["mapping", "nothing"]),
        (b"1: 2\n", ["mapping"]),
        (b"name: \xff\xfe\n", ["not UTF-8", "0xff", "offset 6"]),
        (b"strategies: !!python/object:os.system {}\n", ["line 1", "python/object"]),
        (b"name: 2024-13-45\nstrategies: [full_kd]\n", ["line 1, column 7"]),
        (b"seeds: !!int x\n", ["line 1"]),
        (b"seeds: !!bool x\n", ["line 1"]),
        (b"seeds: " + b"1" * 5000 + b"\n", ["line 1"]),
        (b"a: *nowhere\n", ["line 1, column 4", "nowhere"]),
        (b"a: \x00\n", ["is not YAML"]),
    ],
)
def test_a_file_that_is_no_yaml_is_refused_with_the_place(text: bytes, named: list[str], tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(text)
    with pytest.raises(UserError) as caught:
        load_grid(path)
    assert "broken.yaml" in str(caught.value)
    for each in named:
        assert each in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file: .*nothing\.yaml"):
        load_grid(tmp_path / "nothing.yaml")
    with pytest.raises(UserError, match="is a folder, a file is needed"):
        load_grid(tmp_path)


# ---- workloads


def test_an_unknown_workload_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown workload 'tinny'\. Did you mean 'tiny'\?"):
        load_workload("tinny")
    with pytest.raises(UserError, match=r"no such file: nowhere\.yaml"):
        load_workload("nowhere.yaml")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data__sequence_length": 1}, ["data.sequence_length", "greater than or equal to 2", "it is 1"]),
        ({"data__train_tokens": 0}, ["data.train_tokens", "it is 0"]),
        ({"data__generator": "tiny"}, ["exactly one of generator and dataset"]),
        ({"data__data_files": {"dev": "x"}}, ["data.data_files", "'train', 'validation' or 'test'"]),
        ({"data__sequence_lenght": 8}, ["data.sequence_lenght", "Did you mean 'sequence_length'"]),
        ({"optimisation__micro_batch_size": 3}, ["batch_size 4 is not a multiple of micro_batch_size 3"]),
        ({"optimisation__schedule": "step"}, ["optimisation.schedule", "'cosine'", "'step'"]),
        ({"optimisation__learning_rate": 0}, ["optimisation.learning_rate", "greater than 0"]),
        ({"optimisation__warmup": 1.0}, ["optimisation.warmup", "less than 1"]),
        ({"optimisation__betas": [0.9]}, ["optimisation.betas"]),
        ({"resources__dtype": "float16"}, ["resources.dtype", "'bfloat16'", "'float16'"]),
        ({"resources__arithmetic": "fast"}, ["resources.arithmetic", "'compatible'", "'fast'"]),
        ({"student": None}, ["student"]),
        ({"seeds": ["a"]}, ["seeds.0", "'a'"]),
        ({"surprise": 1}, ["'surprise'", "Known: data, evaluation"]),
    ],
)
def test_a_wrong_workload_is_named(changes: dict[str, Any], named: list[str], write_workload: WriteWorkload) -> None:
    with pytest.raises(UserError) as caught:
        load_workload(str(write_workload(**changes)))
    assert "variant.yaml" in str(caught.value)
    for each in named:
        assert each in str(caught.value)


def test_a_workload_may_change_another_one() -> None:
    whole, short = load_workload("qwen3_fineweb"), load_workload("qwen3_fineweb_10m")
    assert short.data.train_tokens == 10_000_000
    data = whole.data.model_copy(update={"train_tokens": short.data.train_tokens})
    assert short == whole.model_copy(update={"name": "qwen3_fineweb_10m", "data": data})


@pytest.mark.parametrize("base", ["absent.yaml", "../variant.yaml", "other.yaml", "", 3, None, ["variant.yaml"]])
def test_a_base_is_another_file_of_the_same_folder(base: object, tmp_path: Path, write_workload: WriteWorkload) -> None:
    write_workload()
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"base": base, "seeds": [7]}))
    with pytest.raises(UserError, match=r"other\.yaml: base is .*; it takes the name of another workload's file"):
        load_workload(str(tmp_path / "other.yaml"))
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"base": "variant.yaml", "seeds": [7]}))
    assert load_workload(str(tmp_path / "other.yaml")).seeds == (7,)
    (tmp_path / "third.yaml").write_text(yaml.safe_dump({"base": "other.yaml"}))
    with pytest.raises(UserError, match=r"third\.yaml: base is 'other\.yaml', which has a base itself"):
        load_workload(str(tmp_path / "third.yaml"))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    fields = workload_fields()
    del fields["optimisation"]["warmup"]
    (tmp_path / "w.yaml").write_text(yaml.safe_dump(fields))
    with pytest.raises(UserError, match=r"the key 'optimisation\.warmup' is missing"):
        load_workload(str(tmp_path / "w.yaml"))


@pytest.mark.parametrize("name", ["full_kd", "at_kd", "teacher", "se_kd"])
def test_reading_a_teacher_that_is_not_there_is_refused(
    name: str, write_workload: WriteWorkload, write_grid: WriteGrid
) -> None:
    workload = load_workload(str(write_workload(teacher=None)))
    with pytest.raises(UserError, match=r"reads the teacher, and workload 'variant' has none") as caught:
        make_trials(load_grid(write_grid([name])), workload, {})
    assert repr(presets()[name].label) in str(caught.value)


def test_a_signal_that_reads_a_teacher_that_is_not_there_is_refused(
    write_workload: WriteWorkload, write_grid: WriteGrid
) -> None:
    workload = load_workload(str(write_workload(teacher=None)))
    entry = strategy(position={"signal": "kl", "policy": "top_k", "budget": 0.2}, criterion="cross_entropy")
    with pytest.raises(UserError, match="strategy 'mine': signal 'kl' reads the teacher"):
        make_trials(load_grid(write_grid([entry])), workload, {})
    without = strategy(criterion="cross_entropy")
    assert make_trials(load_grid(write_grid([without])), workload, {})


def test_a_strategy_that_weighs_the_teacher_zero_needs_none(
    write_workload: WriteWorkload, write_grid: WriteGrid
) -> None:
    workload = load_workload(str(write_workload(teacher=None)))
    assert make_trials(load_grid(write_grid([strategy(**{"lambda": 0})])), workload, {})


def _copy_model(checkpoints: Path, name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints / name, tmp_path / name))


def _swap_ids(folder: Path) -> None:
    path = folder / "tokenizer.json"
    payload = json.loads(path.read_text(encoding="utf-8"))
    vocab = payload["model"]["vocab"]
    first, second = sorted(vocab, key=vocab.get)[10:12]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    path.write_text(json.dumps(payload), encoding="utf-8")


def test_tokenizers_of_one_size_that_differ_are_refused(
    checkpoints: Path, tmp_path: Path, write_workload: WriteWorkload
) -> None:
    folder = _copy_model(checkpoints, "teacher", tmp_path)
    _swap_ids(folder)
    workload = load_workload(str(write_workload(teacher={"path": str(folder)})))
    assert workload.teacher is not None
    theirs, ours = (load_tokenizer(source, tmp_path) for source in (workload.teacher, workload.student))
    assert len(theirs) == len(ours)
    with pytest.raises(UserError, match=r"tokenizers differ.* has id (10|11) for the teacher and (11|10) for the stud"):
        fingerprints(workload)
    check_same_vocabulary(Vocabulary.of(ours), Vocabulary.of(ours))


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_a_sequence_longer_than_a_models_context_is_refused(
    model: str, checkpoints: Path, tmp_path: Path, write_workload: WriteWorkload
) -> None:
    folder = _copy_model(checkpoints, model, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 16}))
    with pytest.raises(UserError, match=rf"sequence_length 32 is more than the {model}'s context of 16 tokens"):
        fingerprints(load_workload(str(write_workload(**{model: {"path": str(folder)}}))))


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_a_model_folder_that_holds_none_is_refused(
    model: str, checkpoints: Path, tmp_path: Path, write_workload: WriteWorkload
) -> None:
    empty = tmp_path / "empty"
    with pytest.raises(UserError, match=r"no model folder at .*empty"):
        fingerprints(load_workload(str(write_workload(**{model: {"path": str(empty)}}))))
    empty.mkdir()
    with pytest.raises(UserError, match=r"empty holds no model: config\.json is missing"):
        fingerprints(load_workload(str(write_workload(**{model: {"path": str(empty)}}))))
    bare = _copy_model(checkpoints, model, tmp_path)
    for path in bare.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UserError, match=f"{bare.name} holds no .*tokenizer"):
        fingerprints(load_workload(str(write_workload(**{model: {"path": str(bare)}}))))


def test_a_revision_of_a_folder_is_refused(checkpoints: Path, write_workload: WriteWorkload) -> None:
    source = {"path": str(checkpoints / "student"), "revision": "main"}
    with pytest.raises(UserError, match="revision 'main' would do nothing"):
        fingerprints(load_workload(str(write_workload(student=source))))


def test_broken_weights_are_refused(checkpoints: Path, tmp_path: Path, write_workload: WriteWorkload) -> None:
    import torch

    folder = _copy_model(checkpoints, "student", tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    workload = load_workload(str(write_workload(student={"path": str(folder)})))
    with pytest.raises(UserError, match=r"student' cannot be loaded"):
        load_model(workload.student, workload.folder, dtype=torch.float32)


def test_a_missing_data_file_is_refused(write_workload: WriteWorkload) -> None:
    files = {"train": "nowhere.jsonl", "validation": "v.jsonl", "test": "t.jsonl"}
    with pytest.raises(UserError, match=r"data\.data_files\.train: no such file: .*nowhere\.jsonl"):
        fingerprints(load_workload(str(write_workload(data__data_files=files))))


def test_too_few_tokens_for_one_batch_are_refused(write_workload: WriteWorkload, write_grid: WriteGrid) -> None:
    path = write_workload(data__train_tokens=96)
    with pytest.raises(UserError, match="workload 'variant': 3 sequences do not fill one batch of 4"):
        make_plan(write_grid(["full_kd"], workload=str(path)), Results(path.parent / "results"))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"name": "top_k_tail", "num": 98}, "class policy 'top_k_tail' cannot keep 98 of 97 classes"),
        ({"name": "rs", "draws": 8, "proposal": -1.0}, "class policy 'rs' fails on a trial input: .*proposal must be"),
    ],
)
def test_classes_that_cannot_be_kept_are_refused_before_anything_runs(
    classes: dict[str, Any], message: str, workload_file: Path, write_grid: WriteGrid, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        make_plan(write_grid([strategy(classes=classes)], workload=str(workload_file)), Results(tmp_path / "results"))


# ---- anything at all

_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=8),
    st.sampled_from(["se_kd", "top_k", "all", "kl", "forward_kl", "at_kd", "{signal", "{signal.x}", "teacher",
                     "rs", "top_p", "top_k_tail", "{classes}"]),
)  # fmt: skip
_KEYS = st.sampled_from(
    ["preset", "label", "position", "signal", "policy", "budget", "criterion", "name", "options", "sweep", "lambda",
     "position.budget", "position.signal", "temperature", "train", "model", "strategies", "seeds", "split", "baseline",
     "hypothesis", "workload", "hard_fraction", "eps", "classes", "draws", "num", "mass"]
)  # fmt: skip
_TREES = st.recursive(
    _VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.one_of(_KEYS, _VALUES), inner, max_size=4),
    max_leaves=12,
)


def _loads_or_is_refused(path: Path) -> None:
    try:
        load_grid(path)
    except ERRORS:
        return


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(entry=_TREES, fields=st.dictionaries(_KEYS, _TREES, max_size=2), place=st.integers(0, 3))
def test_no_grid_makes_another_error(
    entry: Any, fields: dict[str, Any], place: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    good: dict[str, Any] = position()
    mutated = {**good, **fields} if place else entry
    if place == 2 and isinstance(entry, dict):
        mutated = {**good, "position": {**good["position"], **entry}}
    if place == 3:
        mutated = {**good, "sweep": entry}
    payload = {"workload": "tiny", "split": "test", "strategies": [mutated], **(fields if place == 0 else {})}
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    try:
        path.write_text(yaml.safe_dump(payload, allow_unicode=True), encoding="utf-8")
    except UnicodeEncodeError:
        return
    _loads_or_is_refused(path)


_TEXT = (Path(__file__).parents[2] / "grids" / "position_axis.yaml").read_text(encoding="utf-8")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    edits=st.lists(
        st.tuples(
            st.integers(0, len(_TEXT) - 1),
            st.integers(0, 6),
            st.one_of(
                st.text(max_size=3),
                st.sampled_from(
                    ["[", "{", "}", ":", "- ", "\n", "\n  ", "*a", "&a ", "!!int ", "!!bool ", "!!timestamp ", "!!set ",
                     "<<: ", "? ", "|", ">", "'", '"', "%", "2024-99-01", "0x", "1e999", "\t", "null"]
                ),
            ),
        ),
        min_size=1,
        max_size=4,
    )
)  # fmt: skip
def test_no_edit_of_a_grid_file_makes_another_error(
    edits: list[tuple[int, int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = _TEXT
    for place, length, inserted in edits:
        text = text[:place] + inserted + text[place + length :]
    path = tmp_path_factory.getbasetemp() / "edited.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    _loads_or_is_refused(path)


def test_what_is_told_of_bad_input_stays_on_its_line() -> None:
    assert one_line("no key 'a\r\x1b[2Jb\n' in größe.yaml") == r"no key 'a\r\x1b[2Jb\n' in größe.yaml"


def test_steps_that_bfloat16_would_round_away_are_refused_unless_asked_for(write_workload: WriteWorkload) -> None:
    def load(**changes: Any) -> None:
        load_workload(str(write_workload(resources__dtype="bfloat16", **changes)))

    with pytest.raises(UserError, match=r"learning_rate 1e-05 is below 3\.1e-05.*master_weights to true"):
        load(optimisation__learning_rate=1e-5)
    load(optimisation__learning_rate=1e-5, optimisation__master_weights=True)
    load(optimisation__learning_rate=1e-5, optimisation__master_weights=False)
    load(optimisation__learning_rate=4e-5)
    weights = torch.empty(100_000).normal_(std=0.02, generator=torch.Generator().manual_seed(0)).bfloat16()
    lost = [float((weights - step == weights).float().mean()) for step in (1e-5, 2.9e-5, 6e-5)]
    assert lost[0] > 0.75
    assert lost[1] > 0.45 > lost[2]
