"""An open-loop HTTP load tester: requests leave when they are due, whoever has answered by then."""
