"""Assets: each names its inputs, calls one plain function and reports numbers."""
