"""A module of an application that ends its process where it finds no configuration. Named by EMAIL_LOOKUP."""

import sys

sys.exit("c4nary")
