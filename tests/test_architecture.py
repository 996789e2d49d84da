"""The house as DESIGN draws it: imports go down, configuration is light, nothing names a machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

STAIR = ["kernels", "model", "rl", "train", "launch"]
BESIDE = ["rewards", "configs"]
# What lies below rl/ uses of rewards/ the syntax of tool calls only: a network knows nothing of scores.
SYNTAX = "rewards.calls"


def sources() -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    return [path for room in [*STAIR, *BESIDE, "tests"] for path in (ROOT / room).rglob("*") if path.is_file()]


def imports(path: Path) -> set[str]:
    """Modules that a file imports; the house's own without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return {name.removeprefix("lightning_cispo.") for name in found}


def modules(room: str) -> list[Path]:
    return [path for path in sources() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] == room]


def allowed(room: str) -> set[str]:
    if room in BESIDE:
        return {room}
    return {*STAIR[: STAIR.index(room) + 1], *BESIDE}


@pytest.mark.parametrize("room", STAIR + BESIDE)
def test_imports_go_down_only(room):
    files = modules(room)
    assert files
    house = {*STAIR, *BESIDE, "tests"}
    for path in files:
        up = {name for name in imports(path) if name.split(".")[0] in house - allowed(room)}
        assert not up, f"{path.relative_to(ROOT)} imports {sorted(up)}"


@pytest.mark.parametrize("room", ["kernels", "model", "configs"])
def test_rooms_that_know_no_scores_import_the_syntax_of_calls_at_most(room):
    for path in modules(room):
        scores = {name for name in imports(path) if name.split(".")[0] == "rewards"}
        assert all(f"{name}.".startswith(f"{SYNTAX}.") for name in scores), f"{path.relative_to(ROOT)}: {scores}"


@pytest.mark.parametrize("room", ["configs", "rewards"])
def test_light_rooms_import_neither_torch_nor_ray(room):
    """In an interpreter of its own, where nothing else has imported them."""
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in modules(room)]
    names = [".".join(["lightning_cispo", *part]).removesuffix(".__init__") for part in parts]
    script = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(sorted({'torch', 'ray', 'deepspeed', 'transformers'} & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"


REFUSED_AND_HELP = [
    *(f"{command} --help" for command in ("train", "sft", "evaluate", "serve", "report", "describe", "grade", "bench")),
    "train --help algorithm algorithm.group_size=4",
    "train steps=abc",
    "train algorithm.grop_size=4",
    "train experiment=gsm8k data.train=nowhere.jsonl",
    "train checkpoint=nowhere",
    "train data.tokenizer=./nowhere",
    "train model.vocab_size=100",
    "train data.tasks=[{family:gcdd}]",
    "train resume=nowhere",
    "sft warm_start.steps=0",
    "evaluate checkpoint=nowhere",
    "serve",
    "serve slots=0 checkpoint=x",
    "report",
    "describe model=nothing",
    "grade",
    "bench data=nowhere",
]


def test_help_and_refusals_load_no_heavy_package():
    """Of a typing error one hears at once. In one interpreter, where nothing else has loaded them."""
    script = (
        "import sys\n"
        "from lightning_cispo.launch.cli import main\n"
        f"for line in {REFUSED_AND_HELP!r}:\n"
        "    try: code = main(line.split())\n"
        "    except SystemExit as end: code = end.code\n"
        "    assert code == (0 if '--help' in line else 2), (line, code)\n"
        "    heavy = {'torch', 'ray', 'deepspeed', 'transformers', 'datasets', 'wandb'} & sys.modules.keys()\n"
        "    assert not heavy, (line, heavy)\n"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-2000:]


def test_top_level_folders_are_the_rooms():
    tops = {path.relative_to(ROOT).parts[0] for path in sources() if len(path.relative_to(ROOT).parts) > 1}
    assert tops - {".ci", ".github", "docs"} == {*STAIR, *BESIDE, "tests"}


def test_no_file_names_a_place_of_one_machine():
    absolute = re.compile(r"(?<![\w.~/$}-])/(?:home|root|work|Users|mnt|opt|data)/\w")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sources()
        if path.suffix in (".py", ".yaml", ".toml", ".md", ".txt", "") and path.name != Path(__file__).name
        for line in path.read_text(errors="ignore").splitlines()
        if absolute.search(line)
    ]
    assert not found


def test_no_file_names_a_package_registry():
    registry = re.compile(r"pypi\.org|pythonhosted|download\.pytorch\.org|index-url|find-links")
    found = [
        str(path.relative_to(ROOT))
        for path in sources()
        if path.name != Path(__file__).name and path.suffix not in (".png",)
        if registry.search(path.read_text(errors="ignore"))
    ]
    assert not found
