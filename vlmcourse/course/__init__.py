"""``vlmcourse course``: prepare, run the chapters headlessly, show them on one page."""

from vlmcourse.course.run import main

__all__ = ["main"]
