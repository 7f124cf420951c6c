"""What pre-trained methods are asked to do; one module per task, each with ``predict`` and ``measure``."""
