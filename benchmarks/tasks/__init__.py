"""The parts of the benchmark of the tasks: its data, our runs, the references and the scorers."""
