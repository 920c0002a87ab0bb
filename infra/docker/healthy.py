"""Whether a server answers: `healthy.py URL`. The images have neither curl nor wget."""

import sys
import urllib.request

with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
    sys.exit(answer.status != 200)
