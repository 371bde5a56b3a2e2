"""A climate in the small: what eight slow variables must be told of 256 fast ones that nobody resolves."""
