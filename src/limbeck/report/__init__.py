"""The report: one HTML page that shows what a run came to, and its figures as files."""

from limbeck.report.page import build, build_diagnosed, render, render_comparison

__all__ = ["build", "build_diagnosed", "render", "render_comparison"]
