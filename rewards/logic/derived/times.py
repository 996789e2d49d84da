"""Calendars and clocks."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta

from lightning_cispo.rewards.logic.derived.errors import Unsettled

_DATE = r"(?:(\w+day), )?([A-Z][a-z]+ \d+)(?:, (\d{4}))?"
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def _day(found: re.Match[str], year: str | None = None) -> date:
    day = datetime.strptime(f"{found[2]} {found[3] or year}", "%B %d %Y").date()
    if found[1] and _DAYS[day.weekday()] != found[1]:
        raise Unsettled("the date does not fall on that weekday")
    return day


def calendar(question: str) -> str:
    if found := re.search(r"(\d+)(?: is| was)? a leap year", question):
        year = int(found[1])
        return "Yes" if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else "No"
    if found := re.search(r"(\d\d/\d\d/\d{4})", question):
        return _DAYS[datetime.strptime(found[1], "%m/%d/%Y").weekday()]
    if re.search(r"January 1 fell|January 1st|first day of the year", question):
        first = next(day for day in re.findall(r"\b\w+day\b", question) if day in _DAYS)
        *_, named = re.findall(r"[A-Z][a-z]+ \d+", question.split("(Monday")[0])
        days = {(datetime.strptime(f"{named} {year}", "%B %d %Y").timetuple().tm_yday - 1) % 7 for year in (2023, 2024)}
        if len(days) > 1:
            raise Unsettled("a leap year would differ")
        return _DAYS[(_DAYS.index(first) + days.pop()) % 7]
    return _with_dates(question)


def _with_dates(question: str) -> str:
    if found := re.search(r"(first|second|third|fourth|fifth|last) (\w+day) (?:of|in) (\w+) (\d{4})", question) or (
        re.search(r"In (?P<m>\w+) (?P<y>\d{4}), .*on the (?P<o>\w+) (?P<d>\w+day)", question)
    ):
        named = found.groupdict()
        order, day, month, year = (named[k] for k in "odmy") if named else found.groups()
        first = datetime.strptime(f"1 {month} {year}", "%d %B %Y").date()
        month_days = [first + timedelta(n) for n in range(31) if (first + timedelta(n)).month == first.month]
        fitting = [d.day for d in month_days if _DAYS[d.weekday()] == day]
        return str(fitting[-1 if order == "last" else ["first", "second", "third", "fourth", "fifth"].index(order)])
    dates = list(re.finditer(_DATE, question))
    dates = [found for found in dates if re.match(r"(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)", found[2])]
    if len(dates) == 2:
        begin, end = _day(dates[0], dates[1][3]), _day(dates[1])
        if begin > end:
            raise Unsettled("the dates are not in order")
        span = [begin + timedelta(n) for n in range((end - begin).days + 1)]
        if re.search(r"business days|excluding weekends", question):
            return str(sum(day.weekday() < 5 for day in span))
        asked = re.search(r"(?:many|of|does) (\w+day)s?\b", question)
        assert asked
        return str(sum(_DAYS[day.weekday()] == asked[1] for day in span))
    day = _day(dates[0])
    if offset := re.search(r"(\d+)(?: days|-day)", question):
        back = re.search(r"ago|before|backward", question)
        day += timedelta(-int(offset[1]) if back else int(offset[1]))
    return _DAYS[day.weekday()]


_DATES = ("%Y-%m-%d", "%B %d, %Y", "%m/%d/%Y", "%A, %B %d, %Y", "%a %b %d %Y", "%d %B %Y", "%Y-%m-%d (%A)")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " at %H:%M", ", %H:%M", " %H:%M %z", " %H:%M:%S %z", ", %H:%M %z")
_FORMATS = [*(day + clock for day in _DATES for clock in _CLOCKS), "%H:%M", "%H:%M:%S", "%H:%M:%S.%f"]


def moment(text: str) -> datetime | None:
    for form in _FORMATS:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    return None


_SPAN = re.compile(
    r"(?:between|from|started at|departed at|began at) (.+?) (?:and (?:ended|completed|arrived) at|and|to) "
    r"(.+?)(?:\?|\.) (?:[A-Z])"
)


def interval(question: str) -> str:
    """time_intervals: the library drops times of day beside a weekday in brackets, and thousandths by rounding."""
    form, halves = re.search(r"in ([DHMSm:., days]+)\.$", question.strip()), _SPAN.search(question)
    assert form and halves
    start, end = moment(halves[1]), moment(halves[2])
    if not (start and end and start <= end):
        raise Unsettled("the times are not in order")
    return told(end - start, form[1])


def told(span: timedelta, form: str) -> str:
    milliseconds = span // timedelta(milliseconds=1)
    seconds, rest = divmod(milliseconds, 1000)
    days, hours = divmod(seconds, 86400) if form.startswith("D") else (0, seconds)
    clock = f"{hours // 3600:02d}:{hours % 3600 // 60:02d}:{hours % 60:02d}"
    if form == "D days":
        return f"{days} days"
    shape = form.removeprefix("D days, ")
    clock = clock[:5] if shape == "HH:MM" else clock if shape == "HH:MM:SS" else f"{clock}.{rest:03d}"
    return f"{days} days, {clock}" if form.startswith("D") else clock
