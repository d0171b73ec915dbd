"""What holds a run's process, and what it needs: the standard library alone, and nothing else of the agent."""
