"""The package as users get it: its name, its files, what it needs, and the company it keeps."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lightning_cispo.launch import cli
from tests.conftest import ROOT
from tests.test_architecture import BESIDE, STAIR, sources

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOMS = [*STAIR, *BESIDE]
CISPO = Path(sys.executable).with_name("cispo")


def test_the_list_of_packages_is_the_tree():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    files = [path.relative_to(ROOT) for path in sources() if path.suffix == ".py"]
    folders = {".".join(["lightning_cispo", *path.parent.parts]) for path in files if path.parts[0] in ROOMS}
    assert listed == sorted(folders)
    assert not (ROOT / "__init__.py").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, clone = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("clone")
    for path in sources():  # without an earlier build, whose files would come along
        (clone / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, clone / path.relative_to(ROOT))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder)]
    subprocess.run([*build, str(clone)], check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_every_file_of_the_rooms_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    kept = {path.relative_to(ROOT).as_posix() for path in sources() if path.relative_to(ROOT).parts[0] in ROOMS}
    assert held == {f"lightning_cispo/{name}" for name in kept if not name.endswith(".png")}


def test_configurations_and_verifiers_need_no_torch(wheel, installed, tmp_path):
    """What `pip install lightning-cispo` brings, without the extra `train`."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    needed = set(re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata, re.MULTILINE))
    assert "math-verify" in needed and not needed & {"torch", "ray", "deepspeed", "transformers", "datasets"}
    without = "import sys; sys.modules.update(dict.fromkeys(['torch', 'ray', 'deepspeed', 'transformers', 'datasets']))"
    program = f"{without}; from lightning_cispo.launch.cli import main; sys.exit(main(sys.argv[1:]))"

    def cispo(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    graded = cispo("grade", r"gold=\frac12", r"response=\boxed{0.5}")
    assert graded.returncode == 0 and json.loads(graded.stdout)["correct"], graded.stderr
    described = cispo("describe", "model=minimax_m1")
    assert described.returncode == 0 and "456.09B" in described.stdout, described.stderr
    refused = cispo("train", "experiment=smoke")
    assert refused.returncode == 2
    assert re.fullmatch(
        r"error: cispo train needs the package \w+: pip install 'lightning-cispo\[train\]'\n", refused.stderr
    )


def test_the_wheel_runs_from_elsewhere(installed, tmp_path):
    program = (
        "import sys; import lightning_cispo.train as train; "
        f"assert train.__file__.startswith({str(installed)!r}), train.__file__; "
        "from lightning_cispo.launch.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "train", "experiment=smoke", "dry_run=true"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "runs/smoke, 3 steps" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "sft", "evaluate", "serve", "report", "describe", "grade", "bench"])
def test_every_command_has_help(command, tmp_path):
    done = subprocess.run([CISPO, command, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("usage: cispo ") and "=" in done.stdout, done.stderr


def test_the_table_of_commands(tmp_path):
    listed = subprocess.run([CISPO, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert listed.returncode == 0 and "  train " in listed.stdout
    wrong = subprocess.run([CISPO, "trian"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1) and "trian: must be one of train," in wrong.stderr


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("form", ["import {}\n{}\n", "from {} import x\nx\n", "import {0}.x\n{0}.x\n"])
def test_a_room_is_imported_by_one_name_only(room, form):
    ruff = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--stdin-filename", "rl/x.py", "-"]
    code = form.format(room, room)
    found = subprocess.run(ruff, input=code, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 1 and f"import lightning_cispo.{room}" in found.stdout


def test_mypy_sees_through_the_package_name(tmp_path):
    """A type error across two rooms fails; were the imports Any, it would pass."""
    planted, settings = tmp_path / "planted.py", tmp_path / "pyproject.toml"
    planted.write_text("from lightning_cispo.rewards.verdict import Verdict\nx: int = Verdict(1.0, True).error\n")
    own = re.sub(r"^packages = .*lightning_cispo.*$", "", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    settings.write_text(own.replace('mypy_path = "', f'mypy_path = "{ROOT}/'))
    mypy = [sys.executable, "-m", "mypy", f"--config-file={settings}", f"--cache-dir={tmp_path}", str(planted)]
    found = subprocess.run(mypy, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 1 and 'expression has type "str", variable has type "int"' in found.stdout, found.stdout


def test_ctrl_c_before_anything_runs_is_one_line(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_cispo.model.describe.main", interrupted)
    assert cli.main(["describe", "model=tiny"]) == 130
    assert capsys.readouterr().err == "stopped by SIGINT\n"
