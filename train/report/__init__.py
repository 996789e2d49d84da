"""`report.html`: a run in one page that needs nothing but a browser.

write_report(Path("runs/quickstart"))
cispo report runs/quickstart [screenshot=curves.png]
"""

from lightning_cispo.train.report.page import write_report
from lightning_cispo.train.report.screenshot import write_screenshot

__all__ = ["write_report", "write_screenshot"]
