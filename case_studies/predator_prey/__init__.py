"""Lynx and hare: what a century-old record of pelts tells about an equation, and how far ahead it can be trusted."""
