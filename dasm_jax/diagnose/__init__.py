"""How hard and how diverse sets are: a command, and its parts."""
