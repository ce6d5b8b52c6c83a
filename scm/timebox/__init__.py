"""Time: what a run takes on this machine, measured, and the parameters with which it ends within some minutes."""
