"""From a bundle to a verdict: the keeper process, the child, pipes, deadlines, and what came of it."""
