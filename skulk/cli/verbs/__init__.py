"""One module per verb. Each has the function that typer calls and `EXAMPLES`, runnable lines for its help."""
