"""The meaning of every byte of a store. No module in this room does I/O."""
