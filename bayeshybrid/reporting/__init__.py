"""The story of a fit and its forecast on one page that needs nothing beside it."""

from bayeshybrid.reporting.page import report

__all__ = ["report"]
