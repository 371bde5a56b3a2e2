"""How the answer is found: the verbs, the method interface, the search, the driver and one file per method."""
