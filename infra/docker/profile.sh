# Login shells begin with the PATH of /etc/profile, not with the image's: Ray's launcher runs all its commands in one.
PATH="/opt/prichexy/bin:$PATH"
