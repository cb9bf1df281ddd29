"""Networks by name, and the sites where a regularizer can be put."""
