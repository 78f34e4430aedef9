#!/bin/sh
# Installs the official Stripe CLI, at the version of package-lock.json, and a browser where there is none and we may.
set -eu
cd "$(dirname "$0")"
# The CLI is a binary in a package of its own for each platform; its script would only fetch it from elsewhere.
npm ci --ignore-scripts --no-audit --no-fund --silent || { echo "npm could not install the Stripe CLI"; exit 1; }
node_modules/.bin/stripe version
command -v chromedriver && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium-driver
else
    echo "No chromedriver on PATH: the test with a browser is skipped. Debian and Ubuntu have it in chromium-driver."
fi
