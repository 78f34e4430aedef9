"""Every sentence that a person reads, in their language: words, templates, and their rendering."""
