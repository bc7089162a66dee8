"""The tests: unit (no I/O), integration (real servers), acceptance (processes), migration."""
