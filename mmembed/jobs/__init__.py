"""One file a verb: its options (a dataclass) and its function, which the command line and the recipes both call."""
