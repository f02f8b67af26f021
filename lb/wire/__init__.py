"""HTTP/1.1 as bytes: heads and chunks, read strictly and written plainly. Pure; no I/O."""
