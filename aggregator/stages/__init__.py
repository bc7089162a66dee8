"""The stages collect, rollup, summarize and maintain; they meet only in the database."""
