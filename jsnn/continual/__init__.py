"""Class-incremental learning: streams of tasks, methods that do not forget, and what is measured on the way."""
