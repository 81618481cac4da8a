"""How the ranks of a training share its work, its memory and what each of them has."""
