"""What stands behind the Writer: the door, blocks of rows, background encoding, sealing and the key index's runs."""
