"""What an evaluation found: estimates with their intervals, tables, figures, and the page that shows them."""

from longrope_vllm.evaluation.report.page import About, markdown, write_report
from longrope_vllm.evaluation.report.rendering import Document

__all__ = ["NEEDED", "About", "Document", "markdown", "write_report"]

NEEDED = ("jinja2", "scipy.special")
"""Modules of the extra ``eval`` without which no page is written: missed before a run and not after hours of it."""
