"""What batches of candidates are worth, measured by any number of workers and remembered in a study."""
