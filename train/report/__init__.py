"""`report.html`: a run in one page that needs nothing but a browser.

write_report(Path("runs/quickstart"))
python -m train.report runs/quickstart [--screenshot curves.png]
"""

from train.report.page import write_report
from train.report.screenshot import write_screenshot

__all__ = ["write_report", "write_screenshot"]
