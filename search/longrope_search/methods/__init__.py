"""How factors are found: engines behind one protocol, and where all of them begin."""
