"""What several suites need: databases, servers, processes, shapes."""
