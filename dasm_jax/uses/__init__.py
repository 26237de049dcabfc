"""What sets are used for: a command a use, each beside random real images.

`continual` (learning classes step by step), `search` (of architectures),
`membership` (who was in the training data). What is measured, and how, is in
the docstring of each; docs/uses.md has results.
"""
