"""The common support of the suites: databases, servers, processes, shapes."""
