"""The parts of a decision: each looks at one thing and says how many replicas it asks for."""
