"""The .avsc truth, its frozen history, and the models generated from it."""
