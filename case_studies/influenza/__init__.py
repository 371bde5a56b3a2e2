"""Influenza in a boarding school: what fourteen counts tell about an outbreak, and what isolation would have done."""
