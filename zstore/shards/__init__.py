"""One shard object's bytes: ``read`` opens, checks and decodes it, ``build`` makes it."""
