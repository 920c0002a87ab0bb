# Login shells begin with the PATH of /etc/profile, not with the image's. Ray's launcher runs all its commands in one, and
# KubeRay, by its version, its own.
PATH="/opt/prichexy/bin:$PATH"
