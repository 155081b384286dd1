"""What every benchmark shares: timing, processes, the machine, the result file, the table and the picture."""
