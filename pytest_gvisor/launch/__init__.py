"""From a bundle to a verdict: the keeper, the child, pipes, deadlines, and what came of it."""
