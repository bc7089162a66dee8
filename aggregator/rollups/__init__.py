"""Pure maths on arrays: buckets, moments, counters and their merge."""
