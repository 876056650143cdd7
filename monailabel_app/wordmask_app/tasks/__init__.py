"""What MONAI Label knows as tasks: inference, training, scoring, and strategies that choose the next case."""
