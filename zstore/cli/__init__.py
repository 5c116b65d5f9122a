"""The command line: one small file per command. It sees of zstore what any user's program sees."""
