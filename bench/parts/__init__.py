"""What several benchmarks need: the proxy as a process, a backend, a strict client, figures."""
