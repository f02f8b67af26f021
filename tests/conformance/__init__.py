"""What the proxy must do with bytes, as tables of cases: HTTP/1.1 by RFC 9110 and RFC 9112."""
