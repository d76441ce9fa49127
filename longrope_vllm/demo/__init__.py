"""The demonstration behind ``longrope demo``: model, document, servers, and the comparison that is printed."""
