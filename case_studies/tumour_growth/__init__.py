"""Tumours: a drug's unknown effect inside a reaction-diffusion equation, and three laws of untreated growth."""
