"""The training rows: made into tokens once, and cut into batches."""
