#!/bin/sh
# Installs the official Stripe CLI, at the version of package-lock.json.
set -eu
cd "$(dirname "$0")"
# The CLI is a binary in a package of its own for each platform; its script would only fetch it from elsewhere.
npm ci --ignore-scripts --no-audit --no-fund --silent || { echo "npm could not install the Stripe CLI"; exit 1; }
node_modules/.bin/stripe version
