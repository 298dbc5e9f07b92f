"""What panels share: controls, formatting, and the threads and processes they wait for."""
