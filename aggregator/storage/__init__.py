"""The only package with SQL: tables, statements, views."""
