"""Theophylline after one oral dose: how twelve people absorb and clear it, and what a divided dose would do."""
