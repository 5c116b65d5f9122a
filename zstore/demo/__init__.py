"""What ``zstore demo`` runs: a training that is killed and resumed (train), its judge (story), its reader (report)."""
