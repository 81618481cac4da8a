"""Texts written token by token, many side by side: what is asked for, in what order it runs, and what comes out."""
