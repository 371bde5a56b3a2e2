"""Complete analyses of real data, each run from the project's root: `python -m case_studies.<name>`."""
