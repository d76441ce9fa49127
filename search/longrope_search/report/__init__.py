"""What a search found, or has found so far: estimates, tables, figures, and the page that shows them."""

from longrope_search.report.page import markdown, write_report

__all__ = ["markdown", "write_report"]
