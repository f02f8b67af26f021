"""lbctl's commands, a file for each noun. They parse and print; they decide nothing."""
