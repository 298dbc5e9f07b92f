"""What a run will take of memory, predicted without taking it."""
