"""Everything fails while people are being verified, and nothing may be lost: `make chaos`."""
