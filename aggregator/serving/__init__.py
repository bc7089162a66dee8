"""What others read over HTTP: the exporter of a node, the web of the installation."""
