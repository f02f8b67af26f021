"""The parts of the simulator: the load, the queue, the machines, the readings, the scores."""
