"""The `bus` command: words in, words out, no logic."""
