"""Recognise units behind a value. They are a list: any other trailing word belongs to the answer.

Two different units of measure contradict each other. Counted things (apples, ways) do not.
"""

from __future__ import annotations

import re

# Spellings of one unit a line; the first one names it.
_MEASURES = """
m meter meters metre metres
cm centimeter centimeters centimetre centimetres
mm millimeter millimeters millimetre millimetres
km kilometer kilometers kilometre kilometres kms
in inch inches
ft foot feet
yd yard yards yds
mi mile miles
g gram grams gm gms
mg milligram milligrams
kg kilogram kilograms kilo kilos kgs
t ton tons tonne tonnes
oz ounce ounces
lb lbs pound pounds
L l liter liters litre litres
mL ml milliliter milliliters millilitre millilitres
gal gallon gallons
qt quart quarts
pt pint pints
cup cups
tbsp tablespoon tablespoons
tsp teaspoon teaspoons
s sec secs second seconds
min mins minute minutes
h hr hrs hour hours
day days
wk week weeks
month months
yr yrs year years
decade decades
century centuries
degree degrees deg
radian radians rad
mph
kph kmph kmh
fps
Hz hertz
N newton newtons
J joule joules
W watt watts
kW kilowatt kilowatts
V volt volts
Pa pascal pascals
K kelvin kelvins
ohm ohms
mol mole moles
cal calorie calories
acre acres
hectare hectares ha
dollar dollars USD usd bucks buck
cent cents
euro euros EUR eur
GBP gbp quid
yen JPY
rupee rupees
nickel nickels
dime dimes
penny pennies
bit bits
byte bytes
am a.m AM A.M
pm p.m PM P.M
"""
_COUNTED = frozenset(
    """
unit units point points time times way ways piece pieces item items object objects thing things
person people student students child children kid kids man men woman women boy boys girl girls adult adults friend
friends guest guests customer customers employee employees worker workers teacher teachers member members player
players passenger passengers voter voters parent parents family families team teams
apple apples orange oranges banana bananas egg eggs cookie cookies cake cakes cupcake cupcakes pie pies pizza pizzas
candy candies slice slices sandwich sandwiches fruit fruits
book books page pages word words letter letters sentence sentences pencil pencils pen pens notebook notebooks
card cards marble marbles ball balls block blocks toy toys doll dolls sticker stickers stamp stamps coin coins bill
bills ticket tickets box boxes bag bags bottle bottles can cans jar jars basket baskets pack packs packet packets
case cases crate crates car cars bike bikes bus buses truck trucks wheel wheels tree trees flower flowers rose roses
seed seeds plant plants leaf leaves animal animals dog dogs cat cats fish bird birds cow cows horse horses sheep pig
pigs chicken chickens duck ducks rabbit rabbits goat goats leg legs chair chairs table tables seat seats room rooms
house houses floor floors window windows door doors shirt shirts shoe shoes hat hats sock socks
game games goal goals vote votes lap laps trip trips step steps stair stairs class classes lesson lessons question
questions problem problems test tests song songs movie movies episode episodes photo photos picture pictures
row rows column columns side sides edge edges face faces vertex vertices diagonal diagonals corner corners angle
angles triangle triangles square squares rectangle rectangles circle circles line lines segment segments tile tiles
digit digits number numbers integer integers prime primes factor factors divisor divisors multiple multiples term
terms value values root roots solution solutions zero zeros set sets subset subsets group groups pair pairs
arrangement arrangements combination combinations permutation permutations outcome outcomes choice choices path paths
function functions polynomial polynomials sequence sequences handshake handshakes roll rolls flip flips
positive distinct different possible total real ordered whole right red blue green yellow white black
""".split()
)
_SMALL = frozenset("square sq cubic cu".split())
_NAMES: dict[str, str] = {}
for _line in _MEASURES.strip().splitlines():
    _spellings = _line.split()
    _NAMES.update(dict.fromkeys(_spellings, _spellings[0]))

_SYMBOLS = {"\\$": "dollar", "$": "dollar", "€": "euro", "£": "GBP", "¥": "yen", "\\pounds": "GBP", "\\euro": "euro"}
_CURRENCY = re.compile(r"([+-]?) ?(\\\$|\$|€|£|¥|\\pounds(?![A-Za-z])|\\euro(?![A-Za-z])) ?(?=[\d.\\({-])")
_COUNTS = re.compile(r"\\text\{ ?(?!(?:dozen|half|percent|or|and|to|over)\b)[a-z]{3,}(?: [a-z]+)* ?\}")
_POWER = r"(?:\^ ?\{?([23])\}?)?"
_TEXT = r"\\(?:text|mbox|mathrm|textrm|rm|operatorname)\{([^{}]*)\}"
_SUFFIX = re.compile(
    rf"(?:(?P<degree>\^ ?\{{ ?\\circ ?\}}|\^ ?\\circ|\\degree|°) ?(?:(?:{_TEXT}|([CF]))(?![A-Za-z]))?"
    rf"|[ ]*(?P<text>(?:{_TEXT}{_POWER})(?: ?/ ?{_TEXT}{_POWER})?)|(?<=\d)(?P<bare> ?[A-Za-z]{{2}}[A-Za-z./ ]*){_POWER}"
    rf"|(?P<money> ?(?:\\\$|€|£|¥)))$"
)


def split_unit(text: str, gold: bool = False) -> tuple[str, str]:
    """Return an answer without its unit, and the unit: "" for none, "*" for counted things.

    A word that is no unit stays, as does a single letter outside `\\text{}`: `5 m` is a product. Behind a gold
    any words in `\\text{}` count things.
    """
    currency = _CURRENCY.match(text)
    unit = ""
    if currency:
        text, unit = currency[1] + text[currency.end() :], _SYMBOLS[currency[2]]
    suffix = _SUFFIX.search(text)
    if suffix and suffix.start() > 0:
        found = _named(suffix) or ("*" if gold and _COUNTS.fullmatch(suffix["text"] or "") else "")
        if found and (not unit or found in (unit, "*")):
            return text[: suffix.start()].rstrip(), unit or found
    return text, unit


def contradict(one: str, other: str) -> bool:
    """Whether two units can't stand for the same answer."""
    return one != other and not {one, other} & {"", "*"}


def _named(suffix: re.Match[str]) -> str:
    groups = suffix.groupdict()
    if groups["degree"]:
        scale = (suffix[2] or suffix[3] or "").strip()
        return "degree" if not scale else {"C": "celsius", "F": "fahrenheit"}.get(scale, "")
    if groups["money"]:
        return _SYMBOLS[groups["money"].strip()]
    if groups["bare"]:
        return _phrase(groups["bare"], suffix[suffix.re.groups - 1] or "")
    pieces = [piece for piece in re.split(r" ?/ ?(?=\\)", groups["text"])]
    names = []
    for piece in pieces:
        inside = re.fullmatch(_TEXT + _POWER, piece)
        names.append(_phrase(inside[1], inside[2] or "") if inside else "")
    return "" if not all(names) else "/".join(names)


def _phrase(text: str, power: str) -> str:
    """Name the unit that words and an exponent spell: `square feet` and `ft^2` are both `ft^2`. "" if they don't."""
    text = re.sub(r"(?<=[a-z])\^\{?([23])\}?", r" ^\1", text.strip().rstrip("."))
    parts = re.split(r" ?/ ?| per ", text)
    names = [_plain_unit(part, power if i == len(parts) - 1 else "") for i, part in enumerate(parts)]
    if not all(names):
        return ""
    aliases = {"mi/h": "mph", "km/h": "kph", "ft/s": "fps"}
    whole = "/".join(names)
    return aliases.get(whole, "*" if set(names) == {"*"} else whole)


def _plain_unit(text: str, power: str) -> str:
    words = text.replace("sq.", "sq").replace("cu.", "cu").split()
    if words and words[-1] in ("^2", "^3"):
        power = words.pop()[1]
    if words and words[-1] in ("squared", "cubed"):
        power = "2" if words.pop() == "squared" else "3"
    if len(words) > 1 and words[0].lower() in _SMALL:
        power = "2" if words[0].lower() in ("square", "sq") else "3"
        words = words[1:]
    if not words:
        return ""
    if all(word.lower() in _COUNTED for word in words):
        return f"unit^{power}" if power and words == ["units"] else "*"
    if len(words) > 1 and words[-1] == "old":
        words = words[:-1]
    if len(words) != 1:
        return ""
    name = _NAMES.get(words[0]) or _NAMES.get(words[0].lower(), "")
    return f"{name}^{power}" if name and power else name
