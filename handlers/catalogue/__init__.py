"""Every sentence that a person reads, in their language: words, templates, and what they look like rendered."""
