"""The engine `mlx`: mlx-lm models on Apple GPUs and on CPUs."""
