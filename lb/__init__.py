"""The reverse proxy: the pool it balances over, the control surface around it."""
