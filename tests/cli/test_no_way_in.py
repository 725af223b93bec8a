"""No way in: nothing is unpickled, no code but the project's own is run, no port is open to others, nothing is told."""

import ast
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import workload_fields

from harness.config.errors import UserError
from harness.config.expand import load_grid
from harness.config.workloads import load_workload
from harness.models import fingerprint, load_model, load_tokenizer
from harness.records.layout import Results
from harness.records.store import read_manifest, read_record

PROJECT = Path(__file__).parents[2]
SOURCES = sorted([*(PROJECT / "harness").rglob("*.py"), *(PROJECT / "strategies").rglob("*.py")])
# Calls that run what they read, by the last two parts of their name.
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load",
    "dill.loads", "joblib.load", "torch.load", "pd.read_pickle", "marshal.loads", "shelve.open", "os.system",
    "os.popen", "yaml.unsafe_load", "yaml.full_load", "jsonpickle.decode", "cloudpickle.loads",
}  # fmt: skip


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ".".join(ast.unparse(node.func).split(".")[-2:]), node


def test_no_source_runs_what_it_reads() -> None:
    for path, name, call in ((source, *each) for source in SOURCES for each in calls(source)):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        place = f"{path}:{call.lineno}: {name}"
        assert name not in FORBIDDEN, place
        assert keywords.get("shell", "False") == "False", place
        if name in ("np.load", "numpy.load"):
            assert keywords.get("allow_pickle") == "False", place
        if name == "yaml.load":
            assert keywords["Loader"] in ("_StrictLoader", "_Loader"), place  # both are SafeLoaders
        if name.startswith("Auto") and name.endswith(".from_pretrained"):
            assert "trust_remote_code" in keywords, place
        if name == "AutoModelForCausalLM.from_pretrained":
            assert keywords["use_safetensors"] == "True", place


def test_training_checkpoints_and_going_on_unpickle_nothing(
    workload_file: Path, write_grid: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.run.attempt import run_and_write
    from harness.run.options import Options
    from harness.run.plan import make_plan
    from harness.trial.checkpoint import Interval, Stopped

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was unpickled")

    trial = make_plan(write_grid(["gls_ce"], workload=str(workload_file)), Results(tmp_path / "results")).todo[0]
    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    options, asked = Options(checkpoint_every=Interval(steps=1)), iter([False, True])
    with pytest.raises(Stopped):
        run_and_write(trial, Results(tmp_path / "results"), options=options, stop=lambda: next(asked))
    record = run_and_write(trial, Results(tmp_path / "results"), options=options)
    assert record.history.resumed_at == (2,)
    suffixes = {path.suffix for path in (tmp_path / "results").rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".jsonl", ".safetensors", ".npy", ".parquet", ".lock"}


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_weights_that_would_have_to_be_unpickled_are_refused(
    checkpoints: Path, tmp_path: Path, write_workload: Callable[..., Path]
) -> None:
    import shutil

    folder = Path(shutil.copytree(checkpoints / "student", tmp_path / "student"))
    (folder / "model.safetensors").unlink()
    torch.save(Bomb(tmp_path / "went off"), folder / "pytorch_model.bin")
    workload = load_workload(str(write_workload(student={"path": str(folder)})))
    with pytest.raises(UserError, match=r"holds no weights: \*\.safetensors is missing"):
        fingerprint(workload.student, workload.folder)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(workload.student, workload.folder, dtype=torch.float32)
    assert not (tmp_path / "went off").exists()


def test_code_beside_weights_is_run_only_where_the_workload_says_so(
    checkpoints: Path, tmp_path: Path, write_workload: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = Path(shutil.copytree(checkpoints / "student", tmp_path / "student"))
    marker = tmp_path / "ran"
    (folder / "modeling_own.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "modeling_own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    source = {"path": str(folder)}
    workload = load_workload(str(write_workload(student=source)))
    assert workload.student.trust_remote_code is False
    with pytest.raises(UserError, match=r"config\.json is no model configuration"):
        load_tokenizer(workload.student, workload.folder)
    assert not marker.exists()
    trusting = load_workload(str(write_workload(student={**source, "trust_remote_code": True})))
    with pytest.raises(UserError, match="has no attribute 'Own'"):
        load_tokenizer(trusting.student, trusting.folder)
    assert marker.exists()
    assert fingerprint(workload.student, folder) != fingerprint(trusting.student, folder)


@pytest.mark.parametrize("name", ["../up", "a/b", "/etc", "", ".", "..", ".hidden", "a b", "a\x00b", "-rf"])
def test_names_that_become_paths_lead_nowhere_else(name: str, write_grid: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name"):
        load_grid(write_grid(["full_kd"], name=name))
    (tmp_path / "w.yaml").write_text(yaml.safe_dump({**workload_fields(), "name": name}))
    with pytest.raises(UserError, match="name"):
        load_workload(str(tmp_path / "w.yaml"))
    entry = {"trial_id": name, "label": "x", "seed": None}
    manifest = {"schema_version": 1, "grid": "g", "hypothesis": "", "workload": "w", "baseline": None, "split": "test",
                "command": "", "trials": [entry]}  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"not a whole manifest: trials\.0\.trial_id"):
        read_manifest(tmp_path / "manifest.json")


def test_a_sealed_record_is_refused_after_any_change(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(next((PROJECT / "reports").glob("*/records/*.json")).read_text(encoding="utf-8"), encoding="utf-8")
    assert '"checksum"' in path.read_text(encoding="utf-8")
    good = read_record(path)
    changed = path.read_text(encoding="utf-8").replace('"seed": ', '"seed": 1', 1)
    path.write_text(changed, encoding="utf-8")
    with pytest.raises(UserError, match="its checksum is wrong"):
        read_record(path)
    assert good.trial_id


_LISTENERS = """
import json, os, sys, tempfile
from pathlib import Path
import psutil
from harness.run.cluster import ray, session

with session(1, None, Path(tempfile.mkdtemp(prefix="harness-"))):
    ray.get(ray.remote(lambda: os.getpid()).remote())
    ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
    ports = [(one.name(), each) for one in ours for each in one.net_connections("inet") if each.status == "LISTEN"]
    found = [(name, port.laddr.ip) for name, port in ports]
print(json.dumps({"listening": found, "env": dict(os.environ)}))
"""


def test_ray_listens_on_the_loopback_interface_only_and_lets_in_only_us() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LISTENERS], capture_output=True, text=True, timeout=120, check=False, cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert len(said["listening"]) >= 3
    assert {address for _, address in said["listening"]} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, said["listening"]
    assert said["env"]["RAY_AUTH_MODE"] == "token"
    assert len(said["env"]["RAY_AUTH_TOKEN"]) == 64
    assert said["env"]["RAY_USAGE_STATS_ENABLED"] == "0"
    assert said["env"]["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert said["env"]["DO_NOT_TRACK"] == "1"


def test_yaml_builds_no_objects(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text("strategies: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(UserError, match="python/object"):
        load_grid(path)
    assert yaml.SafeLoader in load_grid.__globals__["read_yaml"].__globals__["_StrictLoader"].__mro__
