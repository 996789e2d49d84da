"""The verifiers can be installed by themselves."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile

from tests.conftest import ROOT


def test_the_wheel_of_the_verifiers_is_whole_and_needs_no_torch(tmp_path):
    source = tmp_path / "rewards"
    shutil.copytree(ROOT / "rewards", source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    modules = {path.relative_to(installed).as_posix() for path in installed.glob("rewards/**/*.py")}
    assert modules == {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "rewards").rglob("*.py") if "build" not in path.parts
    }
    needed = set(re.findall(r"^Requires-Dist: ([\w-]+)", metadata, re.MULTILINE))
    assert "math-verify" in needed and not needed & {"torch", "ray", "deepspeed", "transformers"}
    grade = f"""if __name__ == "__main__":
    import sys
    sys.path.insert(0, {str(installed)!r})
    import rewards.__main__
    assert rewards.__file__.startswith({str(installed)!r}), rewards.__file__
    code = rewards.__main__.main(["grade", "--gold", r"\\frac12", "--response", r"\\boxed{{0.5}}"])
    assert "torch" not in sys.modules
    sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", grade], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
