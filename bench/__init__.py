"""What the bus costs and how fast it is, measured on this machine: `python -m bench`. Not shipped in the wheel."""
