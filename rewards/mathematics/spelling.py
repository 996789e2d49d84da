"""Give short LaTeX answers one spelling: no sizes and fonts, braced arguments, ASCII signs, single blanks.

Pure string work, linear in texts that `answer.beyond_caps` has bounded.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_SIGNS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "×": r"\times ", "÷": r"\div ",
        "∞": r"\infty ", "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ",
        "φ": r"\phi ", "λ": r"\lambda ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ",
        "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ",
        "ø": r"\emptyset ", "Ø": r"\emptyset ", "≈": r"\approx ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
        "∨": r"\lor ", "∧": r"\land ", "⟨": r"\langle ", "⟩": r"\rangle ", "∠": r"\angle ", "′": "'", "º": "°",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2061": "", "％": "%", "∖": r"\setminus ",
    }
)  # fmt: skip
_SCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻₀₁₂₃₄₅₆₇₈₉ⁿ", "0123456789+-0123456789n")
_FUNCTIONS = (
    "arcsin|arccos|arctan|arccot|arcsec|arccsc|arsinh|arcosh|artanh|sinh|cosh|tanh|coth|sin|cos|tan|cot|sec|csc|log|ln|"
    "lg|exp|gcd|lcm|max|det"
)
_FONT = (
    r"\\(?:text|textbf|textit|textrm|textnormal|mbox|mathrm|mathbf|mathit|mathsf|operatorname\*?|rm|bf|bm|boldsymbol)"
)
_Spelling = tuple[re.Pattern[str], "str | Callable[[re.Match[str]], str]"]


def _superscript(match: re.Match[str]) -> str:
    return "^{" + match[0].translate(_SCRIPTS) + "}"


def _vulgar(match: re.Match[str]) -> str:
    over, _, under = unicodedata.normalize("NFKC", match[0]).partition("\u2044")
    return rf"\frac{{{over}}}{{{under}}}"


def _mixed(match: re.Match[str]) -> str:
    return match[1] + " " + match[2]


_SPELLINGS: list[_Spelling] = [
    (re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+"), _superscript),
    (re.compile(r"[₀₁₂₃₄₅₆₇₈₉]+"), lambda m: "_{" + m[0].translate(_SCRIPTS) + "}"),
    (re.compile(r"[¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]"), _vulgar),
    (re.compile(r"√ ?(\d+|[A-Za-z]\b)"), r"\\sqrt{\1}"),
    (re.compile(r"∛ ?(\d+|[A-Za-z]\b)"), r"\\sqrt[3]{\1}"),
    (re.compile(r"√"), r"\\sqrt "),
    (re.compile(r"\\(?:color|textcolor)\{[a-z]+\}"), ""),
    (re.compile(r"\\(?:left|right|displaystyle|textstyle|limits|[bB]igg?[lrm]?|mathopen|mathclose)(?![A-Za-z]) ?\.?"),
     lambda m: "" if m[0].startswith((r"\left", r"\right")) or not m[0].endswith(".") else "."),
    (re.compile(r",\\!\s*|\{,\}"), ","),
    (re.compile(r"(?<=\d)\\,(?=\d{3}(?!\d))", re.ASCII), ","),
    (re.compile(r"(?<!\\)\\!"), ""),
    (re.compile(r"(?<!\\)\\[,;:> ]|~|\\(?:q?quad|thinspace|enspace|hspace\{[^{}]*\})(?![A-Za-z])"), " "),
    (re.compile(r"\\([dtc])frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:leq|leqslant|leqq)(?![A-Za-z])"), r"\\le"),
    (re.compile(r"\\(?:geq|geqslant|geqq)(?![A-Za-z])"), r"\\ge"),
    (re.compile(r"\\neq(?![A-Za-z])|\\not ?=|!="), r"\\ne "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\lbrack(?![A-Za-z])"), "["),
    (re.compile(r"\\rbrack(?![A-Za-z])"), "]"),
    (re.compile(r"\\[lr]?vert(?![A-Za-z])"), "|"),
    (re.compile(r"\\(?:varnothing|empty)(?![A-Za-z])|\\\{ *\\\}"), r"\\emptyset "),
    (re.compile(r"\\colon(?![A-Za-z])"), ":"),
    (re.compile(r"\\(?:R|Reals|reals)(?![A-Za-z])"), r"\\mathbb{R}"),
    (re.compile(r"\\mathbb ([RZNQC])"), r"\\mathbb{\1}"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\*|\\(?:ast|cdotp|bullet)(?![A-Za-z])"), r"\\cdot "),
    (re.compile(r"\\%"), "%"),
    (re.compile(_FONT + rf" ?\{{ ?({_FUNCTIONS}) ?\}}"), r"\\\1 "),
    (re.compile(r"\\[hv]?phantom ?(?:\{[^{}]*\}|\S)"), ""),
    (re.compile(r"\\(?:mathrm|operatorname|rm|mathit) ?\{ ?pi ?\}"), r"\\pi "),
    (re.compile(r"\\(?:mathrm|operatorname|rm|mathit) ?\{ ?([eidx]) ?\}"), r"\1"),
    (re.compile(r"\\text(?:rm|normal)? ?\{ ?([ei]) ?\}(?= ?\^)"), r"\1"),
    (re.compile(r"(?<=[\d}+\-]) ?\\text(?:rm)? ?\{ ?([ei]) ?\}"), r"\1"),
    (re.compile(r"\{ ?\\(?:rm|bf) ([^{}]*)\}"), r"\\mathrm{\1}"),
    (re.compile(r"\\(?:textbf|textit|textrm|textnormal|mbox)(?= ?\{)"), r"\\text"),
    (re.compile(r",? *\\text ?\{\s*,?\s*(?:and|&)\s*\}|,? +and +|,? *\\(?:land|wedge)(?![A-Za-z])"), r" \\land "),
    (re.compile(r",? *\\text ?\{\s*,?\s*or\s*\}|,? +or +|,? *\\(?:lor|vee)(?![A-Za-z])"), r" \\lor "),
    (re.compile(r"\\(?:text|mathbf|mathrm|bm|boldsymbol|underline) ?\{ *([+-]?[\d.,/]+) *\}"), r"\1"),
    (re.compile(r"\s+"), " "),
]  # fmt: skip
_OUTSIDE: list[_Spelling] = [
    (re.compile(r"\^ ?(\d+)", re.ASCII), r"^{\1}"),
    (re.compile(r"(\\log|\\lg) ?_ ?(\d)", re.ASCII), r"\1_{\2}"),
    (re.compile(r"_ ?(\d+)", re.ASCII), r"_{\1}"),
    (re.compile(rf"(?<![A-Za-z\\])({_FUNCTIONS}|sqrt|pi|theta|infty)(?![A-Za-z])"), r"\\\1 "),
    (re.compile(r"(?<![A-Za-z\\])min(?= ?[({_])"), r"\\min"),
    (re.compile(r"(?<![\d./}^])(\d+) ?/ ?(\d+) (?=[A-Za-z\\])", re.ASCII), r"\\frac{\1}{\2} "),
    (re.compile(r"(?<![A-Za-z\\])(?:[Ii]nfinity|inf|oo)(?![A-Za-z])"), r"\\infty "),
    (re.compile(r"\\lg(?![A-Za-z])"), r"\\log_{10}"),
    (re.compile(r"\\sqrt ?\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\d.\^_}A-Za-z])(\d+)(\\frac(?![A-Za-z]))"), _mixed),
    (re.compile(r" +"), " "),
]
_TEXT = re.compile(r"(\\(?:text|mathrm|operatorname|mathbb|mathbf|mathcal|begin|end) ?\{[^{}]*\})")
_TEXT_OF_MATHEMATICS = re.compile(
    r"\\(?:text|textrm|mbox|textbf|mathrm)\{ *"
    r"([+-]?\d[^{}]*|[^{}A-Za-z]*\d[^{}A-Za-z]*|[A-Z](?:(?: *, *| and )[A-Z])+) *\}"
)
_DOLLARS = re.compile(r"^\\\((.*)\\\)$|^\\\[(.*)\\\]$", re.DOTALL)
_ARGUMENTS = re.compile(r"\\(frac|binom|sqrt)(?![A-Za-z])")
_ARGUMENT = re.compile(r" ?(?:([^\\{}\s])|(\\[A-Za-z]+))")


def squeeze(text: str) -> str:
    """Return the one spelling of an answer."""
    text = _undelimited(text.strip())
    if text.endswith(".") and not text.endswith(".."):
        text = text[:-1].strip()
    text = _undelimited(text).translate(_SIGNS)
    if whole := _TEXT_OF_MATHEMATICS.fullmatch(text):
        text = whole[1]
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    pieces = _TEXT.split(text)
    for pattern, spelling in _OUTSIDE:
        pieces[::2] = [pattern.sub(spelling, piece) for piece in pieces[::2]]
    return _braced("".join(pieces)).strip().rstrip(",").strip()


def unspaced(text: str) -> str:
    """Return a squeezed text without the blanks that mean nothing, for comparison."""
    # A blank between two digits separates two numbers; after a command it ends the command's name.
    return re.sub(r"(?<!\d) | (?!\d)", "", re.sub(r"(\\[A-Za-z]+) (?=[A-Za-z])", r"\1{}", text))


def _undelimited(text: str) -> str:
    """Drop the delimiters of mathematics; a single dollar is money."""
    if match := _DOLLARS.match(text):
        text = (match[1] if match[1] is not None else match[2]).strip()
    bare = re.sub(r"\\\$", "", text)
    if bare.count("$") >= 2:
        text = re.sub(r"(?<!\\)\$", "", text).strip()
    return text


def _braced(text: str) -> str:
    """Brace the arguments of fractions, binomials and roots: `\\frac12` becomes `\\frac{1}{2}`."""
    found, position = [], 0
    while match := _ARGUMENTS.search(text, position):
        found.append(text[position : match.end()])
        position = match.end()
        if match[1] == "sqrt" and (index := re.compile(r" ?(\[[^\[\]]*\])").match(text, position)):
            found.append(index[1])
            position = index.end()
        for _ in range(1 if match[1] == "sqrt" else 2):
            if text[position : position + 2].lstrip().startswith("{"):
                position, whole = _group(text, text.index("{", position))
            elif (single := _ARGUMENT.match(text, position)) and not _ARGUMENTS.match(single[2] or ""):
                position, whole = single.end(), "{" + (single[1] or single[2]) + "}"
            else:
                break
            found.append(whole)
    return "".join(found) + text[position:]


def _group(text: str, start: int) -> tuple[int, str]:
    """Return where the group ends that opens at `start`, and the group with its own arguments braced."""
    depth = 0
    for sign in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(sign[0], 0)
        if depth == 0:
            return sign.end(), "{" + _braced(text[start + 1 : sign.start()]) + "}"
    return len(text), text[start:]
