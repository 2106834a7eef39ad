"""Tables of papers: suites of tasks, for several samplers, beside what was published."""
