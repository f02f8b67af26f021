"""Faults on either side of the proxy: who pays for them, who must not notice, what stays."""
