"""Which block of a response is the code."""

from __future__ import annotations

import time

import pytest

from lightning_cispo.rewards import code

DOCSTRING = 'def f(x):\n    """Doubles.\n\n    ```\n    >>> f(1)\n    ```\n    """\n    return 2 * x\n'
AT_MARGIN = 'USAGE = """\n```\nf(1)\n```\n```python\nf(2)\n```\n"""\n\ndef f(x): return 2 * x\n'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```python\na\n```", "a\n"),
        ("x\n```\na\n```\ny\n```py\nb\n```\nz", "b\n"),
        ("<think>```\na\n```</think>b", "b"),
        ("<think>```\na\n```</think>", None),
        ("<think>a", None),
        ("```python\na", "a"),
        ("a = 1", "a = 1"),
        ("", None),
        ("```\n```", None),
        # other languages before it
        ("```c++\nint a;\n```\nthen\n```python\na\n```", "a\n"),
        ("```c#\nint a;\n```\n```python\na\n```", "a\n"),
        ("```plain text\nb\n```\n```python\na\n```", "a\n"),
        ("```objective-c\nb\n```\n```python\na\n```", "a\n"),
        ('```js title="a b.js"\nb\n```\n```python\na\n```', "a\n"),
        # and after it
        ("```python\na\n```\n```output\n4\n```", "a\n"),
        ("```python\na\n```\n```bash\npython a.py\n```", "a\n"),
        ("```python\na\n```\n```text\n4\n```", "a\n"),
        ("```python\na\n```\n```console\n$ a\n```\n```json\n{}\n```", "a\n"),
        ("```python\na\n```\nOutput:\n```\n4\n```", "a\n"),
        ("```python\na\n```\n```python-repl\n>>> a\n```\n```pycon\n>>> a\n```", "a\n"),
        ("```python\na\n```\n```pyramid\nb\n```", "a\n"),
        ("```\na\n```\n```text\n4\n```", "a\n"),
        ("```python\na\n```\n```python\nb\n```", "b\n"),
        ("```python\na\n```\n```python\n```", "a\n"),
        # only others
        ("```cpp\nint a;\n```", "int a;\n"),
        ("````markdown\n# So\n```python\na\n```\n````", "a\n"),
        # how Python is called
        ('```python title="a.py"\na\n```', "a\n"),
        ("```python3.11\na\n```", "a\n"),
        ("```Python3\na\n```", "a\n"),
        ("```py3\na\n```", "a\n"),
        ("```python:solution.py\na\n```\n```text\nb\n```", "a\n"),
        ("```python,linenos\na\n```\n```text\nb\n```", "a\n"),
        ("```{.python}\na\n```\n```text\nb\n```", "a\n"),
        ("``` { .python .numberLines }\na\n```\n```text\nb\n```", "a\n"),
        ("```{python}\na\n```\n```text\nb\n```", "a\n"),
        ("```ipython\na\n```\n```text\nb\n```", "a\n"),
        ("```  python  \na\n```  ", "a\n"),
        # other fences
        ("~~~\na\n~~~", "a\n"),
        ("~~~python\na\n```\nb\n~~~", "a\n```\nb\n"),
        ("````python\na\n````", "a\n"),
        ("````python\na\n```\nb\n````", "a\n```\nb\n"),
        ("```python\na\n`````", "a\n"),
        ("```x```\n```python\na\n```", "a\n"),
        # line ends, lists
        ("```python\r\na\r\n\r\nb\r\n```\r\n", "a\n\nb\n"),
        ("1. So:\n   ```python\n   if a:\n       b\n   ```\n2. End", "if a:\n    b\n"),
        ("- So:\n\n    ```python\n    a\n\n    b\n    ```", "a\n\nb\n"),
        ("\t```python\n\tif a:\n\t\tb\n\t```", "if a:\n\tb\n"),
        ("* ```python\n  a\n  ```", "a\n"),
        ("```python\n    return a\n```", "    return a\n"),
        ("- ```python\n      return a\n  ```", "    return a\n"),
        ("  ```python\n  if a:\n      b\n  ```", "if a:\n    b\n"),
        ("Here it is: ```python\na\n```", "a\n"),
        # fences inside
        (f"```python\n{DOCSTRING}```\n```text\n2\n```", DOCSTRING),
        (f"```python\n{AT_MARGIN}```", AT_MARGIN),
        (f"```python\n{AT_MARGIN.replace(chr(34), chr(39))}```", AT_MARGIN.replace(chr(34), chr(39))),
        ("```python\nx = 'it\\'s'  # don't '''\n```\n```text\nb\n```", "x = 'it\\'s'  # don't '''\n"),
        ('```python\nx = "\'\'\'"\n```\n```text\nb\n```', 'x = "\'\'\'"\n'),
        ("```python\na\n```python\nb\n```", "b\n"),
        ("```python\na\n\n```text\nb\n```", "a\n\n"),
    ],
)  # fmt: skip
def test_extract(text: str, found: str | None) -> None:
    assert code.extract(text) == found


@pytest.mark.parametrize(
    "piece", ["```\n", "```python\n", "'''\n", '"""\\', "`", "~~~", "    ", "\\'", "````md\n", "\r\n"]
)
def test_it_takes_linear_time(piece: str) -> None:
    began = time.process_time()
    code.extract(piece * (400_000 // len(piece)))
    code.extract("```python\n" + piece * (400_000 // len(piece)))
    assert time.process_time() - began < 60  # quadratic time would be hours
