"""The library of C kernels: where it comes from, and what happens without a compiler."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def start(**environment: str) -> subprocess.Popen:
    code = "from lightning_cispo.kernels.native.library import library; print(library() is not None)"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, text=True, **pipes)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_several_processes_may_compile_at_once(tmp_path):
    processes = [start(XDG_CACHE_HOME=str(tmp_path)) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in processes]
    assert said == [("True\n", "")] * 2
    assert [path.suffix for path in (tmp_path / "lightning-cispo").iterdir()] == [".so"]


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_without_a_compiler_one_line_says_so(compiler, tmp_path):
    out, err = start(CC=compiler, XDG_CACHE_HOME=str(tmp_path)).communicate(timeout=120)
    assert out == "False\n"
    assert err.count("\n") == 1 and err.startswith("no native CPU kernels") and compiler in err
